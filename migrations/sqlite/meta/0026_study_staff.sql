-- +goose Up
CREATE TABLE study_staff (
    study_id INTEGER NOT NULL,
    user_id INTEGER NOT NULL,
    role TEXT NOT NULL,
    site_id INTEGER NOT NULL,
    PRIMARY KEY (study_id, user_id, role, site_id)
);

-- +goose Down
DROP TABLE study_staff;
