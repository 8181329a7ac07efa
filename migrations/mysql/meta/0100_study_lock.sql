-- +goose Up
CREATE TABLE study_lock (
    id BIGINT NOT NULL,
    study_id BIGINT NOT NULL,
    state VARCHAR(32) NOT NULL,
    step VARCHAR(32) NOT NULL,
    waiting VARCHAR(200) NOT NULL,
    step_at BIGINT NOT NULL,
    asked_by BIGINT NOT NULL,
    asked_at BIGINT NOT NULL,
    reason VARCHAR(1000) NOT NULL,
    locked_at BIGINT NOT NULL,
    report MEDIUMBLOB NULL,
    signature TEXT NOT NULL,
    unlock_by BIGINT NOT NULL,
    unlock_at BIGINT NOT NULL,
    unlock_reason VARCHAR(1000) NOT NULL,
    released_by BIGINT NOT NULL,
    released_at BIGINT NOT NULL,
    released_reason VARCHAR(1000) NOT NULL,
    PRIMARY KEY (id)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_0900_bin;

-- +goose Down
DROP TABLE study_lock;
