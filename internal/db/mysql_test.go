package db_test

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"strings"
	"testing"
	"time"

	"gorm.io/gorm"

	"github.com/eprod/eprod/internal/db"
	"github.com/eprod/eprod/internal/errs"
	"github.com/eprod/eprod/internal/testenv"
)

// realMySQL runs a test on the real MySQL, where it runs.
func realMySQL(t *testing.T, test func(t *testing.T, d *db.DB)) {
	if d, ok := testenv.Databases(t, "shard")["mysql"]; ok {
		test(t, d)
	}
}

var quiet = slog.New(slog.DiscardHandler)

// TestHungListener: a server that takes the connection and never answers costs a bounded wait.
func TestHungListener(t *testing.T) {
	hung, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer hung.Close()
	config := db.DefaultConfig()
	config.ReadTimeout, config.DialTimeout, config.TxTimeout = 200*time.Millisecond, 200*time.Millisecond, 400*time.Millisecond
	d, err := db.OpenMySQL(t.Context(), "hung", fmt.Sprintf("u:p@tcp(%s)/x?timeout=0&readTimeout=0", hung.Addr()), config, quiet)
	if err != nil {
		t.Fatalf("opening must not need the server: %v", err)
	}
	defer d.Close()
	for name, use := range map[string]func() error{
		"Ping": func() error { return d.Ping(t.Context()) },
		"Read": func() error { var n int; return db.Error("x", d.Read(t.Context()).Raw("SELECT ?", 1).Scan(&n).Error) },
		"Tx":   func() error { return d.Tx(t.Context(), func(*gorm.DB) error { return nil }) },
	} {
		began := time.Now()
		if err := use(); errs.KindOf(err) != errs.Unavailable {
			t.Errorf("%s: got %v, want Unavailable", name, err)
		}
		if took := time.Since(began); took > 4*time.Second {
			t.Errorf("%s took %v", name, took)
		}
	}
}

// TestHungInTheMiddle: connections that are in use fall silent. Each caller leaves at its own deadline or at the read
// time-out, also those whose statement another caller is just preparing.
func TestHungInTheMiddle(t *testing.T) {
	realMySQL(t, func(t *testing.T, plain *db.DB) {
		proxy := testenv.NewProxy(t, testenv.Address(t))
		config := db.DefaultConfig()
		config.ReadTimeout = time.Second
		d := testenv.Reopen(t, plain, proxy.Address(), config, quiet)
		if err := d.Ping(t.Context()); err != nil {
			t.Fatal(err)
		}
		proxy.Silence(true)
		results := make(chan time.Duration, 6)
		for i := range 6 {
			go func() {
				ctx, cancel := context.WithTimeout(context.Background(), time.Duration(100+50*i)*time.Millisecond)
				defer cancel()
				began := time.Now()
				var n int
				if err := db.Error("x", d.Read(ctx).Raw("SELECT ?", 1).Scan(&n).Error); errs.KindOf(err) != errs.Unavailable {
					t.Errorf("got %v, want Unavailable", err)
				}
				results <- time.Since(began)
			}()
		}
		for range 6 {
			if took := <-results; took > 3*time.Second {
				t.Errorf("a caller with a deadline of at most 350ms waited %v", took)
			}
		}
		began := time.Now()
		if err := d.Tx(t.Context(), func(tx *gorm.DB) error { return tx.Exec("DO ?", 1).Error }); errs.KindOf(err) != errs.Unavailable {
			t.Errorf("got %v, want Unavailable", err)
		}
		if took := time.Since(began); took > 8*time.Second {
			t.Errorf("a caller without a deadline waited %v, the read time-out is 1s", took)
		}
		proxy.Silence(false)
		if err := d.Ping(t.Context()); err != nil {
			t.Errorf("after the server is back: %v", err)
		}
	})
}

// TestCommitWithoutReply: the commit happened and nobody can say so. It must neither count as done nor be repeated here.
func TestCommitWithoutReply(t *testing.T) {
	realMySQL(t, func(t *testing.T, plain *db.DB) {
		proxy := testenv.NewProxy(t, testenv.Address(t))
		d := testenv.Reopen(t, plain, proxy.Address(), db.DefaultConfig(), quiet)
		proxy.LoseReply("\x03COMMIT") // the command byte of a query, then its text
		tries := 0
		err := d.Tx(t.Context(), func(tx *gorm.DB) error {
			tries++
			return db.Insert(tx, "spool", spool, [][]any{spoolRow(1, "a")})
		})
		if errs.KindOf(err) != errs.Unavailable || tries != 1 || !proxy.Lost() {
			t.Fatalf("got %v after %d tries, want Unavailable after 1", err, tries)
		}
		if n := count(t, plain); n != 1 {
			t.Errorf("%d rows: the server had committed", n)
		}
	})
}

