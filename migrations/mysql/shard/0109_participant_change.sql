-- +goose Up
CREATE TABLE participant_change (
    bucket INT NOT NULL,
    participant_id BIGINT NOT NULL,
    changes BIGINT NOT NULL,
    PRIMARY KEY (bucket, participant_id)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_0900_bin;

-- +goose Down
DROP TABLE participant_change;
