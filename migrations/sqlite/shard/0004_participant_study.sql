-- +goose Up
CREATE INDEX participant_study ON participant (study_id, id);

-- +goose Down
DROP INDEX participant_study;
