-- +goose Up
CREATE TABLE task (
    participant_id INTEGER NOT NULL,
    id INTEGER NOT NULL,
    study_id INTEGER NOT NULL,
    bucket INTEGER NOT NULL,
    rule TEXT NOT NULL,
    date TEXT NOT NULL,
    win INTEGER NOT NULL,
    questionnaire TEXT NOT NULL,
    schedule_version INTEGER NOT NULL,
    opens_at INTEGER NOT NULL,
    due_at INTEGER NOT NULL,
    closes_at INTEGER NOT NULL,
    grace_until INTEGER NOT NULL,
    zone TEXT NOT NULL,
    state TEXT NOT NULL,
    zone_data TEXT NOT NULL,
    issued_at INTEGER NOT NULL,
    changed_at INTEGER NOT NULL,
    remind_at INTEGER NOT NULL,
    PRIMARY KEY (participant_id, id)
) WITHOUT ROWID;

-- +goose Down
DROP TABLE task;
