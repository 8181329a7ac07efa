-- +goose Up
CREATE TABLE archive_lane (
    study_id BIGINT NOT NULL,
    lane VARCHAR(160) NOT NULL,
    parts INT NOT NULL,
    mark MEDIUMBLOB NOT NULL,
    ended TINYINT(1) NOT NULL,
    PRIMARY KEY (study_id, lane)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_0900_bin;

-- +goose Down
DROP TABLE archive_lane;
