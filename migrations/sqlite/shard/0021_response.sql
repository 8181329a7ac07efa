-- +goose Up
CREATE TABLE response (
    id INTEGER NOT NULL,
    study_id INTEGER NOT NULL,
    site_id INTEGER NOT NULL,
    participant_id INTEGER NOT NULL,
    task_id INTEGER NOT NULL,
    submission BLOB NOT NULL,
    sha256 BLOB NOT NULL,
    questionnaire TEXT NOT NULL,
    version TEXT NOT NULL,
    status TEXT NOT NULL,
    authored TEXT NOT NULL,
    zone TEXT NOT NULL,
    late INTEGER NOT NULL,
    received_at INTEGER NOT NULL,
    stored_at INTEGER NOT NULL,
    source TEXT NOT NULL,
    sealed_key INTEGER NOT NULL,
    sealed BLOB NOT NULL,
    PRIMARY KEY (id)
);

-- +goose Down
DROP TABLE response;
