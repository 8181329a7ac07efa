-- +goose Up
CREATE TABLE reminder (
    participant_id BIGINT NOT NULL,
    task_id BIGINT NOT NULL,
    rung VARCHAR(64) NOT NULL,
    channel VARCHAR(16) NOT NULL,
    study_id BIGINT NOT NULL,
    decided_at BIGINT NOT NULL,
    outcome VARCHAR(16) NOT NULL,
    message_id BIGINT NOT NULL,
    PRIMARY KEY (participant_id, task_id, rung, channel)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_0900_bin;

-- +goose Down
DROP TABLE reminder;
