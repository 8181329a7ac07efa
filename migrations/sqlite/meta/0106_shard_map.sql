-- +goose Up
CREATE TABLE shard_map (
    bucket INTEGER NOT NULL,
    owner TEXT NOT NULL,
    other TEXT NOT NULL,
    version INTEGER NOT NULL,
    PRIMARY KEY (bucket)
) WITHOUT ROWID;

-- +goose Down
DROP TABLE shard_map;
