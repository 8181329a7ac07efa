-- +goose Up
CREATE TABLE safety_rules (
    study_id BIGINT NOT NULL,
    version BIGINT NOT NULL,
    body MEDIUMBLOB NOT NULL,
    created_by BIGINT NOT NULL,
    created_at BIGINT NOT NULL,
    PRIMARY KEY (study_id, version)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_0900_bin;

-- +goose Down
DROP TABLE safety_rules;
