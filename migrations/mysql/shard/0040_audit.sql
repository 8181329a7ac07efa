-- +goose Up
CREATE TABLE audit (
    id BIGINT NOT NULL,
    at BIGINT NOT NULL,
    zone VARCHAR(64) NOT NULL,
    actor_kind VARCHAR(16) NOT NULL,
    actor_id BIGINT NOT NULL,
    action VARCHAR(64) NOT NULL,
    record VARCHAR(64) NOT NULL,
    record_id BIGINT NOT NULL,
    study_id BIGINT NOT NULL,
    participant_id BIGINT NOT NULL,
    old_value MEDIUMBLOB NULL,
    new_value MEDIUMBLOB NULL,
    reason VARCHAR(1000) NOT NULL,
    source VARCHAR(64) NOT NULL,
    PRIMARY KEY (study_id, id)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_0900_bin;

-- +goose Down
DROP TABLE audit;
