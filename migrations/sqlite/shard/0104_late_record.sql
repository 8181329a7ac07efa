-- +goose Up
CREATE TABLE late_record (
    participant_id INTEGER NOT NULL,
    submission BLOB NOT NULL,
    sha256 BLOB NOT NULL,
    id INTEGER NOT NULL,
    study_id INTEGER NOT NULL,
    site_id INTEGER NOT NULL,
    task_id INTEGER NOT NULL,
    received_at INTEGER NOT NULL,
    late_at INTEGER NOT NULL,
    source TEXT NOT NULL,
    sealed_key INTEGER NOT NULL,
    sealed BLOB NOT NULL,
    PRIMARY KEY (participant_id, submission, sha256)
);

-- +goose Down
DROP TABLE late_record;
