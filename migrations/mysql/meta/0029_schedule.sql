-- +goose Up
CREATE TABLE schedule (
    study_id BIGINT NOT NULL,
    version BIGINT NOT NULL,
    from_at BIGINT NOT NULL,
    design MEDIUMBLOB NOT NULL,
    created_by BIGINT NOT NULL,
    created_at BIGINT NOT NULL,
    PRIMARY KEY (study_id, version)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_0900_bin;

-- +goose Down
DROP TABLE schedule;
