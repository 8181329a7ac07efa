package idgen_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"gorm.io/gorm"
	"pgregory.net/rapid"

	"github.com/eprod/eprod/internal/db"
	"github.com/eprod/eprod/internal/errs"
	"github.com/eprod/eprod/internal/idgen"
	"github.com/eprod/eprod/internal/testenv"
)

// memory is Leases without a database; it passes the same suite as the store.
type memory struct {
	mu   sync.Mutex
	rows map[int]*memoryRow
	fail error // given instead of an answer, after the change was made
}

type memoryRow struct {
	fence               int64
	deadline, highWater time.Time
}

func newMemory() *memory { return &memory{rows: map[int]*memoryRow{}} }

func (m *memory) Take(_ context.Context, _ string, now, until time.Time) (idgen.Grant, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	free, floor := -1, time.Time{}
	for w := range idgen.Workers {
		if row := m.rows[w]; row != nil && row.deadline.Before(now) && row.highWater.Before(now) {
			free, floor = w, row.highWater
			break
		}
	}
	for w := 0; free < 0 && w < idgen.Workers; w++ {
		if m.rows[w] == nil {
			m.rows[w], free = &memoryRow{}, w
		}
	}
	if free < 0 {
		return idgen.Grant{}, errs.Away("a free worker number", nil)
	}
	row := m.rows[free]
	row.fence, row.deadline, row.highWater = row.fence+1, until, until
	return idgen.Grant{Worker: free, Fence: row.fence, Floor: floor}, m.fail
}

func (m *memory) Renew(_ context.Context, g idgen.Grant, until time.Time) (bool, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	row := m.rows[g.Worker]
	if row.fence != g.Fence {
		return false, m.fail
	}
	row.deadline, row.highWater = until, until
	return true, m.fail
}

func (m *memory) Release(_ context.Context, g idgen.Grant, highWater time.Time) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if row := m.rows[g.Worker]; row.fence == g.Fence {
		row.deadline, row.highWater = time.Time{}, highWater
	}
	return m.fail
}

// eachLeases runs a test over the store on every database and over the one in memory.
func eachLeases(t *testing.T, test func(t *testing.T, leases idgen.Leases)) {
	for name, d := range testenv.Databases(t, "meta") {
		t.Run(name, func(t *testing.T) { test(t, idgen.NewStore(d)) })
	}
	t.Run("memory", func(t *testing.T) { test(t, newMemory()) })
	for name, address := range redisServers(t) {
		t.Run(name, func(t *testing.T) {
			test(t, rested(t, redisClient(t, address), prefix(), time.Minute))
		})
	}
	if address, ok := testenv.Etcd(t); ok {
		t.Run("etcd", func(t *testing.T) { test(t, idgen.NewEtcdLeases(etcdClient(t, address), prefix())) })
	}
}

func prefix() string { return fmt.Sprintf("t%d:", time.Now().UnixNano()) }

func etcdClient(t testing.TB, address string) *clientv3.Client {
	t.Helper()
	client, err := clientv3.New(clientv3.Config{Endpoints: []string{address}, DialTimeout: 5 * time.Second, Logger: zap.NewNop()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = client.Close() })
	return client
}

