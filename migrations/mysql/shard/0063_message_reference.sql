-- +goose Up
CREATE INDEX message_reference ON message (provider, reference);

-- +goose Down
DROP INDEX message_reference ON message;
