-- +goose Up
CREATE TABLE lock_lease (
  name        TEXT    NOT NULL,
  fence       INTEGER NOT NULL,
  acquisition TEXT    NOT NULL,
  holder      TEXT    NOT NULL,
  until_at    INTEGER NOT NULL,
  PRIMARY KEY (name)
);

-- +goose Down
DROP TABLE lock_lease;
