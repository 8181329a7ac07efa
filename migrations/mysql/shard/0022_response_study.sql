-- +goose Up
CREATE INDEX response_study ON response (study_id, id);

-- +goose Down
DROP INDEX response_study ON response;
