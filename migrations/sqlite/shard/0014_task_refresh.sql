-- +goose Up
CREATE TABLE task_refresh (
    participant_id INTEGER NOT NULL,
    study_id INTEGER NOT NULL,
    bucket INTEGER NOT NULL,
    asked_at INTEGER NOT NULL,
    PRIMARY KEY (participant_id)
) WITHOUT ROWID;

-- +goose Down
DROP TABLE task_refresh;