func TestLeases(t *testing.T) {
	eachLeases(t, func(t *testing.T, leases idgen.Leases) {
		now := newClock().Now()
		take := func(at time.Time) idgen.Grant {
			t.Helper()
			g, err := leases.Take(t.Context(), "host/1", at, at.Add(time.Minute))
			if err != nil {
				t.Fatal(err)
			}
			return g
		}
		a, b := take(now), take(now)
		if a.Worker != 0 || b.Worker != 1 {
			t.Fatalf("workers %d and %d, want 0 and 1", a.Worker, b.Worker)
		}
		if held, err := leases.Renew(t.Context(), a, now.Add(2*time.Minute)); !held || err != nil {
			t.Fatal(held, err)
		}
		if c := take(now.Add(2 * time.Minute)); c.Worker != 1 || c.Fence != b.Fence+1 || !c.Floor.Equal(now.Add(time.Minute)) {
			t.Errorf("%+v: want number 1, whose owner is gone, above its high water", c)
		}
		if held, err := leases.Renew(t.Context(), b, now.Add(time.Hour)); held || err != nil {
			t.Errorf("the old owner renewed: %v %v", held, err)
		}
		if err := leases.Release(t.Context(), b, now); err != nil {
			t.Error(err)
		}
		if err := leases.Release(t.Context(), a, now.Add(5*time.Millisecond)); err != nil {
			t.Error(err)
		}
		if d := take(now.Add(5 * time.Millisecond)); d.Worker != 2 {
			t.Errorf("%+v: number 0 must rest until the clock is past its last id", d)
		}
		if e := take(now.Add(6 * time.Millisecond)); e.Worker != 0 || !e.Floor.Equal(now.Add(5*time.Millisecond)) {
			t.Errorf("%+v: want number 0, which was given back", e)
		}
	})
}

func TestTakeTogether(t *testing.T) {
	eachLeases(t, func(t *testing.T, leases idgen.Leases) {
		now := newClock().Now()
		var mu sync.Mutex
		owners := map[int]int{}
		for round := range 2 { // first new numbers, then those left behind
			at := now.Add(time.Duration(round) * time.Hour)
			clear(owners)
			var wg sync.WaitGroup
			for range 12 {
				wg.Go(func() {
					g, err := leases.Take(t.Context(), "x", at, at.Add(time.Minute))
					if err != nil {
						t.Error(err)
					}
					mu.Lock()
					owners[g.Worker]++
					mu.Unlock()
				})
			}
			wg.Wait()
			if len(owners) != 12 {
				t.Errorf("round %d: 12 processes share %d numbers: %v", round, len(owners), owners)
			}
		}
	})
}

func TestNoNumberLeft(t *testing.T) {
	for name, d := range testenv.Databases(t, "meta") {
		t.Run(name, func(t *testing.T) {
			rows := make([][]any, idgen.Workers)
			until := newClock().Now().Add(time.Minute)
			for w := range rows {
				rows[w] = []any{w, "x", 1, db.Micros(until), db.Micros(until)}
			}
			err := d.Tx(t.Context(), func(tx *gorm.DB) error {
				return db.Insert(tx, "worker_lease", []string{"worker", "owner", "fence", "deadline_at", "high_water_at"}, rows)
			})
			if err != nil {
				t.Fatal(err)
			}
			store := idgen.NewStore(d)
			if _, err := store.Take(t.Context(), "y", until, until.Add(time.Minute)); errs.KindOf(err) != errs.Unavailable {
				t.Errorf("at the deadline: %v", err)
			}
			if g, err := store.Take(t.Context(), "y", until.Add(time.Microsecond), until.Add(time.Minute)); err != nil || g.Worker != 0 {
				t.Errorf("past the deadline: %+v %v", g, err)
			}
		})
	}
}

// process is one run of the program: a generator with its own clock and lease.
type process struct {
	gen   *idgen.Snowflake
	lease *idgen.Lease
	clock *fakeClock
}

func start(t interface {
	Helper()
	Fatal(...any)
}, leases idgen.Leases, clock *fakeClock) *process {
	t.Helper()
	cfg := idgen.DefaultConfig()
	gen, err := idgen.New(cfg, idgen.Deps{Clock: clock.Now, Sleep: clock.Sleep})
	if err != nil {
		t.Fatal(err)
	}
	return &process{gen, idgen.NewLease(gen, leases, cfg, "test", slog.New(slog.DiscardHandler)), clock}
}

// stop ends a process properly.
func (p *process) stop(ctx context.Context) error {
	ended, cancel := context.WithCancel(ctx)
	cancel()
	return p.lease.Run(ended)
}

