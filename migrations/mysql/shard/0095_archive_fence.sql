-- +goose Up
CREATE TABLE archive_fence (
    study_id BIGINT NOT NULL,
    fence BIGINT NOT NULL,
    PRIMARY KEY (study_id)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_0900_bin;

-- +goose Down
DROP TABLE archive_fence;
