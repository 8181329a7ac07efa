-- +goose Up
CREATE TABLE study_barrier (
    lock_id INTEGER NOT NULL,
    log_partition INTEGER NOT NULL,
    passed_at INTEGER NOT NULL,
    PRIMARY KEY (lock_id, log_partition)
);

-- +goose Down
DROP TABLE study_barrier;
