-- +goose Up
CREATE TABLE shard_move_bucket (
    move_id BIGINT NOT NULL,
    bucket INT NOT NULL,
    source VARCHAR(64) NOT NULL,
    phase VARCHAR(16) NOT NULL,
    participants BIGINT NOT NULL,
    row_count BIGINT NOT NULL,
    checksum VARCHAR(64) NOT NULL,
    holds INT NOT NULL,
    held_micros BIGINT NOT NULL,
    PRIMARY KEY (move_id, bucket)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_0900_bin;

-- +goose Down
DROP TABLE shard_move_bucket;
