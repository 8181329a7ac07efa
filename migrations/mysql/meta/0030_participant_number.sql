-- +goose Up
CREATE TABLE participant_number (
    study_id BIGINT NOT NULL,
    number VARCHAR(64) NOT NULL,
    participant_id BIGINT NOT NULL,
    PRIMARY KEY (study_id, number)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_0900_bin;

-- +goose Down
DROP TABLE participant_number;
