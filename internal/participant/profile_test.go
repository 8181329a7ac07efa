package participant

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/eprod/eprod/internal/errs"
	"github.com/eprod/eprod/internal/keyring"
	"github.com/eprod/eprod/internal/task"
	"github.com/eprod/eprod/internal/testenv"
)

// fakeRecords counts reads and may hold them back.
type fakeRecords struct {
	reads atomic.Int64
	gate  chan struct{} // nil: open
	err   error
	there map[int64]*Participant
}

func (f *fakeRecords) ByID(ctx context.Context, ids []int64) (map[int64]*Participant, error) {
	f.reads.Add(1)
	if f.gate != nil {
		select {
		case <-f.gate:
		case <-ctx.Done():
			return nil, errs.Away("shard", ctx.Err())
		}
	}
	out := make(map[int64]*Participant)
	for _, id := range ids {
		if p := f.there[id]; p != nil {
			out[id] = p
		}
	}
	return out, f.err
}

type noKeys struct{}

func (noKeys) DataKey(int64, []byte) (*keyring.DataKey, error) { return nil, nil }

func profiles(t *testing.T, size int, records Records, now func() time.Time) *Profiles {
	t.Helper()
	p, err := NewProfiles(ProfileConfig{Size: size, TTL: time.Minute, LoadTimeout: time.Second}, records, noKeys{}, now)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func people(ids ...int64) map[int64]*Participant {
	out := make(map[int64]*Participant)
	for _, id := range ids {
		out[id] = &Participant{ID: id, Study: 7, Number: "n", Status: Enrolled, Zones: []task.ZoneChange{{Zone: "UTC"}}}
	}
	return out
}

func TestProfilesRemember(t *testing.T) {
	clock := testenv.Clock(time.Date(2026, 11, 23, 20, 0, 0, 0, time.UTC))
	records := &fakeRecords{there: people(1, 2, 3)}
	p := profiles(t, 10, records, clock.Now)
	ctx := t.Context()
	reads := func(want int64, what string) {
		t.Helper()
		if got := records.reads.Load(); got != want {
			t.Errorf("%s: %d reads, want %d", what, got, want)
		}
	}
	for range 3 {
		if got, err := p.Get(ctx, 1); err != nil || got.ID != 1 {
			t.Fatal(got, err)
		}
	}
	reads(1, "three times the same")
	got, err := p.GetMany(ctx, []int64{1, 2, 3, 2, 4})
	if err != nil || len(got) != 3 {
		t.Fatal(got, err)
	}
	reads(2, "many, of which one was known")
	p.activated(1)
	if got, err := p.Get(ctx, 1); err != nil || got.Status != ActiveStatus {
		t.Error("activation did not reach the profile", got, err)
	}
	p.activated(4711)
	reads(2, "activation")
	p.Forget(1)
	if got, err := p.Get(ctx, 1); err != nil || got.Status != Enrolled {
		t.Error(got, err)
	}
	reads(3, "forgotten")
	clock.Advance(time.Minute)
	if study, number, err := p.Number(ctx, 1); err != nil || study != 7 || number != "n" {
		t.Error(study, number, err)
	}
	reads(4, "after the time")
	if _, err := p.Get(ctx, 9); errs.KindOf(err) != errs.NotFound {
		t.Errorf("nobody: %v", err)
	}
	records.err = errs.Away("shard", errors.New("down"))
	if _, err := p.Person(ctx, 8); errs.KindOf(err) != errs.Unavailable {
		t.Errorf("shard away: %v", err)
	}
}

func TestProfilesAreBounded(t *testing.T) {
	records := &fakeRecords{there: people(1, 2, 3)}
	p := profiles(t, 2, records, time.Now)
	for _, id := range []int64{1, 2, 3} {
		if _, err := p.Get(t.Context(), id); err != nil {
			t.Fatal(err)
		}
	}
	if n := p.known.Len(); n != 2 {
		t.Errorf("%d profiles, bound 2", n)
	}
}

// TestProfilesShareOneRead lets callers come while a read is under way: they share it, and one that gives up does not end it.
func TestProfilesShareOneRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		records := &fakeRecords{there: people(1), gate: make(chan struct{})}
		p := profiles(t, 10, records, time.Now)
		impatient, cancel := context.WithCancel(t.Context())
		var left error
		var all sync.WaitGroup
		all.Go(func() { _, left = p.Get(impatient, 1) })
		synctest.Wait()
		for range 5 {
			all.Go(func() {
				if got, err := p.Get(t.Context(), 1); err != nil || got.ID != 1 {
					t.Error(got, err)
				}
			})
		}
		synctest.Wait()
		cancel()
		synctest.Wait()
		if errs.KindOf(left) != errs.Unavailable {
			t.Errorf("the impatient caller: %v", left)
		}
		close(records.gate)
		all.Wait()
		if n := records.reads.Load(); n != 1 {
			t.Errorf("%d reads, want 1", n)
		}
	})
}

func TestProfileReadIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		records := &fakeRecords{there: people(1), gate: make(chan struct{})}
		p := profiles(t, 10, records, time.Now)
		began := time.Now()
		_, err := p.Get(t.Context(), 1)
		if errs.KindOf(err) != errs.Unavailable || time.Since(began) != time.Second {
			t.Errorf("after %s: %v; want unavailable after the time of one read", time.Since(began), err)
		}
	})
}
