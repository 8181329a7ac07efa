-- +goose Up
CREATE TABLE participant_facts (
    participant_id BIGINT NOT NULL,
    until_at BIGINT NOT NULL,
    arm VARCHAR(64) NOT NULL,
    anchors TEXT NOT NULL,
    PRIMARY KEY (participant_id, until_at)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_0900_bin;

-- +goose Down
DROP TABLE participant_facts;
