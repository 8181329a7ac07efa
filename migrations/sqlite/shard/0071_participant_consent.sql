-- +goose Up
CREATE TABLE participant_consent (
    participant_id INTEGER NOT NULL,
    channel TEXT NOT NULL,
    given INTEGER NOT NULL,
    at INTEGER NOT NULL,
    PRIMARY KEY (participant_id, channel)
) WITHOUT ROWID;

-- +goose Down
DROP TABLE participant_consent;
