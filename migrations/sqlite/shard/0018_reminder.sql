-- +goose Up
CREATE TABLE reminder (
    participant_id INTEGER NOT NULL,
    task_id INTEGER NOT NULL,
    rung TEXT NOT NULL,
    channel TEXT NOT NULL,
    study_id INTEGER NOT NULL,
    decided_at INTEGER NOT NULL,
    outcome TEXT NOT NULL,
    message_id INTEGER NOT NULL,
    PRIMARY KEY (participant_id, task_id, rung, channel)
) WITHOUT ROWID;

-- +goose Down
DROP TABLE reminder;
