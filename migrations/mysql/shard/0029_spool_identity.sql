-- +goose Up
CREATE INDEX spool_identity ON spool (participant_id, submission);

-- +goose Down
DROP INDEX spool_identity ON spool;
