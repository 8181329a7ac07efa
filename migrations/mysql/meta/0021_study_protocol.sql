-- +goose Up
CREATE UNIQUE INDEX study_protocol ON study (protocol);

-- +goose Down
DROP INDEX study_protocol ON study;
