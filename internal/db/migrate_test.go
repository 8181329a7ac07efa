package db_test

import (
	"context"
	"database/sql"
	"fmt"
	"io/fs"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/eprod/eprod/internal/db"
	"github.com/eprod/eprod/internal/testenv"
	"github.com/eprod/eprod/migrations"
)

// column is what both dialects must agree on.
type column struct {
	Table, Name string
	Null        bool
	Class       string // int, text or blob
}

// key is an index or a primary key with its columns in order.
type key struct {
	Table           string
	Primary, Unique bool
	Columns         string
}

// ours leaves out what the migration tool keeps for itself.
func ours(table string) bool {
	return !strings.HasPrefix(table, "goose_") && !strings.HasPrefix(table, "sqlite_")
}

// TestDialectsAgree applies every migration in both dialects and compares tables, columns and keys.
func TestDialectsAgree(t *testing.T) {
	for _, set := range []string{"meta", "shard"} {
		t.Run(set, func(t *testing.T) {
			all := testenv.Databases(t, set)
			columns, keys := liteSchema(t, all["sqlite"].Pool())
			if len(columns) == 0 || len(keys) == 0 {
				t.Fatal("the schema is empty")
			}
			if my, ok := all["mysql"]; ok {
				myColumns, myKeys := mySchema(t, my.Pool())
				if diff := cmp.Diff(myColumns, columns); diff != "" {
					t.Errorf("columns, MySQL against SQLite:\n%s", diff)
				}
				if diff := cmp.Diff(myKeys, keys); diff != "" {
					t.Errorf("keys, MySQL against SQLite:\n%s", diff)
				}
			}
		})
	}
}

