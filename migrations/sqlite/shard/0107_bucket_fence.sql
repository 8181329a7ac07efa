-- +goose Up
ALTER TABLE bucket ADD COLUMN fence INTEGER NOT NULL DEFAULT 0;

-- +goose Down
ALTER TABLE bucket DROP COLUMN fence;
