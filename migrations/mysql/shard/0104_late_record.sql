-- +goose Up
CREATE TABLE late_record (
    participant_id BIGINT NOT NULL,
    submission BINARY(16) NOT NULL,
    sha256 BINARY(32) NOT NULL,
    id BIGINT NOT NULL,
    study_id BIGINT NOT NULL,
    site_id BIGINT NOT NULL,
    task_id BIGINT NOT NULL,
    received_at BIGINT NOT NULL,
    late_at BIGINT NOT NULL,
    source VARCHAR(64) NOT NULL,
    sealed_key TINYINT NOT NULL,
    sealed MEDIUMBLOB NOT NULL,
    PRIMARY KEY (participant_id, submission, sha256)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_0900_bin;

-- +goose Down
DROP TABLE late_record;
