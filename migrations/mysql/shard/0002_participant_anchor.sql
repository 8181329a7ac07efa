-- +goose Up
CREATE TABLE participant_anchor (
    participant_id BIGINT NOT NULL,
    event VARCHAR(64) NOT NULL,
    date CHAR(10) NOT NULL,
    PRIMARY KEY (participant_id, event)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_0900_bin;

-- +goose Down
DROP TABLE participant_anchor;
