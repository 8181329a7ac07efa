-- +goose Up
CREATE TABLE record_version (
    participant_id INTEGER NOT NULL,
    version INTEGER NOT NULL,
    sealed BLOB NOT NULL,
    at INTEGER NOT NULL,
    staff_id INTEGER NOT NULL,
    reason TEXT NOT NULL,
    PRIMARY KEY (participant_id, version)
);

-- +goose Down
DROP TABLE record_version;
