-- +goose Up
CREATE INDEX study_lock_state ON study_lock (state);

-- +goose Down
DROP INDEX study_lock_state ON study_lock;
