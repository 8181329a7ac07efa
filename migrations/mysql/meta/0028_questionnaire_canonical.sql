-- +goose Up
CREATE UNIQUE INDEX questionnaire_canonical ON questionnaire (study_id, url, version);

-- +goose Down
DROP INDEX questionnaire_canonical ON questionnaire;
