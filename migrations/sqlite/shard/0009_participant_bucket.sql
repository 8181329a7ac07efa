-- +goose Up
CREATE INDEX participant_bucket ON participant (study_id, bucket, id);

-- +goose Down
DROP INDEX participant_bucket;
