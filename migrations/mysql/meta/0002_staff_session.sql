-- +goose Up
CREATE TABLE staff_session (
    id BIGINT NOT NULL,
    account_id BIGINT NOT NULL,
    study_id BIGINT NOT NULL,
    family_hash BINARY(32) NOT NULL,
    current_hash BINARY(32) NOT NULL,
    created_at BIGINT NOT NULL,
    expires_at BIGINT NOT NULL,
    PRIMARY KEY (id)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_0900_bin;

-- +goose Down
DROP TABLE staff_session;
