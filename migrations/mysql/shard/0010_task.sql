-- +goose Up
CREATE TABLE task (
    participant_id BIGINT NOT NULL,
    id BIGINT NOT NULL,
    study_id BIGINT NOT NULL,
    bucket INT NOT NULL,
    rule VARCHAR(64) NOT NULL,
    date CHAR(10) NOT NULL,
    win INT NOT NULL,
    questionnaire VARCHAR(320) NOT NULL,
    schedule_version BIGINT NOT NULL,
    opens_at BIGINT NOT NULL,
    due_at BIGINT NOT NULL,
    closes_at BIGINT NOT NULL,
    grace_until BIGINT NOT NULL,
    zone VARCHAR(64) NOT NULL,
    state VARCHAR(16) NOT NULL,
    zone_data VARCHAR(16) NOT NULL,
    issued_at BIGINT NOT NULL,
    changed_at BIGINT NOT NULL,
    remind_at BIGINT NOT NULL,
    PRIMARY KEY (participant_id, id)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_0900_bin;

-- +goose Down
DROP TABLE task;
