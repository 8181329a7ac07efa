-- +goose Up
CREATE TABLE worker_lease (
  worker        INTEGER NOT NULL,
  owner         TEXT    NOT NULL,
  fence         INTEGER NOT NULL,
  deadline_at   INTEGER NOT NULL,
  high_water_at INTEGER NOT NULL,
  PRIMARY KEY (worker)
);

-- +goose Down
DROP TABLE worker_lease;
