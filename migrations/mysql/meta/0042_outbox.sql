-- +goose Up
CREATE TABLE outbox (
    id BIGINT NOT NULL,
    events INT NOT NULL,
    payload MEDIUMBLOB NOT NULL,
    created_at BIGINT NOT NULL,
    PRIMARY KEY (id)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_0900_bin;

-- +goose Down
DROP TABLE outbox;
