-- +goose Up
CREATE TABLE spool (
    id INTEGER NOT NULL,
    participant_id INTEGER NOT NULL,
    study_id INTEGER NOT NULL,
    task_id INTEGER NOT NULL,
    submission BLOB NOT NULL,
    sha256 BLOB NOT NULL,
    received_at INTEGER NOT NULL,
    source TEXT NOT NULL,
    sealed_key INTEGER NOT NULL,
    sealed BLOB NOT NULL,
    trace TEXT NOT NULL DEFAULT '',
    PRIMARY KEY (id)
);

-- +goose Down
DROP TABLE spool;
