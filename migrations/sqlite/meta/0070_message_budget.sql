-- +goose Up
-- granted is what the last Take got: it is written and read in one transaction, under the row's lock.
CREATE TABLE message_budget (
    study_id INTEGER NOT NULL,
    channel TEXT NOT NULL,
    day TEXT NOT NULL,
    used INTEGER NOT NULL,
    granted INTEGER NOT NULL,
    PRIMARY KEY (study_id, channel, day)
);

-- +goose Down
DROP TABLE message_budget;
