-- +goose Up
CREATE TABLE shard_process (
    id TEXT NOT NULL,
    version INTEGER NOT NULL,
    beat INTEGER NOT NULL,
    knows TEXT NOT NULL,
    seen_at INTEGER NOT NULL,
    PRIMARY KEY (id)
) WITHOUT ROWID;

-- +goose Down
DROP TABLE shard_process;
