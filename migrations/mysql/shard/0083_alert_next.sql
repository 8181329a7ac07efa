-- +goose Up
CREATE INDEX alert_next ON alert (next_at);

-- +goose Down
DROP INDEX alert_next ON alert;
