package db_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"gorm.io/gorm"

	"github.com/eprod/eprod/internal/db"
	"github.com/eprod/eprod/internal/errs"
	"github.com/eprod/eprod/internal/testenv"
)

// watch is a guard that counts what it is told and can refuse.
type watch struct {
	calls, failures int
	open            bool
}

func (w *watch) Do(ctx context.Context, fn func(ctx context.Context) error) error {
	if w.open {
		return errs.Away("the database", errors.New("open"))
	}
	w.calls++
	err := fn(ctx)
	if err != nil {
		w.failures++
	}
	return err
}

// TestGuard: everything that goes to the server asks the guard; what the server answers is no failure; a refusal is Unavailable, before
// the server is asked.
func TestGuard(t *testing.T) {
	realMySQL(t, func(t *testing.T, d *db.DB) {
		w := new(watch)
		d.Protect(w)
		row := spoolRow(1, "a")
		insert := func() error {
			return d.Tx(t.Context(), func(tx *gorm.DB) error { return db.Insert(tx, "spool", spool, [][]any{row}) })
		}
		if err := insert(); err != nil {
			t.Fatal(err)
		}
		if err := insert(); !db.IsDuplicate(err) {
			t.Errorf("the same row again: %v", err)
		}
		if err := d.Read(t.Context()).Exec("INSERT INTO nothing VALUES (1)").Error; err == nil {
			t.Error("an unknown table was written")
		}
		var n int
		if err := d.Read(t.Context()).Raw("SELECT COUNT(*) FROM spool").Scan(&n).Error; err != nil || n != 1 {
			t.Errorf("%d rows, %v", n, err)
		}
		if w.calls != 4 || w.failures != 0 {
			t.Errorf("%d calls and %d failures were told, want 4 and 0", w.calls, w.failures)
		}
		late, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		defer cancel()
		if err := db.Error("x", d.Read(late).Exec("DO SLEEP(5)").Error); errs.KindOf(err) != errs.Unavailable || w.failures != 1 {
			t.Errorf("no answer in time: %v, %d failures told", err, w.failures)
		}
		w.open = true
		for name, err := range map[string]error{"write": insert(), "read": d.Read(t.Context()).Raw("SELECT COUNT(*) FROM spool").Scan(&n).Error} {
			if errs.KindOf(err) != errs.Unavailable || w.calls != 5 {
				t.Errorf("%s while the guard refuses: %v", name, err)
			}
		}
	})
}

// TestHungAtTheEnd: the server hangs between the last statement and the commit, or the rollback. The caller leaves at its deadline, not
// at the driver's time-out for a reply.
func TestHungAtTheEnd(t *testing.T) {
	realMySQL(t, func(t *testing.T, plain *db.DB) {
		proxy := testenv.NewProxy(t, testenv.Address(t))
		d := testenv.Reopen(t, plain, proxy.Address(), db.DefaultConfig(), quiet)
		refused := errors.New("refused")
		for name, outcome := range map[string]error{"commit": nil, "rollback": refused} {
			ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
			began := time.Now()
			err := d.Tx(ctx, func(tx *gorm.DB) error {
				if err := tx.Exec("DO ?", 1).Error; err != nil {
					t.Errorf("before the silence: %v", err)
				}
				proxy.Silence(true)
				return outcome
			})
			took := time.Since(began)
			cancel()
			proxy.Silence(false)
			if outcome == nil && errs.KindOf(err) != errs.Unavailable || outcome != nil && !errors.Is(err, refused) || took > 2*time.Second {
				t.Errorf("%s: %v after %v", name, err, took)
			}
		}
		if err := d.Ping(t.Context()); err != nil {
			t.Errorf("afterwards: %v", err)
		}
	})
}
