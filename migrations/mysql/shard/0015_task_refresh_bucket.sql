-- +goose Up
CREATE INDEX task_refresh_bucket ON task_refresh (study_id, bucket);

-- +goose Down
DROP INDEX task_refresh_bucket ON task_refresh;
