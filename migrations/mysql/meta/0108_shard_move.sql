-- +goose Up
CREATE TABLE shard_move (
    id BIGINT NOT NULL,
    target VARCHAR(64) NOT NULL,
    buckets TEXT NOT NULL,
    state VARCHAR(16) NOT NULL,
    fence BIGINT NOT NULL,
    begun_at BIGINT NOT NULL,
    changed_at BIGINT NOT NULL,
    PRIMARY KEY (id)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_0900_bin;

-- +goose Down
DROP TABLE shard_move;
