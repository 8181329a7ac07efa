-- +goose Up
CREATE TABLE participant_account (
    participant_id INTEGER NOT NULL PRIMARY KEY,
    study_id INTEGER NOT NULL,
    activation_hash BLOB NULL UNIQUE,
    activated_at INTEGER NOT NULL,
    pin_hash TEXT NOT NULL,
    closed INTEGER NOT NULL,
    failed INTEGER NOT NULL,
    locked_until INTEGER NOT NULL
);

-- +goose Down
DROP TABLE participant_account;
