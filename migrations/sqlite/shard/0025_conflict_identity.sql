-- +goose Up
CREATE UNIQUE INDEX conflict_identity ON conflict (participant_id, submission, sha256);

-- +goose Down
DROP INDEX conflict_identity;
