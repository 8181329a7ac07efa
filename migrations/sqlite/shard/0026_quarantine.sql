-- +goose Up
CREATE TABLE quarantine (
    id INTEGER NOT NULL,
    study_id INTEGER NOT NULL,
    site_id INTEGER NOT NULL,
    participant_id INTEGER NOT NULL,
    task_id INTEGER NOT NULL,
    submission BLOB NOT NULL,
    sha256 BLOB NOT NULL,
    reason TEXT NOT NULL,
    findings BLOB NOT NULL,
    received_at INTEGER NOT NULL,
    quarantined_at INTEGER NOT NULL,
    source TEXT NOT NULL,
    sealed_key INTEGER NOT NULL,
    sealed BLOB NOT NULL,
    PRIMARY KEY (id)
);

-- +goose Down
DROP TABLE quarantine;
