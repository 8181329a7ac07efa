-- +goose Up
CREATE TABLE alert (
    id BIGINT NOT NULL,
    participant_id BIGINT NOT NULL,
    study_id BIGINT NOT NULL,
    site_id BIGINT NOT NULL,
    rule VARCHAR(64) NOT NULL,
    rules_version BIGINT NOT NULL,
    submission BINARY(16) NOT NULL,
    response_id BIGINT NOT NULL,
    severity VARCHAR(16) NOT NULL,
    state VARCHAR(16) NOT NULL,
    urgent TINYINT(1) NOT NULL,
    submission_state VARCHAR(16) NOT NULL,
    sealed MEDIUMBLOB NOT NULL,
    notes MEDIUMBLOB NOT NULL,
    raised_at BIGINT NOT NULL,
    acknowledged_by BIGINT NOT NULL,
    acknowledged_at BIGINT NOT NULL,
    resolved_by BIGINT NOT NULL,
    resolved_at BIGINT NOT NULL,
    step INT NOT NULL,
    next_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL,
    trace VARCHAR(55) NOT NULL DEFAULT '',
    PRIMARY KEY (id)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_0900_bin;

-- +goose Down
DROP TABLE alert;
