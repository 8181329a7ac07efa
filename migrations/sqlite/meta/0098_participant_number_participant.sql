-- +goose Up
CREATE INDEX participant_number_participant ON participant_number (participant_id);

-- +goose Down
DROP INDEX participant_number_participant;
