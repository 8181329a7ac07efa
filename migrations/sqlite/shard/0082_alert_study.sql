-- +goose Up
CREATE INDEX alert_study ON alert (study_id, id);

-- +goose Down
DROP INDEX alert_study;
