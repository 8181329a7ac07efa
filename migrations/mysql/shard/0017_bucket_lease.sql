-- +goose Up
CREATE TABLE bucket_lease (
    bucket INT NOT NULL,
    purpose VARCHAR(32) NOT NULL,
    owner VARCHAR(64) NOT NULL,
    until_at BIGINT NOT NULL,
    PRIMARY KEY (bucket, purpose)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_0900_bin;

-- +goose Down
DROP TABLE bucket_lease;
