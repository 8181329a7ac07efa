package db_test

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	driver "github.com/go-sql-driver/mysql"
	"gorm.io/gorm"

	"github.com/eprod/eprod/internal/db"
	"github.com/eprod/eprod/internal/errs"
	"github.com/eprod/eprod/internal/testenv"
)

// TestDuplicatesAreNamed: gorm's name, the kind and the key must all be found in one error.
func TestDuplicatesAreNamed(t *testing.T) {
	eachShard(t, func(t *testing.T, d *db.DB) {
		account := func(id int64, hash byte) []any {
			return []any{id, 1, bytes.Repeat([]byte{hash}, 32), 0, "", 0, 0, 0}
		}
		columns := []string{"participant_id", "study_id", "activation_hash", "activated_at", "pin_hash", "closed", "failed", "locked_until"}
		insert := func(row []any) error {
			return d.Tx(t.Context(), func(tx *gorm.DB) error { return db.Insert(tx, "participant_account", columns, [][]any{row}) })
		}
		if err := insert(account(1, 1)); err != nil {
			t.Fatal(err)
		}
		keys := map[db.Dialect][2]string{
			db.MySQL:  {"PRIMARY", "participant_account_activation"},
			db.SQLite: {"participant_account.participant_id", "participant_account.activation_hash"},
		}[d.Dialect]
		for i, row := range [][]any{account(1, 2), account(2, 1)} {
			err := fmt.Errorf("add: %w", insert(row))
			if !errors.Is(err, gorm.ErrDuplicatedKey) || !db.IsDuplicate(err) || db.IsRefused(err) {
				t.Errorf("not a duplicate: %v", err)
			}
			if got := db.DuplicateKey(err); got != keys[i] {
				t.Errorf("key %q, want %q", got, keys[i])
			}
			if named := db.Error("account", err); errs.KindOf(named) != errs.Conflict || db.DuplicateKey(named) != keys[i] {
				t.Errorf("kind %v, key %q", errs.KindOf(named), db.DuplicateKey(named))
			}
		}
		if key := db.DuplicateKey(errors.New("Duplicate entry 'x' for key 'y'")); key != "" {
			t.Errorf("a plain text is taken for a duplicate of %q", key)
		}
	})
}

func TestRefusedValues(t *testing.T) {
	eachShard(t, func(t *testing.T, d *db.DB) {
		null, long, wrong := spoolRow(1, "a"), spoolRow(1, strings.Repeat("x", 5000)), spoolRow(1, "a")
		null[9], wrong[3] = nil, "not a number"
		rows := map[string][]any{"Null": null}
		if d.Dialect == db.MySQL { // SQLite's columns have no length and take any type
			rows["TooLong"], rows["WrongType"] = long, wrong
		}
		for name, row := range rows {
			err := d.Tx(t.Context(), func(tx *gorm.DB) error { return db.Insert(tx, "spool", spool, [][]any{row}) })
			if !db.IsRefused(err) || db.IsDuplicate(err) || errs.KindOf(db.Error("spool", err)) == errs.Unavailable {
				t.Errorf("%s: %v", name, err)
			}
		}
	})
}

// TestRepetitionsAreBounded: a rival that always wins costs DeadlockRetries repetitions, then the caller hears of it.
func TestRepetitionsAreBounded(t *testing.T) {
	eachShard(t, func(t *testing.T, d *db.DB) {
		for _, c := range []struct {
			name  string
			err   error
			tries int
		}{
			{"Deadlock", &driver.MySQLError{Number: 1213}, db.DefaultConfig().DeadlockRetries + 1},
			{"LockWait", db.Error("row", &driver.MySQLError{Number: 1205}), db.DefaultConfig().DeadlockRetries + 1},
			{"ReadOnly", &driver.MySQLError{Number: 1290}, 1},
			{"Refusal", errs.Exists("x"), 1},
		} {
			tries := 0
			err := d.Tx(t.Context(), func(*gorm.DB) error { tries++; return c.err })
			if tries != c.tries || !errors.Is(err, c.err) {
				t.Errorf("%s: %d tries, want %d: %v", c.name, tries, c.tries, err)
			}
			want := errs.Unavailable
			if c.name == "Refusal" {
				want = errs.Conflict
			}
			if got := errs.KindOf(err); got != want {
				t.Errorf("%s: kind %v, want %v", c.name, got, want)
			}
		}
	})
}

