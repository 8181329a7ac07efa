-- +goose Up
INSERT INTO bucket (bucket, standing, epoch)
WITH RECURSIVE n (i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i < 255)
SELECT i, 'here', 0 FROM n;

-- +goose Down
DELETE FROM bucket;
