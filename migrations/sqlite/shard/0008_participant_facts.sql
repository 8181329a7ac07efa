-- +goose Up
CREATE TABLE participant_facts (
    participant_id INTEGER NOT NULL,
    until_at INTEGER NOT NULL,
    arm TEXT NOT NULL,
    anchors TEXT NOT NULL,
    PRIMARY KEY (participant_id, until_at)
) WITHOUT ROWID;

-- +goose Down
DROP TABLE participant_facts;
