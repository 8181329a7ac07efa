-- +goose Up
CREATE TABLE study_staff (
    study_id BIGINT NOT NULL,
    user_id BIGINT NOT NULL,
    role VARCHAR(32) NOT NULL,
    site_id BIGINT NOT NULL,
    PRIMARY KEY (study_id, user_id, role, site_id)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_0900_bin;

-- +goose Down
DROP TABLE study_staff;
