-- +goose Up
CREATE INDEX task_study ON task (study_id, opens_at);

-- +goose Down
DROP INDEX task_study;
