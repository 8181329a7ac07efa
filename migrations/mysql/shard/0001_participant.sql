-- +goose Up
CREATE TABLE participant (
    id BIGINT NOT NULL,
    study_id BIGINT NOT NULL,
    site_id BIGINT NOT NULL,
    arm VARCHAR(64) NOT NULL,
    number VARCHAR(64) NOT NULL,
    status VARCHAR(32) NOT NULL,
    zone VARCHAR(64) NOT NULL,
    language VARCHAR(64) NOT NULL,
    anchors TEXT NOT NULL,
    data_key MEDIUMBLOB NOT NULL,
    version BIGINT NOT NULL,
    created_at BIGINT NOT NULL,
    bucket INT NOT NULL,
    left_at BIGINT NOT NULL,
    PRIMARY KEY (id)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_0900_bin;

-- +goose Down
DROP TABLE participant;
