-- +goose Up
CREATE TABLE outbox (
    id INTEGER NOT NULL,
    topic TEXT NOT NULL,
    kind TEXT NOT NULL,
    study_id INTEGER NOT NULL,
    participant_id INTEGER NOT NULL,
    payload BLOB NOT NULL,
    trace TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    PRIMARY KEY (id)
);

-- +goose Down
DROP TABLE outbox;
