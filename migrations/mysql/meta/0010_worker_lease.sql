-- +goose Up
CREATE TABLE worker_lease (
  worker        SMALLINT     NOT NULL,
  owner         VARCHAR(128) NOT NULL,
  fence         BIGINT       NOT NULL,
  deadline_at   BIGINT       NOT NULL,
  high_water_at BIGINT       NOT NULL,
  PRIMARY KEY (worker)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_0900_bin;

-- +goose Down
DROP TABLE worker_lease;
