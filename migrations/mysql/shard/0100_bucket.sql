-- +goose Up
CREATE TABLE bucket (
    bucket INT NOT NULL,
    standing VARCHAR(16) NOT NULL,
    epoch BIGINT NOT NULL,
    PRIMARY KEY (bucket)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_0900_bin;

-- +goose Down
DROP TABLE bucket;
