-- +goose Up
CREATE TABLE shard_process (
    id VARCHAR(128) NOT NULL,
    version BIGINT NOT NULL,
    beat BIGINT NOT NULL,
    knows TEXT NOT NULL,
    seen_at BIGINT NOT NULL,
    PRIMARY KEY (id)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_0900_bin;

-- +goose Down
DROP TABLE shard_process;
