-- +goose Up
CREATE TABLE outbox (
    id INTEGER NOT NULL,
    events INTEGER NOT NULL,
    payload BLOB NOT NULL,
    created_at INTEGER NOT NULL,
    PRIMARY KEY (id)
);

-- +goose Down
DROP TABLE outbox;
