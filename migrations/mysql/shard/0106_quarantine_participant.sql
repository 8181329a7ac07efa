-- +goose Up
CREATE INDEX quarantine_participant ON quarantine (participant_id, id);

-- +goose Down
DROP INDEX quarantine_participant ON quarantine;
