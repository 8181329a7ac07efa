-- +goose Up
ALTER TABLE bucket ADD COLUMN held_until BIGINT NOT NULL DEFAULT 0;

-- +goose Down
ALTER TABLE bucket DROP COLUMN held_until;
