-- +goose Up
CREATE TABLE task_completion (
    participant_id INTEGER NOT NULL,
    task_id INTEGER NOT NULL,
    study_id INTEGER NOT NULL,
    submission BLOB NOT NULL,
    response_id INTEGER NOT NULL,
    late INTEGER NOT NULL,
    captured_at INTEGER NOT NULL,
    received_at INTEGER NOT NULL,
    PRIMARY KEY (participant_id, task_id)
) WITHOUT ROWID;

-- +goose Down
DROP TABLE task_completion;
