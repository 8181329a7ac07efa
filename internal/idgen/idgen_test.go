package idgen_test

import (
	"errors"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/bwmarrin/snowflake"
	"pgregory.net/rapid"

	"github.com/eprod/eprod/internal/errs"
	"github.com/eprod/eprod/internal/idgen"
)

// fakeClock moves only when told, or when somebody sleeps on it.
type fakeClock struct {
	mu    sync.Mutex
	now   time.Time
	slept time.Duration
}

func newClock() *fakeClock { return &fakeClock{now: time.Date(2026, 11, 23, 9, 0, 0, 0, time.UTC)} }

func (c *fakeClock) Now() time.Time { c.mu.Lock(); defer c.mu.Unlock(); return c.now }

func (c *fakeClock) Add(d time.Duration) { c.mu.Lock(); defer c.mu.Unlock(); c.now = c.now.Add(d) }

func (c *fakeClock) Sleep(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now, c.slept = c.now.Add(d), c.slept+d
}

func fixed(t testing.TB, policy idgen.Policy, clock *fakeClock) *idgen.Snowflake {
	t.Helper()
	cfg := idgen.DefaultConfig()
	cfg.Worker, cfg.ClockPolicy = 37, policy
	deps := idgen.Deps{}
	if clock != nil {
		deps.Clock, deps.Sleep = clock.Now, clock.Sleep
	}
	s, err := idgen.New(cfg, deps)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func next(t testing.TB, s *idgen.Snowflake) int64 {
	t.Helper()
	id, err := s.Next()
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func TestLayout(t *testing.T) {
	clock := newClock()
	s := fixed(t, idgen.Refuse, clock)
	first, second := next(t, s), next(t, s)
	ms := clock.Now().Sub(time.Date(2024, 1, 1, 0, 0, 0, 0, time.UTC)).Milliseconds()
	if want := ms<<22 | 37<<12; first != want || second != want+1 {
		t.Fatalf("%d %d, want %d and one more", first, second, want)
	}
	at, worker, seq := s.Decode(second)
	if !at.Equal(clock.Now()) || worker != 37 || seq != 1 {
		t.Errorf("decoded %v %d %d", at, worker, seq)
	}
}

func TestClockSetBack(t *testing.T) {
	tests := []struct {
		name   string
		policy idgen.Policy
		step   time.Duration
		cause  error // nil: an id comes
		sleeps bool
	}{
		{"inside the run-ahead", idgen.Refuse, -5 * time.Millisecond, nil, false},
		{"refuse a little more", idgen.Refuse, -12 * time.Millisecond, idgen.ErrClock, false},
		{"wait a little more", idgen.Wait, -12 * time.Millisecond, nil, true},
		{"refuse ten seconds", idgen.Refuse, -10 * time.Second, idgen.ErrClock, false},
		{"wait not ten seconds", idgen.Wait, -10 * time.Second, idgen.ErrClock, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			clock := newClock()
			s := fixed(t, tt.policy, clock)
			before := next(t, s)
			clock.Add(tt.step)
			id, err := s.Next()
			if !errors.Is(err, tt.cause) {
				t.Fatalf("%v, want %v", err, tt.cause)
			}
			if refusal, _ := errs.As(err); err != nil && (refusal.Kind != errs.Unavailable || refusal.Code != "clock_set_back" || refusal.RetryAfter <= 0) {
				t.Errorf("refused with %+v", refusal)
			}
			if err == nil && id <= before {
				t.Errorf("%d after %d", id, before)
			}
			if (clock.slept > 0) != tt.sleeps || clock.slept > 5*time.Millisecond {
				t.Errorf("slept %v", clock.slept)
			}
			clock.Add(-tt.step)
			if id := next(t, s); id <= before {
				t.Errorf("%d after %d once the clock had caught up", id, before)
			}
		})
	}
}

// TestClockSetBackIsTold: every refusal is counted, and the log hears of it once until ids are issued again.
func TestClockSetBackIsTold(t *testing.T) {
	clock := newClock()
	cfg := idgen.DefaultConfig()
	cfg.Worker = 1
	var log strings.Builder
	counted := 0
	s, err := idgen.New(cfg, idgen.Deps{Clock: clock.Now, Sleep: clock.Sleep, Log: slog.New(slog.NewTextHandler(&log, nil)),
		Refused: func(cause error) {
			if errors.Is(cause, idgen.ErrClock) {
				counted++
			}
		}})
	if err != nil {
		t.Fatal(err)
	}
	for times := 1; times <= 2; times++ {
		next(t, s)
		clock.Add(-10 * time.Second)
		for range 3 {
			_, _ = s.Next()
		}
		clock.Add(11 * time.Second)
		if lines := strings.Count(log.String(), "level=ERROR"); counted != 3*times || lines != times {
			t.Fatalf("the clock was set back %d times: counted %d, logged:\n%s", times, counted, log.String())
		}
	}
}

func TestSaturationRunsAheadThenWaits(t *testing.T) {
	clock := newClock()
	s := fixed(t, idgen.Refuse, clock)
	last := int64(0)
	for i := range 9 * 4096 { // this millisecond and eight more
		id := next(t, s)
		if id <= last {
			t.Fatalf("id %d: %d after %d", i, id, last)
		}
		last = id
	}
	if clock.slept != 0 {
		t.Fatalf("slept %v within the run-ahead", clock.slept)
	}
	if id := next(t, s); id <= last || clock.slept != time.Millisecond {
		t.Errorf("%d after %d, slept %v, want one millisecond", id, last, clock.slept)
	}
}

func TestStoppedClockRefuses(t *testing.T) {
	clock := newClock()
	cfg := idgen.DefaultConfig()
	cfg.Worker = 1
	refusals := 0
	s, err := idgen.New(cfg, idgen.Deps{Clock: clock.Now, Sleep: func(time.Duration) {}, Refused: func(error) { refusals++ }})
	if err != nil {
		t.Fatal(err)
	}
	for range 9 {
		if _, err := s.NextN(4096); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := s.Next(); !errors.Is(err, idgen.ErrSaturated) || refusals != 1 {
		t.Fatalf("%v, %d refusals", err, refusals)
	}
}

func TestNextN(t *testing.T) {
	s := fixed(t, idgen.Refuse, nil)
	var all []int64
	for _, n := range []int{1, 2, 1000, 4096, 3} {
		ids, err := s.NextN(n)
		if err != nil || len(ids) != n {
			t.Fatalf("%d: %v %v", n, len(ids), err)
		}
		all = append(all, ids...)
	}
	for i := 1; i < len(all); i++ {
		if all[i] <= all[i-1] {
			t.Fatalf("%d after %d", all[i], all[i-1])
		}
	}
	for _, n := range []int{0, -1, 4097} {
		if _, err := s.NextN(n); err == nil {
			t.Errorf("%d ids were given", n)
		}
	}
}

// TestTenMillion issues ten million ids from many goroutines and wants every one of them once.
func TestTenMillion(t *testing.T) {
	const goroutines, each, batch = 8, 1_250_000, 100
	s := fixed(t, idgen.Wait, nil)
	lists := make([][]int64, goroutines)
	var wg sync.WaitGroup
	for g := range goroutines {
		wg.Go(func() {
			ids := make([]int64, 0, each)
			for len(ids) < each {
				if g%2 == 0 {
					if id, err := s.Next(); err == nil {
						ids = append(ids, id)
					}
				} else if more, err := s.NextN(batch); err == nil {
					ids = append(ids, more...)
				}
			}
			lists[g] = ids
		})
	}
	wg.Wait()
	all := make([]int64, 0, goroutines*each)
	for g, ids := range lists {
		if !slices.IsSorted(ids) {
			t.Errorf("goroutine %d did not get ascending ids", g)
		}
		all = append(all, ids...)
	}
	slices.Sort(all)
	if unique := len(slices.Compact(all)); unique != goroutines*each {
		t.Fatalf("%d of %d ids are different", unique, goroutines*each)
	}
}

// TestAnyClock moves the clock at will: ids still ascend and are never far ahead of the highest time seen.
func TestAnyClock(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		clock := newClock()
		cfg := idgen.DefaultConfig()
		cfg.Worker, cfg.ClockPolicy = 5, rapid.SampledFrom([]idgen.Policy{idgen.Refuse, idgen.Wait}).Draw(t, "policy")
		s, err := idgen.New(cfg, idgen.Deps{Clock: clock.Now, Sleep: clock.Sleep})
		if err != nil {
			t.Fatal(err)
		}
		last, highest := int64(0), clock.Now()
		for range rapid.IntRange(1, 60).Draw(t, "steps") {
			clock.Add(time.Duration(rapid.IntRange(-20_000, 20_000).Draw(t, "µs")) * time.Microsecond)
			ids, err := s.NextN(rapid.IntRange(1, 4096).Draw(t, "n"))
			if now := clock.Now(); now.After(highest) {
				highest = now
			}
			if err != nil {
				continue
			}
			if ids[0] <= last {
				t.Fatalf("%d after %d", ids[0], last)
			}
			last = ids[len(ids)-1]
			if at, _, _ := s.Decode(last); at.Sub(highest) > 8*time.Millisecond {
				t.Fatalf("%v ahead", at.Sub(highest))
			}
		}
	})
}