// TestSession holds what every connection must agree on with the server, whatever the DSN says.
func TestSession(t *testing.T) {
	realMySQL(t, func(t *testing.T, d *db.DB) {
		err := d.Tx(t.Context(), func(tx *gorm.DB) error {
			var isolation, mode, collation, charset string
			err := tx.Raw("SELECT @@transaction_isolation, @@sql_mode, @@collation_connection, @@character_set_client").Row().Scan(&isolation, &mode, &collation, &charset)
			if err != nil {
				return err
			}
			if isolation != "READ-COMMITTED" || !strings.Contains(mode, "STRICT_ALL_TABLES") || collation != "utf8mb4_0900_bin" || charset != "utf8mb4" {
				t.Errorf("isolation %s, sql_mode %s, collation %s, charset %s", isolation, mode, collation, charset)
			}
			// The isolation of the running transaction shows in what it sees of others' commits.
			if err := db.Insert(tx, "spool", spool, [][]any{spoolRow(1, "a")}); err != nil {
				return err
			}
			beside := func(inner *gorm.DB) error { return db.Insert(inner, "spool", spool, [][]any{spoolRow(2, "b")}) }
			if err := d.Tx(t.Context(), beside); err != nil {
				return err
			}
			var n int64
			if err := tx.Table("spool").Count(&n).Error; err != nil || n != 2 {
				t.Errorf("%d rows, want 2: not READ COMMITTED", n)
			}
			same := tx.Exec("UPDATE spool SET source = ? WHERE id = ?", "a", 1)
			if same.Error != nil || same.RowsAffected != 1 {
				t.Errorf("an update that changes nothing found %d rows, want 1", same.RowsAffected)
			}
			return same.Error
		})
		if err != nil {
			t.Error(err)
		}
	})
}

// TestBadDSN: the error helps and holds no password.
func TestBadDSN(t *testing.T) {
	_, err := db.OpenMySQL(t.Context(), "meta", "eprod:hunter2@127.0.0.1", db.DefaultConfig(), quiet)
	if err == nil || strings.Contains(err.Error(), "hunter2") || !strings.Contains(err.Error(), "user:password@tcp(host:3306)/name") {
		t.Errorf("got %v", err)
	}
}

// TestStatementsStayPrepared: once per connection, in and out of transactions, and never more than the bound.
func TestStatementsStayPrepared(t *testing.T) {
	realMySQL(t, func(t *testing.T, d *db.DB) {
		d.Pool().SetMaxOpenConns(1)
		status := func(name string) (n int) {
			if err := d.Pool().QueryRowContext(t.Context(), "SHOW SESSION STATUS LIKE '"+name+"'").Scan(&name, &n); err != nil {
				t.Fatal(err)
			}
			return n
		}
		before := status("Com_stmt_prepare")
		for i := range 20 {
			err := d.Tx(t.Context(), func(tx *gorm.DB) error { return db.Insert(tx, "spool", spool, [][]any{spoolRow(int64(i+1), "a")}) })
			if err != nil {
				t.Fatal(err)
			}
			var found []int64
			if err := d.Read(t.Context()).Table("spool").Where("id > ?", i).Pluck("id", &found).Error; err != nil || len(found) != 1 {
				t.Fatalf("found %v, %v", found, err)
			}
		}
		if n := status("Com_stmt_prepare") - before; n != 2 {
			t.Errorf("%d preparations of 2 statements", n)
		}
		opened, closed := status("Com_stmt_prepare"), status("Com_stmt_close")
		for i := range 300 {
			var n int
			if err := d.Read(t.Context()).Raw(fmt.Sprintf("SELECT ? + %d", i), 1).Scan(&n).Error; err != nil || n != i+1 {
				t.Fatalf("%d, %v", n, err)
			}
		}
		if n := status("Com_stmt_prepare") - opened - (status("Com_stmt_close") - closed); n > 160 {
			t.Errorf("the connection keeps %d statements", n)
		}
	})
}

// TestMigrationsArePatient: a change of the schema takes as long as it takes, whatever the time-out of other statements.
func TestMigrationsArePatient(t *testing.T) {
	d, ok := testenv.Empty(t)["mysql"]
	if !ok {
		return
	}
	config := db.DefaultConfig()
	config.ReadTimeout = time.Millisecond
	hasty := testenv.Reopen(t, d, "", config, quiet)
	if err := hasty.Read(t.Context()).Exec("CREATE TABLE t (id INT)").Error; err == nil {
		t.Log("this server is quicker than a millisecond")
	}
	if applied, err := db.Migrate(t.Context(), hasty, "meta", slog.New(slog.NewTextHandler(io.Discard, nil))); err != nil || len(applied) == 0 {
		t.Errorf("applied %d, %v", len(applied), err)
	}
}
