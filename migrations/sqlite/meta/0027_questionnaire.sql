-- +goose Up
CREATE TABLE questionnaire (
    id INTEGER NOT NULL,
    study_id INTEGER NOT NULL,
    url TEXT NOT NULL,
    version TEXT NOT NULL,
    title TEXT NOT NULL,
    status TEXT NOT NULL,
    sha256 BLOB NOT NULL,
    body BLOB NOT NULL,
    created_at INTEGER NOT NULL,
    published_at INTEGER NOT NULL,
    PRIMARY KEY (id)
);

-- +goose Down
DROP TABLE questionnaire;
