-- +goose Up
CREATE TABLE participant_session (
    id INTEGER NOT NULL PRIMARY KEY,
    account_id INTEGER NOT NULL,
    study_id INTEGER NOT NULL,
    family_hash BLOB NOT NULL,
    current_hash BLOB NOT NULL,
    created_at INTEGER NOT NULL,
    expires_at INTEGER NOT NULL
);

-- +goose Down
DROP TABLE participant_session;
