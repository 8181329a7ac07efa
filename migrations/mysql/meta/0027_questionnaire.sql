-- +goose Up
CREATE TABLE questionnaire (
    id BIGINT NOT NULL,
    study_id BIGINT NOT NULL,
    url VARCHAR(255) NOT NULL,
    version VARCHAR(64) NOT NULL,
    title VARCHAR(500) NOT NULL,
    status VARCHAR(16) NOT NULL,
    sha256 BINARY(32) NOT NULL,
    body MEDIUMBLOB NOT NULL,
    created_at BIGINT NOT NULL,
    published_at BIGINT NOT NULL,
    PRIMARY KEY (id)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_0900_bin;

-- +goose Down
DROP TABLE questionnaire;
