-- +goose Up
CREATE TABLE task_completion (
    participant_id BIGINT NOT NULL,
    task_id BIGINT NOT NULL,
    study_id BIGINT NOT NULL,
    submission BINARY(16) NOT NULL,
    response_id BIGINT NOT NULL,
    late TINYINT(1) NOT NULL,
    captured_at BIGINT NOT NULL,
    received_at BIGINT NOT NULL,
    PRIMARY KEY (participant_id, task_id)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_0900_bin;

-- +goose Down
DROP TABLE task_completion;
