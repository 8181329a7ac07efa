-- +goose Up
CREATE INDEX quarantine_study ON quarantine (study_id, id);

-- +goose Down
DROP INDEX quarantine_study ON quarantine;
