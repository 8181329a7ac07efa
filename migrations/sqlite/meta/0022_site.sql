-- +goose Up
CREATE TABLE site (
    id INTEGER NOT NULL,
    study_id INTEGER NOT NULL,
    code TEXT NOT NULL,
    name TEXT NOT NULL,
    PRIMARY KEY (id)
);

-- +goose Down
DROP TABLE site;
