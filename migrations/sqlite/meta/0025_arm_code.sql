-- +goose Up
CREATE UNIQUE INDEX arm_code ON arm (study_id, code);

-- +goose Down
DROP INDEX arm_code;
