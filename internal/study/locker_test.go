package study

import (
	"context"
	"log/slog"
	"testing"
	"time"

	"github.com/eprod/eprod/internal/audit"
	"github.com/eprod/eprod/internal/db"
	"github.com/eprod/eprod/internal/testenv"
)

// notary is everything that a locker works with, in memory; a message is always on its way.
type notary struct {
	last   Closure // as it was written last
	behind string
	stands []db.Standing
}

func (n *notary) ByID(context.Context, int64) (Study, error)               { return Study{}, nil }
func (n *notary) Unfinished(context.Context) ([]Closure, error)            { return []Closure{n.last}, nil }
func (n *notary) Advance(_ context.Context, c Closure) error               { n.last = c; return nil }
func (n *notary) FinishLock(context.Context, Closure, audit.Entry) error   { return nil }
func (n *notary) FinishUnlock(context.Context, Closure, audit.Entry) error { return nil }
func (n *notary) Barriers(context.Context, int64) (map[int32]bool, error) {
	return map[int32]bool{0: true}, nil
}
func (n *notary) Stand(_ context.Context, _ int64, s db.Standing, _ int64) error {
	n.stands = append(n.stands, s)
	return nil
}
func (n *notary) Quiet(context.Context, int64, bool, time.Time) (int64, error) { return 1, nil }
func (n *notary) Fill(context.Context, int64, *Report) error                   { return nil }
func (n *notary) Spooled(context.Context, int64) (int64, error)                { return 0, nil }
func (n *notary) Barrier(context.Context, int64, int32) error                  { return nil }
func (n *notary) Resend(context.Context, int64) (int64, error)                 { return 0, nil }
func (n *notary) Behind(_ context.Context, lock int64) (string, error) {
	if lock != n.last.ID {
		return "", nil
	}
	return n.behind, nil
}

// TestLockWaitsForSafety: a study is not closed before the consumers of safety have seen everything, however long that takes, and people
// see what it waits for.
func TestLockWaitsForSafety(t *testing.T) {
	clock := testenv.Clock(time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC))
	n := &notary{behind: "safety to follow 3 records of events", last: Closure{ID: 7, Study: 3, State: ClosureLocking, Step: stepFollowers, StepAt: clock.Now()}}
	l := NewLocker(DefaultLockConfig(), LockerParts{Progress: n, Data: n, Intake: n, Followers: n, Partitions: 1, Now: clock.Now, Logger: slog.New(slog.DiscardHandler)})
	for range 5 {
		if err := l.lock(t.Context(), n.last); err != nil {
			t.Fatal(err)
		}
		if n.last.Step != stepFollowers || n.last.Waiting != n.behind || len(n.stands) > 0 {
			t.Fatalf("after %v: %+v, %v", clock.Now().Sub(n.last.StepAt), n.last, n.stands)
		}
		clock.Advance(time.Hour)
	}
	n.behind = ""
	if err := l.lock(t.Context(), n.last); err != nil || n.last.Step != stepMessages {
		t.Errorf("the consumers are there: %+v, %v", n.last, err)
	}
}
