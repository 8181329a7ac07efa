-- +goose Up
CREATE TABLE response (
    id BIGINT NOT NULL,
    study_id BIGINT NOT NULL,
    site_id BIGINT NOT NULL,
    participant_id BIGINT NOT NULL,
    task_id BIGINT NOT NULL,
    submission BINARY(16) NOT NULL,
    sha256 BINARY(32) NOT NULL,
    questionnaire VARCHAR(255) NOT NULL,
    version VARCHAR(64) NOT NULL,
    status VARCHAR(32) NOT NULL,
    authored VARCHAR(40) NOT NULL,
    zone VARCHAR(64) NOT NULL,
    late TINYINT(1) NOT NULL,
    received_at BIGINT NOT NULL,
    stored_at BIGINT NOT NULL,
    source VARCHAR(64) NOT NULL,
    sealed_key TINYINT NOT NULL,
    sealed MEDIUMBLOB NOT NULL,
    PRIMARY KEY (id)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_0900_bin;

-- +goose Down
DROP TABLE response;
