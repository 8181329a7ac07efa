// Package testenv gives tests the real services and throw-away databases on them. Only tests import it.
//
// Where the services are is told by EPROD_TEST_… variables, which `make test` sets from `dev/services env --test`. In CI and under `make test` a
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

// Databases returns migrated databases without rows of a set ("meta" or "shard") by dialect: "sqlite" always, "mysql" where
// the real one runs. They are gone when the test ends.
func Databases(t testing.TB, set string) map[string]*db.DB {
	t.Helper()
	all := Empty(t)
	for _, d := range all {
		migrate(t, d, set)
	}
	return all
}

// Empty is Databases without any table.
func Empty(t testing.TB) map[string]*db.DB {
	t.Helper()
	all := map[string]*db.DB{"sqlite": openSQLite(t)}
	if dsn, ok := service(t, "MySQL", "EPROD_TEST_MYSQL_DSN"); ok {
		all["mysql"] = openMySQL(t, dsn)
	}
	return all
}

// SQLite returns a migrated database in a temporary folder.
func SQLite(t testing.TB, set string) *db.DB {
	t.Helper()
	return migrate(t, openSQLite(t), set)
}

// MySQL returns a migrated database with a random name on the server of the DSN, whose account may make and drop
// databases named eprod_test_….
func MySQL(t testing.TB, dsn, set string) *db.DB {
	t.Helper()
	return migrate(t, openMySQL(t, dsn), set)
}

func openSQLite(t testing.TB) *db.DB {
	t.Helper()
	d, err := db.OpenSQLite(t.Context(), "sqlite", filepath.Join(t.TempDir(), "test.db"), db.DefaultConfig(), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	closeAtEnd(t, d)
	return d
}

func openMySQL(t testing.TB, dsn string) *db.DB {
	t.Helper()
	config, err := mysql.ParseDSN(dsn)
	if err != nil {
		t.Fatalf("EPROD_TEST_MYSQL_DSN: %v", err)
	}
	var random [6]byte
	_, _ = rand.Read(random[:])
	name := "eprod_test_" + hex.EncodeToString(random[:])
	config.DBName, config.Timeout, config.ReadTimeout = "", 5*time.Second, time.Minute
	admin, err := sql.Open("mysql", config.FormatDSN())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := admin.ExecContext(t.Context(), "CREATE DATABASE "+name); err != nil {
		t.Fatalf("create a database on the real MySQL: %v", err)
	}
	t.Cleanup(func() {
		if _, err := admin.ExecContext(context.Background(), "DROP DATABASE "+name); err != nil {
			t.Errorf("drop %s: %v", name, err)
		}
		_ = admin.Close()
	})
	config.DBName = name
	d, err := db.OpenMySQL(t.Context(), "mysql", config.FormatDSN(), db.DefaultConfig(), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	closeAtEnd(t, d)
	return d
}

// Reopen opens the database of d once more, with other settings and, on MySQL, where address is not empty, by way of another
// address, such as that of a Proxy.
func Reopen(t testing.TB, d *db.DB, address string, settings db.Config, log *slog.Logger) *db.DB {
	t.Helper()
	var again *db.DB
	var err error
	if d.Dialect == db.SQLite {
		var path string
		if err := d.Pool().QueryRowContext(t.Context(), "SELECT file FROM pragma_database_list WHERE name = 'main'").Scan(&path); err != nil {
			t.Fatal(err)
		}
		again, err = db.OpenSQLite(t.Context(), "sqlite", path, settings, log)
	} else {
		dsn, _ := service(t, "MySQL", "EPROD_TEST_MYSQL_DSN")
		config, errDSN := mysql.ParseDSN(dsn)
		if errDSN != nil {
			t.Fatal(errDSN)
		}
		if err := d.Pool().QueryRowContext(t.Context(), "SELECT DATABASE()").Scan(&config.DBName); err != nil {
			t.Fatal(err)
		}
		if address != "" {
			config.Addr = address
		}
		again, err = db.OpenMySQL(t.Context(), "mysql", config.FormatDSN(), settings, log)
	}
	if err != nil {
		t.Fatal(err)
	}
	closeAtEnd(t, again)
	return again
}

// Address returns where the MySQL server of the tests listens.
func Address(t testing.TB) string {
	t.Helper()
	dsn, _ := service(t, "MySQL", "EPROD_TEST_MYSQL_DSN")
	config, err := mysql.ParseDSN(dsn)
	if err != nil {
		t.Fatal(err)
	}
	return config.Addr
}

func closeAtEnd(t testing.TB, d *db.DB) {
	t.Cleanup(func() {
		if err := d.Close(); err != nil {
			t.Errorf("close %s: %v", d.Name, err)
		}
	})
}

func migrate(t testing.TB, d *db.DB, set string) *db.DB {
	t.Helper()
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

// Etcd returns the client address of the real etcd, where it runs.
func Etcd(t testing.TB) (address string, ok bool) {
	t.Helper()
	return service(t, "etcd", "EPROD_TEST_ETCD")
}

func service(t testing.TB, name, variable string) (string, bool) {
	t.Helper()
	value := os.Getenv(variable)
	if value != "" {
		return value, true
	}
	if complete() {
		t.Fatalf("%s is not set: in CI and under make test the real %s must run (dev/services up)", variable, name)
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
