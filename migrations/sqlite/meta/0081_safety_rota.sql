-- +goose Up
CREATE TABLE safety_rota (
    study_id INTEGER NOT NULL,
    version INTEGER NOT NULL,
    sealed BLOB NOT NULL,
    changed_by INTEGER NOT NULL,
    changed_at INTEGER NOT NULL,
    PRIMARY KEY (study_id)
);

-- +goose Down
DROP TABLE safety_rota;
