-- +goose Up
CREATE TABLE shard_member (
    name TEXT NOT NULL,
    added_at INTEGER NOT NULL,
    PRIMARY KEY (name)
) WITHOUT ROWID;

-- +goose Down
DROP TABLE shard_member;
