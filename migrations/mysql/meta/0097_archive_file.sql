-- +goose Up
CREATE TABLE archive_file (
    study_id BIGINT NOT NULL,
    path VARCHAR(500) NOT NULL,
    kind VARCHAR(16) NOT NULL,
    shard VARCHAR(64) NOT NULL,
    tab VARCHAR(64) NOT NULL,
    questionnaire VARCHAR(255) NOT NULL,
    month VARCHAR(7) NOT NULL,
    records BIGINT NOT NULL,
    withheld BIGINT NOT NULL,
    bytes BIGINT NOT NULL,
    sha256 BINARY(32) NOT NULL,
    digest BINARY(64) NOT NULL,
    verified TINYINT(1) NOT NULL,
    loaded TINYINT(1) NOT NULL,
    moved BIGINT NOT NULL,
    PRIMARY KEY (study_id, path)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_0900_bin;

-- +goose Down
DROP TABLE archive_file;