// TestBusyFile: another process that holds the file costs a bounded wait, and no write once it is gone.
func TestBusyFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a b?#%41&c.db")
	config := db.DefaultConfig()
	config.TxTimeout = 300 * time.Millisecond
	d, err := db.OpenSQLite(t.Context(), "busy", path, config, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	if found, err := filepath.Glob(filepath.Join(filepath.Dir(path), "a b[?]#%41&c.db")); len(found) != 1 || err != nil {
		t.Fatalf("the file is not where it should be: %v, %v", found, err)
	}
	add := func() error {
		return d.Tx(t.Context(), func(tx *gorm.DB) error { return tx.Exec("CREATE TABLE IF NOT EXISTS t (id INTEGER)").Error })
	}
	other, err := sql.Open("sqlite", path2url(path))
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	held, err := other.BeginTx(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	if err := add(); errs.KindOf(err) != errs.Unavailable {
		t.Errorf("got %v, want Unavailable", err)
	}
	if took := time.Since(began); took > 3*time.Second {
		t.Errorf("took %v, may take 300ms", took)
	}
	if err := held.Rollback(); err != nil {
		t.Fatal(err)
	}
	if err := add(); err != nil {
		t.Errorf("after the file is free: %v", err)
	}
}

func path2url(path string) string {
	return "file:" + strings.NewReplacer("%", "%25", "?", "%3f", "#", "%23").Replace(path) + "?_txlock=immediate"
}

// TestManyWriters: writers of one SQLite file queue, and on either dialect none of them fails.
func TestManyWriters(t *testing.T) {
	eachShard(t, func(t *testing.T, d *db.DB) {
		var running sync.WaitGroup
		for w := range 8 {
			running.Go(func() {
				for i := range 10 {
					id := int64(w*100 + i + 1)
					if err := d.Tx(t.Context(), func(tx *gorm.DB) error { return db.Insert(tx, "spool", spool, [][]any{spoolRow(id, "w")}) }); err != nil {
						t.Error(err)
					}
				}
			})
		}
		running.Wait()
		if n := count(t, d); n != 80 {
			t.Errorf("%d rows, want 80", n)
		}
	})
}

// TestReadBesideTx: a read on another connection neither waits for an open transaction nor sees it.
func TestReadBesideTx(t *testing.T) {
	eachShard(t, func(t *testing.T, d *db.DB) {
		err := d.Tx(t.Context(), func(tx *gorm.DB) error {
			if err := db.Insert(tx, "spool", spool, [][]any{spoolRow(1, "a")}); err != nil {
				return err
			}
			ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
			defer cancel()
			var n int64
			if err := d.Read(ctx).Table("spool").Count(&n).Error; err != nil || n != 0 {
				t.Errorf("%d rows, %v; want the state before", n, err)
			}
			return nil
		})
		if err != nil {
			t.Error(err)
		}
	})
}

// TestEndedInTheMiddle: a caller that leaves during a long statement is told that the outcome is unknown, soon.
func TestEndedInTheMiddle(t *testing.T) {
	eachShard(t, func(t *testing.T, d *db.DB) {
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		began := time.Now()
		var n int64
		if err := db.Error("rows", d.Read(ctx).Raw(long(d), 1_000_000_000).Scan(&n).Error); errs.KindOf(err) != errs.Unavailable {
			t.Errorf("got %v, want Unavailable", err)
		}
		if took := time.Since(began); took > 3*time.Second {
			t.Errorf("took %v, may take 100ms", took)
		}
		if err := d.Ping(t.Context()); err != nil {
			t.Errorf("the next caller: %v", err)
		}
	})
}

func long(d *db.DB) string {
	if d.Dialect == db.MySQL {
		return "SELECT SLEEP(?/400000000) FROM DUAL"
	}
	return "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x+1 FROM c WHERE x < ?) SELECT COUNT(*) FROM c"
}

// TestLogHoldsNoValues: a slow statement is told of by its place; values are answers and identities.
func TestLogHoldsNoValues(t *testing.T) {
	eachShard(t, func(t *testing.T, plain *db.DB) {
		var out bytes.Buffer
		d := testenv.Reopen(t, plain, "", db.DefaultConfig(), slog.New(slog.NewTextHandler(&out, nil)))
		for n := 100_000_000; out.Len() == 0 && n <= 3_200_000_000; n *= 2 { // until it is slow on this machine
			size := n
			if d.Dialect == db.SQLite {
				size = n / 100
			}
			var ignored int64
			if err := d.Read(t.Context()).Raw(long(d)+" WHERE ? <> 'x'", size, "Jane Doe").Scan(&ignored).Error; err != nil {
				t.Fatal(err)
			}
		}
		if line := out.String(); !strings.Contains(line, "slow statement") || !strings.Contains(line, "at=db/failure_test.go:") || strings.Contains(line, "Jane") {
			t.Errorf("logged: %s", line)
		}
	})
}
