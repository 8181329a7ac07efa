-- +goose Up
-- granted is what the last Take got: it is written and read in one transaction, under the row's lock.
CREATE TABLE message_budget (
    study_id BIGINT NOT NULL,
    channel VARCHAR(16) NOT NULL,
    day VARCHAR(10) NOT NULL,
    used INT NOT NULL,
    granted INT NOT NULL,
    PRIMARY KEY (study_id, channel, day)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_0900_bin;

-- +goose Down
DROP TABLE message_budget;
