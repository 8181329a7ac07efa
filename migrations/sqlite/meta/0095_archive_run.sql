-- +goose Up
CREATE TABLE archive_run (
    study_id INTEGER NOT NULL,
    id INTEGER NOT NULL,
    direction TEXT NOT NULL,
    step TEXT NOT NULL,
    fence INTEGER NOT NULL,
    actor_kind TEXT NOT NULL,
    actor_id INTEGER NOT NULL,
    source TEXT NOT NULL,
    reason TEXT NOT NULL,
    requested_at INTEGER NOT NULL,
    changed_at INTEGER NOT NULL,
    finished_at INTEGER NOT NULL,
    place TEXT NOT NULL,
    manifest BLOB NULL,
    data_key BLOB NOT NULL,
    lock_id INTEGER NOT NULL,
    layout BLOB NULL,
    problem TEXT NOT NULL,
    PRIMARY KEY (study_id)
);

-- +goose Down
DROP TABLE archive_run;
