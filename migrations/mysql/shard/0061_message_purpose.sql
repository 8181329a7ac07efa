-- +goose Up
CREATE UNIQUE INDEX message_purpose ON message (participant_id, purpose);

-- +goose Down
DROP INDEX message_purpose ON message;
