-- +goose Up
CREATE TABLE receipt (
    participant_id INTEGER NOT NULL,
    submission BLOB NOT NULL,
    id INTEGER NOT NULL,
    study_id INTEGER NOT NULL,
    task_id INTEGER NOT NULL,
    sha256 BLOB NOT NULL,
    state TEXT NOT NULL,
    received_at INTEGER NOT NULL,
    processed_at INTEGER NOT NULL,
    PRIMARY KEY (participant_id, submission)
) WITHOUT ROWID;

-- +goose Down
DROP TABLE receipt;
