-- +goose Up
CREATE TABLE study (
    id INTEGER NOT NULL,
    protocol TEXT NOT NULL,
    title TEXT NOT NULL,
    zone TEXT NOT NULL,
    status TEXT NOT NULL,
    languages TEXT NOT NULL,
    participant_pin TEXT NOT NULL,
    version INTEGER NOT NULL,
    schedule_version INTEGER NOT NULL,
    revision INTEGER NOT NULL,
    created_at INTEGER NOT NULL,
    PRIMARY KEY (id)
);

-- +goose Down
DROP TABLE study;
