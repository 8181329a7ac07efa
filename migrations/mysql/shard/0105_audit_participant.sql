-- +goose Up
CREATE INDEX audit_participant ON audit (participant_id, id);

-- +goose Down
DROP INDEX audit_participant ON audit;
