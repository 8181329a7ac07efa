-- +goose Up
CREATE TABLE study_standing (
    study_id INTEGER NOT NULL,
    standing TEXT NOT NULL,
    epoch INTEGER NOT NULL,
    fence INTEGER NOT NULL,
    PRIMARY KEY (study_id)
) WITHOUT ROWID;

-- +goose Down
DROP TABLE study_standing;
