-- +goose Up
CREATE TABLE participant (
    id INTEGER NOT NULL PRIMARY KEY,
    study_id INTEGER NOT NULL,
    site_id INTEGER NOT NULL,
    arm TEXT NOT NULL,
    number TEXT NOT NULL,
    status TEXT NOT NULL,
    zone TEXT NOT NULL,
    language TEXT NOT NULL,
    anchors TEXT NOT NULL,
    data_key BLOB NOT NULL,
    version INTEGER NOT NULL,
    created_at INTEGER NOT NULL,
    bucket INTEGER NOT NULL,
    left_at INTEGER NOT NULL
);

-- +goose Down
DROP TABLE participant;
