-- +goose Up
CREATE INDEX task_remind ON task (remind_at);

-- +goose Down
DROP INDEX task_remind;
