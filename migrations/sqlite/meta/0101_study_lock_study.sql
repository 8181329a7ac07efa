-- +goose Up
CREATE INDEX study_lock_study ON study_lock (study_id, id);

-- +goose Down
DROP INDEX study_lock_study;
