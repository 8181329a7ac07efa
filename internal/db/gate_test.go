package db_test

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"gorm.io/gorm"

	"github.com/eprod/eprod/internal/db"
	"github.com/eprod/eprod/internal/errs"
)

func admitted(t *testing.T, d *db.DB, c db.Claim) error {
	t.Helper()
	return d.Tx(t.Context(), func(tx *gorm.DB) error { return d.Admit(tx, c) })
}

func TestStandings(t *testing.T) {
	eachShard(t, func(t *testing.T, d *db.DB) {
		for _, step := range []struct {
			standing  db.Standing
			fence     int64
			refused   bool // the step itself
			ordinary  bool
			drain     bool
			ofAnother bool
		}{
			{db.Closing, 10, false, false, true, true}, {db.Closing, 10, false, false, true, true}, {db.Closed, 10, false, false, false, true}, {db.Closing, 10, true, false, false, true},
			{db.Open, 10, false, true, true, true}, {db.Closed, 10, true, true, true, true}, {db.Closing, 11, false, false, true, true}, {db.Open, 10, true, false, true, true},
			{db.Closed, 11, false, false, false, true}, {db.Open, 10, true, false, false, true}, {db.Open, 11, false, true, true, true},
		} {
			before, _ := d.StandingOf(t.Context(), 7)
			if err := d.SetStanding(t.Context(), 7, step.standing, step.fence); err != nil != step.refused || err != nil && errs.KindOf(err) != errs.Stale {
				t.Fatalf("%s with fence %d: %v", step.standing, step.fence, err)
			}
			if step.refused {
				step.standing = before
			}
			for _, try := range []struct {
				claim db.Claim
				want  bool
			}{
				{db.Claim{Study: 7, Participant: 99}, step.ordinary},
				{db.Claim{Study: 7, Participant: 99, Pass: db.Drain}, step.drain},
				{db.Claim{Study: 7, Participant: 99, Pass: db.Keeper}, true},
				{db.Claim{Study: 8, Participant: 99}, step.ofAnother},
			} {
				err := admitted(t, d, try.claim)
				if (err == nil) != try.want || err != nil && !db.IsClosed(err) {
					t.Errorf("%s: %+v: %v", step.standing, try.claim, err)
				}
			}
			if is, err := d.StandingOf(t.Context(), 7); is != step.standing || err != nil {
				t.Errorf("is %s, %v; want %s", is, err, step.standing)
			}
		}
	})
}

// TestAdmitFindsTheStudy: a caller that knows the participant only is held to the participant's study.
func TestAdmitFindsTheStudy(t *testing.T) {
	eachShard(t, func(t *testing.T, d *db.DB) {
		columns := []string{"id", "study_id", "site_id", "arm", "number", "status", "zone", "language", "anchors", "data_key", "version", "created_at", "bucket", "left_at"}
		err := d.Tx(t.Context(), func(tx *gorm.DB) error {
			return db.Insert(tx, "participant", columns, [][]any{{5, 7, 1, "", "0005", "active", "UTC", "en", "{}", []byte{1}, 1, 1, db.Bucket(5), 0}})
		})
		if err != nil {
			t.Fatal(err)
		}
		if err := admitted(t, d, db.Claim{Participant: 5}); err != nil {
			t.Error(err)
		}
		if err := d.SetStanding(t.Context(), 7, db.Closed, 1); err != nil {
			t.Fatal(err)
		}
		if err := admitted(t, d, db.Claim{Participant: 5}); !db.IsClosed(err) {
			t.Errorf("got %v", err)
		}
	})
}

func TestBucketElsewhere(t *testing.T) {
	eachShard(t, func(t *testing.T, d *db.DB) {
		if _, err := d.Pool().ExecContext(t.Context(), "UPDATE bucket SET standing = 'gone' WHERE bucket = 3"); err != nil {
			t.Fatal(err)
		}
		ask := func(buckets ...int) error {
			return d.Tx(t.Context(), func(tx *gorm.DB) error { _, err := d.Ask(tx, buckets...); return err })
		}
		for _, there := range [][]int{{1}, {1, 2, 1, 1, 4}, {250, 251, 252, 253, 254, 255, 0}} {
			if err := ask(there...); err != nil {
				t.Errorf("%v: %v", there, err)
			}
		}
		for _, gone := range [][]int{{3}, {1, 3}, {3, 3, 4, 5, 6}} {
			if err := ask(gone...); !db.IsMoved(err) || errs.KindOf(err) != errs.Unavailable {
				t.Errorf("%v: %v", gone, err)
			}
		}
	})
}

