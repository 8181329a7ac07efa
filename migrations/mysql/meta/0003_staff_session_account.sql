-- +goose Up
CREATE INDEX staff_session_account ON staff_session (account_id);

-- +goose Down
DROP INDEX staff_session_account ON staff_session;
