-- +goose Up
CREATE TABLE record (
    participant_id INTEGER NOT NULL,
    version INTEGER NOT NULL,
    fence INTEGER NOT NULL,
    PRIMARY KEY (participant_id)
);

-- +goose Down
DROP TABLE record;
