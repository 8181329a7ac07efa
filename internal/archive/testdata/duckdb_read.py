"""Reads an archive as a researcher would, with DuckDB, and prints what it found as JSON."""
import json
import sys

import duckdb

root, study = sys.argv[1], int(sys.argv[2])
db = duckdb.connect()


def table(kind):
    return f"read_parquet('{root}/{kind}/**/*.parquet', hive_partitioning=true)"


def one(sql):
    return db.execute(sql).fetchone()


found = {}
found["responses"], found["opened"], found["promised"] = one(
    f"SELECT count(*), count(*) FILTER (opened), sum(answers)::BIGINT FROM {table('responses')} WHERE study = {study}")
found["answers"], found["withheld"], found["keys"] = one(
    f"SELECT count(*), count(*) FILTER (withheld), count(DISTINCT (response_id, position)) FROM {table('answers')} WHERE study = {study}")
found["pain"] = int(one(f"SELECT sum(value_number) FROM {table('answers')} WHERE link_id = 'pain' AND value_type = 'integer'")[0])
found["slept"] = one(f"SELECT count(*) FROM {table('answers')} WHERE link_id = 'sleep' AND value_text = '7.50' AND value_number = 7.5")[0]
found["took"] = one(f"SELECT count(*) FROM {table('answers')} WHERE link_id = 'took' AND value_boolean")[0]
found["coded"] = one(f"SELECT count(*) FROM {table('answers')} WHERE value_code IN ('none', 'rash')")[0]
found["texts"] = one(f"SELECT count(*) FROM {table('answers')} WHERE value_type = 'string' AND value_text IS NOT NULL")[0]
found["months"] = {str(m): n for m, n in db.execute(
    f"SELECT month, count(*) FROM {table('responses')} GROUP BY 1 ORDER BY 1").fetchall()}
found["questionnaires"] = one(f"SELECT count(DISTINCT questionnaire) FROM {table('responses')}")[0]
found["wrongMonth"] = one(f"SELECT count(*) FROM {table('responses')} WHERE strftime(received_at AT TIME ZONE 'UTC', '%Y-%m') <> month::VARCHAR")[0]
found["joined"] = one(
    f"SELECT count(*) FROM {table('answers')} a JOIN {table('responses')} r USING (response_id) WHERE a.received_at = r.received_at")[0]
found["types"] = {c[0]: c[1] for c in db.execute(f"DESCRIBE SELECT * FROM {table('answers')}").fetchall()}
print(json.dumps(found))
