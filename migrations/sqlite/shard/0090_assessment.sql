-- +goose Up
CREATE TABLE assessment (
    id INTEGER NOT NULL,
    participant_id INTEGER NOT NULL,
    study_id INTEGER NOT NULL,
    site_id INTEGER NOT NULL,
    submission BLOB NOT NULL,
    response_id INTEGER NOT NULL,
    model TEXT NOT NULL,
    model_version TEXT NOT NULL,
    outcome TEXT NOT NULL,
    inputs BLOB NOT NULL,
    sealed BLOB NOT NULL,
    assessed_at INTEGER NOT NULL,
    PRIMARY KEY (id)
);

-- +goose Down
DROP TABLE assessment;
