-- +goose Up
CREATE TABLE message (
    id INTEGER NOT NULL,
    study_id INTEGER NOT NULL,
    participant_id INTEGER NOT NULL,
    purpose TEXT NOT NULL,
    channel TEXT NOT NULL,
    template TEXT NOT NULL,
    language TEXT NOT NULL,
    sealed BLOB NOT NULL,
    state TEXT NOT NULL,
    provider TEXT NOT NULL,
    reference TEXT NOT NULL,
    code TEXT NOT NULL,
    attempts INTEGER NOT NULL,
    sent_at INTEGER NOT NULL,
    next_at INTEGER NOT NULL,
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL,
    trace TEXT NOT NULL DEFAULT '',
    PRIMARY KEY (id)
);

-- +goose Down
DROP TABLE message;
