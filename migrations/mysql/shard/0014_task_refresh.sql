-- +goose Up
CREATE TABLE task_refresh (
    participant_id BIGINT NOT NULL,
    study_id BIGINT NOT NULL,
    bucket INT NOT NULL,
    asked_at BIGINT NOT NULL,
    PRIMARY KEY (participant_id)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_0900_bin;

-- +goose Down
DROP TABLE task_refresh;