// TestNothingIsWrittenOnceClosed: writers go on while a study is closed, and from the moment at which SetStanding returns nothing of
// it appears any more. Writers that do not ask are the proof that the test would notice.
func TestNothingIsWrittenOnceClosed(t *testing.T) {
	eachShard(t, func(t *testing.T, d *db.DB) {
		if late := writtenOnceClosed(t, d, 70, true); late != 0 {
			t.Errorf("%d rows appeared after the study was closed", late)
		}
		if late := writtenOnceClosed(t, d, 71, false); late == 0 {
			t.Error("writers that do not ask wrote nothing, so this test cannot fail")
		}
	})
}

// writtenOnceClosed returns how many rows of a study appear after it was closed.
func writtenOnceClosed(t *testing.T, d *db.DB, study int64, ask bool) int64 {
	t.Helper()
	const writers = 6
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	var ids, refused atomic.Int64
	var running sync.WaitGroup
	started := make(chan struct{}, writers*1000)
	for range writers {
		running.Go(func() {
			for ctx.Err() == nil {
				id := ids.Add(1)
				err := d.Tx(ctx, func(tx *gorm.DB) error {
					if ask {
						if err := d.Admit(tx, db.Claim{Study: study, Participant: id}); err != nil {
							return err
						}
					}
					return db.Insert(tx, "task_refresh", []string{"participant_id", "study_id", "bucket", "asked_at"}, [][]any{{study*1_000_000 + id, study, 0, id}})
				})
				switch {
				case db.IsClosed(err):
					refused.Add(1)
				case err != nil && ctx.Err() == nil && !errors.Is(err, context.Canceled):
					t.Error(err)
					return
				}
				select {
				case started <- struct{}{}:
				default:
				}
			}
		})
	}
	for range 4 * writers {
		<-started
	}
	if err := d.SetStanding(t.Context(), study, db.Closed, 1); err != nil {
		t.Error(err)
	}
	then := rowsOf(t, d, study)
	for len(started) > 0 {
		<-started
	}
	for range 8 * writers {
		<-started
	}
	stop()
	running.Wait()
	if ask && refused.Load() == 0 {
		t.Error("nobody was refused")
	}
	return rowsOf(t, d, study) - then
}

func rowsOf(t *testing.T, d *db.DB, study int64) (n int64) {
	t.Helper()
	if err := d.Read(t.Context()).Table("task_refresh").Where("study_id = ?", study).Count(&n).Error; err != nil {
		t.Error(err)
	}
	return n
}

// TestAMoveOrALock: a bucket that sets off and a study that begins to be closed keep each other off, also while neither has committed.
func TestAMoveOrALock(t *testing.T) {
	realMySQL(t, func(t *testing.T, d *db.DB) {
		setOff := func(meanwhile func()) (still bool, err error) {
			err = d.Tx(t.Context(), func(tx *gorm.DB) error {
				if still, err = db.NoneClosing(tx); err != nil || !still {
					return err
				}
				if err := tx.Exec("UPDATE bucket SET standing = 'watched' WHERE bucket = 9").Error; err != nil {
					return err
				}
				meanwhile()
				return nil
			})
			return still, err
		}
		still, err := setOff(func() {
			short, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
			defer cancel()
			if err := d.SetStanding(short, 7, db.Closing, 1); errs.KindOf(err) != errs.Unavailable {
				t.Errorf("while a bucket sets off: %v", err)
			}
		})
		if !still || err != nil {
			t.Fatalf("nothing is being closed: %v, %v", still, err)
		}
		if is, err := d.StandingOf(t.Context(), 7); is != db.Open || err != nil {
			t.Errorf("the study is %s: %v", is, err)
		}
		if err := d.SetStanding(t.Context(), 7, db.Closing, 1); errs.KindOf(err) != errs.Unavailable {
			t.Errorf("while a bucket is on its way: %v", err)
		}
		if _, err := d.Pool().ExecContext(t.Context(), "UPDATE bucket SET standing = 'here'"); err != nil {
			t.Fatal(err)
		}
		if err := d.SetStanding(t.Context(), 7, db.Closing, 1); err != nil {
			t.Fatal(err)
		}
		if still, err := setOff(func() { t.Error("a bucket sets off") }); still || err != nil {
			t.Errorf("while a study is being closed: %v, %v", still, err)
		}
		if err := d.SetStanding(t.Context(), 7, db.Closed, 1); err != nil {
			t.Fatal(err)
		}
		if still, err := setOff(func() {}); !still || err != nil {
			t.Errorf("once it is closed: %v, %v", still, err)
		}
	})
}
