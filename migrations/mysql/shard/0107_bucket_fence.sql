-- +goose Up
ALTER TABLE bucket ADD COLUMN fence BIGINT NOT NULL DEFAULT 0;

-- +goose Down
ALTER TABLE bucket DROP COLUMN fence;
