-- +goose Up
CREATE TABLE record_version (
    participant_id BIGINT NOT NULL,
    version BIGINT NOT NULL,
    sealed MEDIUMBLOB NOT NULL,
    at BIGINT NOT NULL,
    staff_id BIGINT NOT NULL,
    reason VARCHAR(1000) NOT NULL,
    PRIMARY KEY (participant_id, version)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_0900_bin;

-- +goose Down
DROP TABLE record_version;
