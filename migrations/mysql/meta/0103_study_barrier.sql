-- +goose Up
CREATE TABLE study_barrier (
    lock_id BIGINT NOT NULL,
    log_partition INT NOT NULL,
    passed_at BIGINT NOT NULL,
    PRIMARY KEY (lock_id, log_partition)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_0900_bin;

-- +goose Down
DROP TABLE study_barrier;
