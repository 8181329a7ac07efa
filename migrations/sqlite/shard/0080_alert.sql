-- +goose Up
CREATE TABLE alert (
    id INTEGER NOT NULL,
    participant_id INTEGER NOT NULL,
    study_id INTEGER NOT NULL,
    site_id INTEGER NOT NULL,
    rule TEXT NOT NULL,
    rules_version INTEGER NOT NULL,
    submission BLOB NOT NULL,
    response_id INTEGER NOT NULL,
    severity TEXT NOT NULL,
    state TEXT NOT NULL,
    urgent INTEGER NOT NULL,
    submission_state TEXT NOT NULL,
    sealed BLOB NOT NULL,
    notes BLOB NOT NULL,
    raised_at INTEGER NOT NULL,
    acknowledged_by INTEGER NOT NULL,
    acknowledged_at INTEGER NOT NULL,
    resolved_by INTEGER NOT NULL,
    resolved_at INTEGER NOT NULL,
    step INTEGER NOT NULL,
    next_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL,
    trace TEXT NOT NULL DEFAULT '',
    PRIMARY KEY (id)
);

-- +goose Down
DROP TABLE alert;
