-- +goose Up
CREATE INDEX audit_study ON audit (study_id, id);

-- +goose Down
DROP INDEX audit_study;
