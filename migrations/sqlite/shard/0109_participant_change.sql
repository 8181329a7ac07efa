-- +goose Up
CREATE TABLE participant_change (
    bucket INTEGER NOT NULL,
    participant_id INTEGER NOT NULL,
    changes INTEGER NOT NULL,
    PRIMARY KEY (bucket, participant_id)
) WITHOUT ROWID;

-- +goose Down
DROP TABLE participant_change;
