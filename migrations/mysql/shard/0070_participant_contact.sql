-- +goose Up
CREATE TABLE participant_contact (
    participant_id BIGINT NOT NULL,
    sealed MEDIUMBLOB NOT NULL,
    version BIGINT NOT NULL,
    updated_at BIGINT NOT NULL,
    PRIMARY KEY (participant_id)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_0900_bin;

-- +goose Down
DROP TABLE participant_contact;
