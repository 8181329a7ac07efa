-- +goose Up
CREATE TABLE participant_zone (
    participant_id INTEGER NOT NULL,
    from_at INTEGER NOT NULL,
    zone TEXT NOT NULL,
    PRIMARY KEY (participant_id, from_at)
) WITHOUT ROWID;

-- +goose Down
DROP TABLE participant_zone;