func query(t *testing.T, pool *sql.DB, statement string, scan func(row func(...any) error) error) {
	t.Helper()
	rows, err := pool.QueryContext(t.Context(), statement)
	if err != nil {
		t.Fatalf("%s: %v", statement, err)
	}
	defer rows.Close()
	for rows.Next() {
		if err := scan(rows.Scan); err != nil {
			t.Fatalf("%s: %v", statement, err)
		}
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
}

func mySchema(t *testing.T, pool *sql.DB) (columns []column, keys []key) {
	query(t, pool, `SELECT TABLE_NAME, COLUMN_NAME, IS_NULLABLE, DATA_TYPE, COALESCE(COLLATION_NAME, '') FROM information_schema.COLUMNS
		WHERE TABLE_SCHEMA = DATABASE()`, func(row func(...any) error) error {
		var c column
		var null, kind, collation string
		if err := row(&c.Table, &c.Name, &null, &kind, &collation); err != nil || !ours(c.Table) {
			return err
		}
		c.Null, c.Class = null == "YES", class(t, kind)
		if c.Class == "text" && collation != "utf8mb4_0900_bin" {
			t.Errorf("%s.%s is compared by %s, want utf8mb4_0900_bin", c.Table, c.Name, collation)
		}
		columns = append(columns, c)
		return nil
	})
	query(t, pool, `SELECT TABLE_NAME, INDEX_NAME = 'PRIMARY', NON_UNIQUE = 0, GROUP_CONCAT(COLUMN_NAME ORDER BY SEQ_IN_INDEX SEPARATOR ',')
		FROM information_schema.STATISTICS WHERE TABLE_SCHEMA = DATABASE() GROUP BY TABLE_NAME, INDEX_NAME, NON_UNIQUE`, func(row func(...any) error) error {
		var k key
		err := row(&k.Table, &k.Primary, &k.Unique, &k.Columns)
		if ours(k.Table) {
			keys = append(keys, k)
		}
		return err
	})
	return sorted(columns), sorted(keys)
}

func liteSchema(t *testing.T, pool *sql.DB) (columns []column, keys []key) {
	query(t, pool, `SELECT m.name, c.name, c."notnull" = 0, c.type FROM sqlite_schema m JOIN pragma_table_info(m.name) c WHERE m.type = 'table'`,
		func(row func(...any) error) error {
			var c column
			var kind string
			if err := row(&c.Table, &c.Name, &c.Null, &kind); err != nil || !ours(c.Table) {
				return err
			}
			c.Class = class(t, kind)
			columns = append(columns, c)
			return nil
		})
	query(t, pool, `SELECT m.name, 1, 1, (SELECT group_concat(name) FROM (SELECT name FROM pragma_table_info(m.name) WHERE pk > 0 ORDER BY pk))
		FROM sqlite_schema m WHERE m.type = 'table'
		UNION ALL SELECT m.name, 0, i."unique", (SELECT group_concat(name) FROM (SELECT name FROM pragma_index_info(i.name) ORDER BY seqno))
		FROM sqlite_schema m JOIN pragma_index_list(m.name) i WHERE m.type = 'table' AND i.origin <> 'pk'`, func(row func(...any) error) error {
		var k key
		var columns sql.NullString
		err := row(&k.Table, &k.Primary, &k.Unique, &columns)
		if k.Columns = columns.String; ours(k.Table) {
			keys = append(keys, k)
		}
		return err
	})
	return sorted(columns), sorted(keys)
}

func sorted[T any](list []T) []T {
	slices.SortFunc(list, func(a, b T) int { return strings.Compare(fmt.Sprint(a), fmt.Sprint(b)) })
	return list
}

func class(t *testing.T, kind string) string {
	t.Helper()
	switch strings.ToLower(kind) {
	case "bigint", "int", "integer", "smallint", "tinyint":
		return "int"
	case "varchar", "char", "text":
		return "text"
	case "binary", "varbinary", "blob", "mediumblob":
		return "blob"
	}
	t.Errorf("type %q: must be a whole number, a text or bytes; instants are microseconds", kind)
	return ""
}

func TestMigrateTwice(t *testing.T) {
	for name, d := range testenv.Databases(t, "meta") {
		t.Run(name, func(t *testing.T) {
			if n, err := db.PendingMigrations(t.Context(), d, "meta"); n != 0 || err != nil {
				t.Errorf("%d pending, %v", n, err)
			}
			if applied, err := db.Migrate(t.Context(), d, "meta", nil); len(applied) != 0 || err != nil {
				t.Errorf("applied %v again, %v", applied, err)
			}
			if _, err := db.Migrate(t.Context(), d, "nowhere", nil); err == nil {
				t.Error("an unknown set is taken")
			}
		})
	}
}

// TestMigrateAtOnce: several processes of a new release start together.
func TestMigrateAtOnce(t *testing.T) {
	for name, d := range testenv.Empty(t) {
		t.Run(name, func(t *testing.T) {
			before, err := db.MigrationStatus(t.Context(), d, "shard")
			if err != nil || len(before) == 0 || before[0].Applied || before[0].Name != "participant" {
				t.Fatalf("status of an empty database: %v, %v", before, err)
			}
			processes := 4
			if d.Dialect == db.SQLite {
				processes = 1 // its file has one process
			}
			var running sync.WaitGroup
			applied := make([][]string, processes)
			for i := range processes {
				running.Go(func() {
					var err error
					if applied[i], err = db.Migrate(context.Background(), d, "shard", nil); err != nil {
						t.Error(err)
					}
				})
			}
			running.Wait()
			names := slices.Concat(applied...)
			slices.Sort(names)
			if len(names) != len(before) || len(slices.Compact(slices.Clone(names))) != len(names) {
				t.Errorf("%d files, applied %v", len(before), applied)
			}
			if n, err := db.PendingMigrations(t.Context(), d, "shard"); n != 0 || err != nil {
				t.Errorf("%d pending, %v", n, err)
			}
		})
	}
}

func migrationFiles(t *testing.T) map[string]string {
	t.Helper()
	texts := make(map[string]string)
	err := fs.WalkDir(migrations.Files, ".", func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		text, err := fs.ReadFile(migrations.Files, path)
		texts[path] = string(text)
		return err
	})
	if err != nil || len(texts) == 0 {
		t.Fatalf("%d files, %v", len(texts), err)
	}
	return texts
}

// TestMigrationFiles: MySQL commits at every change of the schema, so a file with two statements could stop halfway.
func TestMigrationFiles(t *testing.T) {
	name := regexp.MustCompile(`^(mysql|sqlite)/(meta|shard)/[0-9]{4}_[a-z_]+\.sql$`)
	twins := make(map[string]int)
	for path, text := range migrationFiles(t) {
		if !name.MatchString(path) {
			t.Errorf("%s: must be called dialect/set/0001_name.sql", path)
			continue
		}
		up, down, ok := strings.Cut(text, "-- +goose Down")
		if !ok || !strings.HasPrefix(up, "-- +goose Up\n") {
			t.Errorf("%s: must have an Up and a Down part", path)
		}
		for part, sql := range map[string]string{"Up": up, "Down": down} {
			if n := strings.Count(sql, ";"); n != 1 {
				t.Errorf("%s: %s has %d statements, want 1", path, part, n)
			}
		}
		_, twin, _ := strings.Cut(path, "/")
		twins[twin]++
	}
	for path, n := range twins {
		if n != 2 {
			t.Errorf("%s is there in one dialect only", path)
		}
	}
}
