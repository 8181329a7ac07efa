-- +goose Up
CREATE TABLE archive_run (
    study_id BIGINT NOT NULL,
    id BIGINT NOT NULL,
    direction VARCHAR(16) NOT NULL,
    step VARCHAR(16) NOT NULL,
    fence BIGINT NOT NULL,
    actor_kind VARCHAR(16) NOT NULL,
    actor_id BIGINT NOT NULL,
    source VARCHAR(64) NOT NULL,
    reason VARCHAR(1000) NOT NULL,
    requested_at BIGINT NOT NULL,
    changed_at BIGINT NOT NULL,
    finished_at BIGINT NOT NULL,
    place VARCHAR(1000) NOT NULL,
    manifest BINARY(32) NULL,
    data_key MEDIUMBLOB NOT NULL,
    lock_id BIGINT NOT NULL,
    layout BINARY(32) NULL,
    problem VARCHAR(255) NOT NULL,
    PRIMARY KEY (study_id)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_0900_bin;

-- +goose Down
DROP TABLE archive_run;