func TestLeaseTakeOver(t *testing.T) {
	eachLeases(t, func(t *testing.T, leases idgen.Leases) {
		own, others := newClock(), newClock() // a's machine will be paused: its clock then stands still
		a := start(t, leases, own)
		if _, err := a.gen.Next(); !errors.Is(err, idgen.ErrNoLease) || errs.KindOf(err) != errs.Unavailable {
			t.Fatalf("an id without a lease: %v", err)
		}
		if err := a.lease.Acquire(t.Context()); err != nil {
			t.Fatal(err)
		}
		own.Add(30*time.Second - time.Millisecond)
		last := next(t, a.gen) // in the last millisecond of the lease
		seen := map[int64]bool{last: true}

		others.Add(30*time.Second + time.Millisecond)
		b := start(t, leases, others)
		if err := b.lease.Acquire(t.Context()); err != nil {
			t.Fatal(err)
		}
		if b.lease.Worker() != 0 {
			t.Fatalf("number %d, want the one left behind", b.lease.Worker())
		}
		for range 10_000 {
			id := next(t, b.gen)
			if seen[id] || id <= last {
				t.Fatalf("%d repeats or precedes an id of the old owner, %d", id, last)
			}
			seen[id] = true
		}
		for range 1000 { // a wakes up and does not know
			if id := next(t, a.gen); seen[id] || id < last {
				t.Fatalf("%d twice", id)
			}
		}
		own.Add(2 * time.Millisecond)
		if _, err := a.gen.Next(); !errors.Is(err, idgen.ErrNoLease) {
			t.Fatalf("an id past the deadline: %v", err)
		}
		a.lease.Step(t.Context())
		if a.lease.Worker() != 1 {
			t.Errorf("the old owner holds %d, want a number of its own", a.lease.Worker())
		}
		if id := next(t, a.gen); seen[id] {
			t.Errorf("%d twice", id)
		}
	})
}

func TestRestartAfterClockSetBack(t *testing.T) {
	eachLeases(t, func(t *testing.T, leases idgen.Leases) {
		clock := newClock()
		a := start(t, leases, clock)
		if err := a.lease.Acquire(t.Context()); err != nil {
			t.Fatal(err)
		}
		before := next(t, a.gen)
		if err := a.stop(t.Context()); err != nil {
			t.Fatal(err)
		}
		if _, err := a.gen.Next(); !errors.Is(err, idgen.ErrNoLease) {
			t.Fatalf("an id after the stop: %v", err)
		}
		clock.Add(-10 * time.Second)
		b := start(t, leases, clock)
		if err := b.lease.Acquire(t.Context()); err != nil {
			t.Fatal(err)
		}
		if b.lease.Worker() == 0 {
			t.Fatal("the number was taken although the clock is before its last id")
		}
		clock.Add(10*time.Second + time.Millisecond)
		c := start(t, leases, clock)
		if err := c.lease.Acquire(t.Context()); err != nil || c.lease.Worker() != 0 {
			t.Fatal(c.lease.Worker(), err)
		}
		clock.Add(-10 * time.Second) // set back between the lease and the first id
		if id, err := c.gen.Next(); err == nil && id <= before {
			t.Errorf("%d after %d", id, before)
		}
	})
}

func TestRunRenewsAndReleases(t *testing.T) {
	clock, leases := newClock(), newMemory()
	p := start(t, leases, clock)
	ticks := make(chan time.Time)
	p.lease.SetTicks(ticks)
	ctx, stop := context.WithCancel(t.Context())
	ran := make(chan error, 1)
	go func() { ran <- p.lease.Run(ctx) }()
	for range 30 { // far beyond the first deadline
		clock.Add(10 * time.Second)
		ticks <- clock.Now()
	}
	ticks <- clock.Now() // the step before this one has ended
	last := next(t, p.gen)
	stop()
	if err := <-ran; err != nil {
		t.Fatal(err)
	}
	at, _, _ := p.gen.Decode(last)
	if row := leases.rows[0]; !row.highWater.Equal(at) || !row.deadline.IsZero() {
		t.Errorf("given back with %+v, want the high water %v", row, at)
	}
}

