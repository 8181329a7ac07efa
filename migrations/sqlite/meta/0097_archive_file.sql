-- +goose Up
CREATE TABLE archive_file (
    study_id INTEGER NOT NULL,
    path TEXT NOT NULL,
    kind TEXT NOT NULL,
    shard TEXT NOT NULL,
    tab TEXT NOT NULL,
    questionnaire TEXT NOT NULL,
    month TEXT NOT NULL,
    records INTEGER NOT NULL,
    withheld INTEGER NOT NULL,
    bytes INTEGER NOT NULL,
    sha256 BLOB NOT NULL,
    digest BLOB NOT NULL,
    verified INTEGER NOT NULL,
    loaded INTEGER NOT NULL,
    moved INTEGER NOT NULL,
    PRIMARY KEY (study_id, path)
);

-- +goose Down
DROP TABLE archive_file;
