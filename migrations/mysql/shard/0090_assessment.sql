-- +goose Up
CREATE TABLE assessment (
    id BIGINT NOT NULL,
    participant_id BIGINT NOT NULL,
    study_id BIGINT NOT NULL,
    site_id BIGINT NOT NULL,
    submission BINARY(16) NOT NULL,
    response_id BIGINT NOT NULL,
    model VARCHAR(64) NOT NULL,
    model_version VARCHAR(64) NOT NULL,
    outcome VARCHAR(16) NOT NULL,
    inputs MEDIUMBLOB NOT NULL,
    sealed MEDIUMBLOB NOT NULL,
    assessed_at BIGINT NOT NULL,
    PRIMARY KEY (id)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_0900_bin;

-- +goose Down
DROP TABLE assessment;