func TestUnknownRenewalKeepsTheOldDeadline(t *testing.T) {
	clock, leases := newClock(), newMemory()
	p := start(t, leases, clock)
	if err := p.lease.Acquire(t.Context()); err != nil {
		t.Fatal(err)
	}
	clock.Add(20 * time.Second)
	leases.fail = errs.Away("worker lease", errors.New("the reply was lost"))
	p.lease.Step(t.Context())
	next(t, p.gen)
	clock.Add(10 * time.Second)
	if _, err := p.gen.Next(); !errors.Is(err, idgen.ErrNoLease) {
		t.Fatalf("an id past the only deadline that is certain: %v", err)
	}
	leases.fail = nil
	p.lease.Step(t.Context())
	next(t, p.gen)
}

// TestNothingRepeats lets processes with clocks of their own come, go, crash, pause and lose replies, and wants every id once.
func TestNothingRepeats(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		leases := newMemory()
		base := newClock().Now()
		var alive []*process
		seen := map[int64]string{}
		for step := range rapid.IntRange(10, 120).Draw(t, "steps") {
			for _, p := range alive { // time passes, unevenly
				p.clock.Add(time.Duration(rapid.IntRange(-50, 4000).Draw(t, "ms")) * time.Millisecond)
			}
			base = base.Add(2 * time.Second)
			leases.fail = nil
			if rapid.IntRange(0, 5).Draw(t, "lost reply") == 0 {
				leases.fail = errors.New("the reply was lost")
			}
			if len(alive) == 0 || rapid.IntRange(0, 4).Draw(t, "start") == 0 {
				skew := time.Duration(rapid.IntRange(-15_000, 15_000).Draw(t, "skew")) * time.Millisecond
				alive = append(alive, start(t, leases, &fakeClock{now: base.Add(skew)}))
			}
			i := rapid.IntRange(0, len(alive)-1).Draw(t, "who")
			p := alive[i]
			switch rapid.IntRange(0, 9).Draw(t, "what") {
			case 0: // crash
				alive = append(alive[:i], alive[i+1:]...)
			case 1: // proper stop
				_ = p.stop(context.Background())
				alive = append(alive[:i], alive[i+1:]...)
			case 2: // clock set
				p.clock.Add(time.Duration(rapid.IntRange(-10_000, 10_000).Draw(t, "set")) * time.Millisecond)
			case 3, 4, 5:
				p.lease.Step(context.Background())
			}
			for _, p := range alive {
				ids, err := p.gen.NextN(rapid.IntRange(1, 50).Draw(t, "n"))
				if err != nil {
					continue
				}
				for _, id := range ids {
					if by, twice := seen[id]; twice {
						t.Fatalf("step %d: %d again, first %s", step, id, by)
					}
					seen[id] = fmt.Sprintf("in step %d", step)
				}
			}
		}
	})
}

// TestStopUnderLoad stops a generator that others are using: no id may lie above the high water that is given back.
func TestStopUnderLoad(t *testing.T) {
	for range 50 {
		leases := newMemory()
		cfg := idgen.DefaultConfig()
		gen, err := idgen.New(cfg, idgen.Deps{})
		if err != nil {
			t.Fatal(err)
		}
		lease := idgen.NewLease(gen, leases, cfg, "test", slog.New(slog.DiscardHandler))
		if err := lease.Acquire(t.Context()); err != nil {
			t.Fatal(err)
		}
		highest := make([]int64, 4)
		var wg, started sync.WaitGroup
		started.Add(len(highest))
		for g := range highest {
			wg.Go(func() {
				for first := true; ; first = false {
					ids, err := gen.NextN(4096) // a millisecond each
					if errors.Is(err, idgen.ErrNoLease) {
						return
					}
					if err == nil {
						highest[g] = ids[len(ids)-1]
					}
					if first {
						started.Done()
					}
				}
			})
		}
		started.Wait()
		if err := (&process{gen: gen, lease: lease}).stop(t.Context()); err != nil {
			t.Fatal(err)
		}
		wg.Wait()
		for _, id := range highest {
			if at, _, _ := gen.Decode(id); at.After(leases.rows[0].highWater) {
				t.Fatalf("an id of %v above the high water %v", at, leases.rows[0].highWater)
			}
		}
	}
}
