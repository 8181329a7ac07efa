-- +goose Up
CREATE TABLE study_lock (
    id INTEGER NOT NULL,
    study_id INTEGER NOT NULL,
    state TEXT NOT NULL,
    step TEXT NOT NULL,
    waiting TEXT NOT NULL,
    step_at INTEGER NOT NULL,
    asked_by INTEGER NOT NULL,
    asked_at INTEGER NOT NULL,
    reason TEXT NOT NULL,
    locked_at INTEGER NOT NULL,
    report BLOB NULL,
    signature TEXT NOT NULL,
    unlock_by INTEGER NOT NULL,
    unlock_at INTEGER NOT NULL,
    unlock_reason TEXT NOT NULL,
    released_by INTEGER NOT NULL,
    released_at INTEGER NOT NULL,
    released_reason TEXT NOT NULL,
    PRIMARY KEY (id)
);

-- +goose Down
DROP TABLE study_lock;
