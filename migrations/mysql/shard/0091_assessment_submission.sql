-- +goose Up
CREATE UNIQUE INDEX assessment_submission ON assessment (participant_id, submission, model, model_version);

-- +goose Down
DROP INDEX assessment_submission ON assessment;
