-- +goose Up
CREATE INDEX response_participant ON response (participant_id, id);

-- +goose Down
DROP INDEX response_participant;
