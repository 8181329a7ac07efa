-- +goose Up
CREATE TABLE lock_lease (
  name        VARCHAR(200) NOT NULL,
  fence       BIGINT       NOT NULL,
  acquisition VARCHAR(32)  NOT NULL,
  holder      VARCHAR(128) NOT NULL,
  until_at    BIGINT       NOT NULL,
  PRIMARY KEY (name)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_0900_bin;

-- +goose Down
DROP TABLE lock_lease;
