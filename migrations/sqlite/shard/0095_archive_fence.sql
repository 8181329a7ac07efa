-- +goose Up
CREATE TABLE archive_fence (
    study_id INTEGER NOT NULL,
    fence INTEGER NOT NULL,
    PRIMARY KEY (study_id)
);

-- +goose Down
DROP TABLE archive_fence;
