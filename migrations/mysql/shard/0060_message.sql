-- +goose Up
CREATE TABLE message (
    id BIGINT NOT NULL,
    study_id BIGINT NOT NULL,
    participant_id BIGINT NOT NULL,
    purpose VARCHAR(128) NOT NULL,
    channel VARCHAR(16) NOT NULL,
    template VARCHAR(64) NOT NULL,
    language VARCHAR(64) NOT NULL,
    sealed MEDIUMBLOB NOT NULL,
    state VARCHAR(16) NOT NULL,
    provider VARCHAR(32) NOT NULL,
    reference VARCHAR(128) NOT NULL,
    code VARCHAR(64) NOT NULL,
    attempts INT NOT NULL,
    sent_at BIGINT NOT NULL,
    next_at BIGINT NOT NULL,
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL,
    trace VARCHAR(55) NOT NULL DEFAULT '',
    PRIMARY KEY (id)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_0900_bin;

-- +goose Down
DROP TABLE message;
