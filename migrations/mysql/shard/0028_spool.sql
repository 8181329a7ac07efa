-- +goose Up
CREATE TABLE spool (
    id BIGINT NOT NULL,
    participant_id BIGINT NOT NULL,
    study_id BIGINT NOT NULL,
    task_id BIGINT NOT NULL,
    submission BINARY(16) NOT NULL,
    sha256 BINARY(32) NOT NULL,
    received_at BIGINT NOT NULL,
    source VARCHAR(64) NOT NULL,
    sealed_key TINYINT NOT NULL,
    sealed MEDIUMBLOB NOT NULL,
    trace VARCHAR(55) NOT NULL DEFAULT '',
    PRIMARY KEY (id)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_0900_bin;

-- +goose Down
DROP TABLE spool;
