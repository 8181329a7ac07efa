// Package testenv gives tests the real services and throw-away databases on them. Only tests import it.
//
// Where the services are is told by EPROD_TEST_… variables, which `make test` sets from `dev/services env --test`. In CI a
// missing service fails the test; elsewhere the test says what it leaves out and how to have it.
package testenv

import (
	"context"
	"crypto/rand"
	"database/sql"
	"encoding/hex"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-sql-driver/mysql"

	"github.com/eprod/eprod/internal/db"
)

// Databases returns empty, migrated databases of a set ("meta" or "shard") by dialect: "sqlite" always, "mysql" where the
// real one runs. They are gone when the test ends.
func Databases(t testing.TB, set string) map[string]*db.DB {
	t.Helper()
	all := map[string]*db.DB{"sqlite": SQLite(t, set)}
	if dsn, ok := service(t, "MySQL", "EPROD_TEST_MYSQL_DSN"); ok {
		all["mysql"] = MySQL(t, dsn, set)
	}
	return all
}

// SQLite returns a migrated database in a temporary folder.
func SQLite(t testing.TB, set string) *db.DB {
	t.Helper()
	d, err := db.OpenSQLite(t.Context(), set, filepath.Join(t.TempDir(), set+".db"), db.DefaultConfig(), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	return migrated(t, d, set)
}

// MySQL returns a migrated database with a random name on the server of the DSN, whose account may make and drop
// databases named eprod_test_….
func MySQL(t testing.TB, dsn, set string) *db.DB {
	t.Helper()
	config, err := mysql.ParseDSN(dsn)
	if err != nil {
		t.Fatalf("EPROD_TEST_MYSQL_DSN: %v", err)
	}
	var random [6]byte
	_, _ = rand.Read(random[:])
	name := "eprod_test_" + hex.EncodeToString(random[:])
	config.DBName = ""
	admin, err := sql.Open("mysql", config.FormatDSN())
	if err != nil {
		t.Fatal(err)
	}
	exec := func(ctx context.Context, statement string) {
		if _, err := admin.ExecContext(ctx, statement); err != nil {
			t.Errorf("%s: %v", statement, err)
		}
	}
	exec(t.Context(), "CREATE DATABASE "+name)
	t.Cleanup(func() {
		exec(context.Background(), "DROP DATABASE "+name)
		_ = admin.Close()
	})
	config.DBName = name
	d, err := db.OpenMySQL(t.Context(), set, config.FormatDSN(), db.DefaultConfig(), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	return migrated(t, d, set)
}

func migrated(t testing.TB, d *db.DB, set string) *db.DB {
	t.Helper()
	t.Cleanup(func() {
		if err := d.Close(); err != nil {
			t.Errorf("close %s: %v", d.Name, err)
		}
	})
	if _, err := db.Migrate(t.Context(), d, set, nil); err != nil {
		t.Fatal(err)
	}
	return d
}

// Shards returns a map of two migrated shards per dialect, half of the buckets on each.
func Shards(t testing.TB) map[string]*db.Shards {
	t.Helper()
	first, second := Databases(t, "shard"), Databases(t, "shard")
	all := make(map[string]*db.Shards, len(first))
	for dialect, d := range first {
		d.Name, second[dialect].Name = "shard0", "shard1"
		shards, err := db.NewShards([]*db.DB{d, second[dialect]}, []db.BucketRange{{First: 0, Last: 127}, {First: 128, Last: 255}})
		if err != nil {
			t.Fatal(err)
		}
		all[dialect] = shards
	}
	return all
}

// Kafka returns the brokers of the real Kafka, where it runs.
func Kafka(t testing.TB) (brokers []string, ok bool) {
	t.Helper()
	list, ok := service(t, "Kafka", "EPROD_TEST_KAFKA")
	return strings.Split(list, ","), ok
}

// Redis returns the address of the real Redis, where it runs.
func Redis(t testing.TB) (address string, ok bool) {
	t.Helper()
	return service(t, "Redis", "EPROD_TEST_REDIS")
}

func service(t testing.TB, name, variable string) (string, bool) {
	t.Helper()
	value := os.Getenv(variable)
	if value != "" {
		return value, true
	}
	if os.Getenv("CI") == "true" {
		t.Fatalf("%s is not set: in CI the real %s must run (dev/services up)", variable, name)
	}
	t.Logf("left out: the real %s. To have it: make services-up && eval \"$(dev/services env --test)\"", name)
	return "", false
}

// IDs returns a source of unique, growing ids for rows.
func IDs() func() int64 {
	var last atomic.Int64
	last.Store(time.Now().UnixMilli() << 22)
	return func() int64 { return last.Add(1) }
}

// FakeClock is a clock that moves only when it is told to. It is safe for concurrent use.
type FakeClock struct {
	mu  sync.Mutex
	now time.Time
}

// Clock returns a fake clock that shows start.
func Clock(start time.Time) *FakeClock { return &FakeClock{now: start} }

// Now returns what the clock shows.
func (c *FakeClock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

// Advance moves the clock; d may be negative.
func (c *FakeClock) Advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}
