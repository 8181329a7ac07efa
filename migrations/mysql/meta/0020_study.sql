-- +goose Up
CREATE TABLE study (
    id BIGINT NOT NULL,
    protocol VARCHAR(64) NOT NULL,
    title VARCHAR(500) NOT NULL,
    zone VARCHAR(64) NOT NULL,
    status VARCHAR(16) NOT NULL,
    languages VARCHAR(500) NOT NULL,
    participant_pin VARCHAR(16) NOT NULL,
    version BIGINT NOT NULL,
    schedule_version BIGINT NOT NULL,
    revision BIGINT NOT NULL,
    created_at BIGINT NOT NULL,
    PRIMARY KEY (id)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_0900_bin;

-- +goose Down
DROP TABLE study;
