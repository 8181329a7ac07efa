-- +goose Up
CREATE UNIQUE INDEX site_code ON site (study_id, code);

-- +goose Down
DROP INDEX site_code;
