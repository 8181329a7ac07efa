-- +goose Up
CREATE INDEX assessment_study ON assessment (study_id, id);

-- +goose Down
DROP INDEX assessment_study;
