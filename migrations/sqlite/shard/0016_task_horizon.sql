-- +goose Up
CREATE TABLE task_horizon (
    bucket INTEGER NOT NULL,
    study_id INTEGER NOT NULL,
    plan_mark INTEGER NOT NULL,
    until_at INTEGER NOT NULL,
    PRIMARY KEY (bucket, study_id)
) WITHOUT ROWID;

-- +goose Down
DROP TABLE task_horizon;
