-- +goose Up
CREATE TABLE shard_move (
    id INTEGER NOT NULL,
    target TEXT NOT NULL,
    buckets TEXT NOT NULL,
    state TEXT NOT NULL,
    fence INTEGER NOT NULL,
    begun_at INTEGER NOT NULL,
    changed_at INTEGER NOT NULL,
    PRIMARY KEY (id)
) WITHOUT ROWID;

-- +goose Down
DROP TABLE shard_move;
