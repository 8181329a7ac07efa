-- +goose Up
CREATE TABLE archive_lane (
    study_id INTEGER NOT NULL,
    lane TEXT NOT NULL,
    parts INTEGER NOT NULL,
    mark BLOB NOT NULL,
    ended INTEGER NOT NULL,
    PRIMARY KEY (study_id, lane)
);

-- +goose Down
DROP TABLE archive_lane;
