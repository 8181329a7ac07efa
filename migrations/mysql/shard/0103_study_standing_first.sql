-- +goose Up
INSERT INTO study_standing (study_id, standing, epoch, fence) VALUES (0, 'open', 0, 0);

-- +goose Down
DELETE FROM study_standing WHERE study_id = 0;
