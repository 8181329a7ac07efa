-- +goose Up
CREATE TABLE safety_rules (
    study_id INTEGER NOT NULL,
    version INTEGER NOT NULL,
    body BLOB NOT NULL,
    created_by INTEGER NOT NULL,
    created_at INTEGER NOT NULL,
    PRIMARY KEY (study_id, version)
);

-- +goose Down
DROP TABLE safety_rules;
