-- +goose Up
CREATE TABLE shard_map (
    bucket INT NOT NULL,
    owner VARCHAR(64) NOT NULL,
    other VARCHAR(64) NOT NULL,
    version BIGINT NOT NULL,
    PRIMARY KEY (bucket)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_0900_bin;

-- +goose Down
DROP TABLE shard_map;
