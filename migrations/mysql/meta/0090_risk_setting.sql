-- +goose Up
CREATE TABLE risk_setting (
    study_id BIGINT NOT NULL,
    version BIGINT NOT NULL,
    body MEDIUMBLOB NOT NULL,
    changed_by BIGINT NOT NULL,
    changed_at BIGINT NOT NULL,
    PRIMARY KEY (study_id)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_0900_bin;

-- +goose Down
DROP TABLE risk_setting;
