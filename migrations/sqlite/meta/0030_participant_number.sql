-- +goose Up
CREATE TABLE participant_number (
    study_id INTEGER NOT NULL,
    number TEXT NOT NULL,
    participant_id INTEGER NOT NULL,
    PRIMARY KEY (study_id, number)
) WITHOUT ROWID;

-- +goose Down
DROP TABLE participant_number;
