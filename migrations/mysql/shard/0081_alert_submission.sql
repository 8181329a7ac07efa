-- +goose Up
CREATE UNIQUE INDEX alert_submission ON alert (participant_id, submission, rule);

-- +goose Down
DROP INDEX alert_submission ON alert;
