-- +goose Up
CREATE INDEX message_due ON message (state, next_at);

-- +goose Down
DROP INDEX message_due ON message;
