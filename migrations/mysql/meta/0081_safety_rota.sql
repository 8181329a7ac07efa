-- +goose Up
CREATE TABLE safety_rota (
    study_id BIGINT NOT NULL,
    version BIGINT NOT NULL,
    sealed MEDIUMBLOB NOT NULL,
    changed_by BIGINT NOT NULL,
    changed_at BIGINT NOT NULL,
    PRIMARY KEY (study_id)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_0900_bin;

-- +goose Down
DROP TABLE safety_rota;
