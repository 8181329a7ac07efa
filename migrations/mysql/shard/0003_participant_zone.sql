-- +goose Up
CREATE TABLE participant_zone (
    participant_id BIGINT NOT NULL,
    from_at BIGINT NOT NULL,
    zone VARCHAR(64) NOT NULL,
    PRIMARY KEY (participant_id, from_at)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_0900_bin;

-- +goose Down
DROP TABLE participant_zone;
