-- +goose Up
CREATE INDEX participant_session_account ON participant_session (account_id);

-- +goose Down
DROP INDEX participant_session_account ON participant_session;
