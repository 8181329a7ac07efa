-- +goose Up
CREATE TABLE task (
    participant_id INTEGER NOT NULL,
    id INTEGER NOT NULL,
    study_id INTEGER NOT NULL,
    rule TEXT NOT NULL,
    date TEXT NOT NULL,
    win INTEGER NOT NULL,
    questionnaire TEXT NOT NULL,
    schedule_version INTEGER NOT NULL,
    opens_at INTEGER NOT NULL,
    due_at INTEGER NOT NULL,
    closes_at INTEGER NOT NULL,
    zone TEXT NOT NULL,
    state TEXT NOT NULL,
    late INTEGER NOT NULL,
    submission BLOB NOT NULL,
    response_id INTEGER NOT NULL,
    completed_at INTEGER NOT NULL,
    PRIMARY KEY (participant_id, id)
) WITHOUT ROWID;

-- +goose Down
DROP TABLE task;
