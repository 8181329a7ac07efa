-- +goose Up
CREATE TABLE shard_move_bucket (
    move_id INTEGER NOT NULL,
    bucket INTEGER NOT NULL,
    source TEXT NOT NULL,
    phase TEXT NOT NULL,
    participants INTEGER NOT NULL,
    row_count INTEGER NOT NULL,
    checksum TEXT NOT NULL,
    holds INTEGER NOT NULL,
    held_micros INTEGER NOT NULL,
    PRIMARY KEY (move_id, bucket)
) WITHOUT ROWID;

-- +goose Down
DROP TABLE shard_move_bucket;
