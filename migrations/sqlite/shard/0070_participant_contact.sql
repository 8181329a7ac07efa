-- +goose Up
CREATE TABLE participant_contact (
    participant_id INTEGER NOT NULL,
    sealed BLOB NOT NULL,
    version INTEGER NOT NULL,
    updated_at INTEGER NOT NULL,
    PRIMARY KEY (participant_id)
);

-- +goose Down
DROP TABLE participant_contact;