func TestValidate(t *testing.T) {
	err := idgen.Config{Epoch: "yesterday", Worker: 1024, ClockPolicy: "hope"}.Validate()
	for _, key := range []string{"epoch: ", "worker: ", "clockPolicy: ", "leaseTtl: "} {
		if err == nil || !strings.Contains(err.Error(), key) {
			t.Errorf("%v does not name %s", err, key)
		}
	}
	if err := idgen.DefaultConfig().Validate(); err != nil {
		t.Error(err)
	}
}

// BenchmarkNext and BenchmarkBwmarrin stay below what either can issue, 4,096 a millisecond: they rest between rounds of 2,000.
func BenchmarkNext(b *testing.B) {
	s := fixed(b, idgen.Wait, nil)
	belowCap(b, func() { _, _ = s.Next() })
}

func BenchmarkBwmarrin(b *testing.B) {
	node, err := snowflake.NewNode(1)
	if err != nil {
		b.Fatal(err)
	}
	belowCap(b, func() { node.Generate() })
}

func belowCap(b *testing.B, next func()) {
	for i := 0; b.Loop(); i++ {
		if i%2000 == 0 {
			b.StopTimer()
			rest := time.NewTimer(2 * time.Millisecond)
			<-rest.C
			b.StartTimer()
		}
		next()
	}
}

// BenchmarkBurst issues 20,000 ids after a pause in which the generator could rest.
func BenchmarkBurst(b *testing.B) {
	ours := fixed(b, idgen.Wait, nil)
	node, err := snowflake.NewNode(1)
	if err != nil {
		b.Fatal(err)
	}
	for _, bench := range []struct {
		name string
		next func()
	}{
		{"eprod", func() { _, _ = ours.Next() }},
		{"eprod-batches", func() { _, _ = ours.NextN(100) }},
		{"bwmarrin", func() { node.Generate() }},
	} {
		b.Run(bench.name, func(b *testing.B) {
			n := 20_000
			if bench.name == "eprod-batches" {
				n /= 100
			}
			for b.Loop() {
				b.StopTimer()
				rest := time.NewTimer(10 * time.Millisecond)
				<-rest.C
				b.StartTimer()
				for range n {
					bench.next()
				}
			}
		})
	}
}
