-- +goose Up
CREATE TABLE task_horizon (
    bucket INT NOT NULL,
    study_id BIGINT NOT NULL,
    plan_mark BIGINT NOT NULL,
    until_at BIGINT NOT NULL,
    PRIMARY KEY (bucket, study_id)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_0900_bin;

-- +goose Down
DROP TABLE task_horizon;
