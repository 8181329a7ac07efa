-- +goose Up
CREATE TABLE participant_consent (
    participant_id BIGINT NOT NULL,
    channel VARCHAR(16) NOT NULL,
    given TINYINT(1) NOT NULL,
    at BIGINT NOT NULL,
    PRIMARY KEY (participant_id, channel)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_0900_bin;

-- +goose Down
DROP TABLE participant_consent;
