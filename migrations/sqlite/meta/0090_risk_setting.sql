-- +goose Up
CREATE TABLE risk_setting (
    study_id INTEGER NOT NULL,
    version INTEGER NOT NULL,
    body BLOB NOT NULL,
    changed_by INTEGER NOT NULL,
    changed_at INTEGER NOT NULL,
    PRIMARY KEY (study_id)
);

-- +goose Down
DROP TABLE risk_setting;
