-- +goose Up
CREATE TABLE participant_account (
    participant_id BIGINT NOT NULL,
    study_id BIGINT NOT NULL,
    activation_hash BINARY(32) NULL,
    activated_at BIGINT NOT NULL,
    pin_hash VARCHAR(255) NOT NULL,
    closed TINYINT(1) NOT NULL,
    failed INT NOT NULL,
    locked_until BIGINT NOT NULL,
    PRIMARY KEY (participant_id),
    UNIQUE KEY participant_account_activation (activation_hash)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_0900_bin;

-- +goose Down
DROP TABLE participant_account;
