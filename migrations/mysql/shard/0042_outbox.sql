-- +goose Up
CREATE TABLE outbox (
    id BIGINT NOT NULL,
    topic VARCHAR(64) NOT NULL,
    kind VARCHAR(64) NOT NULL,
    study_id BIGINT NOT NULL,
    participant_id BIGINT NOT NULL,
    payload MEDIUMBLOB NOT NULL,
    trace VARCHAR(64) NOT NULL,
    created_at BIGINT NOT NULL,
    PRIMARY KEY (id)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_0900_bin;

-- +goose Down
DROP TABLE outbox;
