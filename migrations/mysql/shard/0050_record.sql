-- +goose Up
CREATE TABLE record (
    participant_id BIGINT NOT NULL,
    version BIGINT NOT NULL,
    fence BIGINT NOT NULL,
    PRIMARY KEY (participant_id)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_0900_bin;

-- +goose Down
DROP TABLE record;
