-- +goose Up
CREATE TABLE bucket_lease (
    bucket INTEGER NOT NULL,
    purpose TEXT NOT NULL,
    owner TEXT NOT NULL,
    until_at INTEGER NOT NULL,
    PRIMARY KEY (bucket, purpose)
) WITHOUT ROWID;

-- +goose Down
DROP TABLE bucket_lease;
