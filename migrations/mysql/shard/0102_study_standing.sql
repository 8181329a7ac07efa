-- +goose Up
CREATE TABLE study_standing (
    study_id BIGINT NOT NULL,
    standing VARCHAR(16) NOT NULL,
    epoch BIGINT NOT NULL,
    fence BIGINT NOT NULL,
    PRIMARY KEY (study_id)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_0900_bin;

-- +goose Down
DROP TABLE study_standing;
