-- +goose Up
CREATE TABLE schedule (
    study_id INTEGER NOT NULL,
    version INTEGER NOT NULL,
    from_at INTEGER NOT NULL,
    design BLOB NOT NULL,
    created_by INTEGER NOT NULL,
    created_at INTEGER NOT NULL,
    PRIMARY KEY (study_id, version)
);

-- +goose Down
DROP TABLE schedule;
