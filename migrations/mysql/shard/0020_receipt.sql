-- +goose Up
CREATE TABLE receipt (
    participant_id BIGINT NOT NULL,
    submission BINARY(16) NOT NULL,
    id BIGINT NOT NULL,
    study_id BIGINT NOT NULL,
    task_id BIGINT NOT NULL,
    sha256 BINARY(32) NOT NULL,
    state VARCHAR(16) NOT NULL,
    received_at BIGINT NOT NULL,
    processed_at BIGINT NOT NULL,
    PRIMARY KEY (participant_id, submission)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_0900_bin;

-- +goose Down
DROP TABLE receipt;
