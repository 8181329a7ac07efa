-- +goose Up
CREATE TABLE bucket (
    bucket INTEGER NOT NULL,
    standing TEXT NOT NULL,
    epoch INTEGER NOT NULL,
    PRIMARY KEY (bucket)
) WITHOUT ROWID;

-- +goose Down
DROP TABLE bucket;
