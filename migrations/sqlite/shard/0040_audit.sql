-- +goose Up
CREATE TABLE audit (
    id INTEGER NOT NULL,
    at INTEGER NOT NULL,
    zone TEXT NOT NULL,
    actor_kind TEXT NOT NULL,
    actor_id INTEGER NOT NULL,
    action TEXT NOT NULL,
    record TEXT NOT NULL,
    record_id INTEGER NOT NULL,
    study_id INTEGER NOT NULL,
    participant_id INTEGER NOT NULL,
    old_value BLOB NULL,
    new_value BLOB NULL,
    reason TEXT NOT NULL,
    source TEXT NOT NULL,
    PRIMARY KEY (study_id, id)
);

-- +goose Down
DROP TABLE audit;
