-- +goose Up
CREATE TABLE participant_anchor (
    participant_id INTEGER NOT NULL,
    event TEXT NOT NULL,
    date TEXT NOT NULL,
    PRIMARY KEY (participant_id, event)
) WITHOUT ROWID;

-- +goose Down
DROP TABLE participant_anchor;
