package idgen_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/eprod/eprod/internal/errs"
	"github.com/eprod/eprod/internal/idgen"
)

func TestOrdinal(t *testing.T) {
	for host, want := range map[string]int{"eprod-0": 0, "eprod-api-3": 3, "a-1023": 1023, "a-1024": -1, "eprod": -1, "": -1, "-3": -1, "eprod-": -1, "eprod-03": -1, "eprod-+3": -1, "eprod-x3": -1} {
		got, err := idgen.Ordinal(host)
		if (err == nil) != (want >= 0) || err == nil && got != want {
			t.Errorf("%q: %d, %v", host, got, err)
		}
		if err != nil && !strings.Contains(err.Error(), "as eprod-3 does") {
			t.Errorf("%q: %v does not say what would be right", host, err)
		}
	}
}

// TestTick: with a clock that is read now and then, ids still ascend, and without ticks the clock is read again.
func TestTick(t *testing.T) {
	cfg := idgen.DefaultConfig()
	cfg.Worker, cfg.CoarseClock = 1, 100*time.Microsecond
	s, err := idgen.New(cfg, idgen.Deps{})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- s.Tick(ctx) }()
	last := int64(0)
	begun := time.Now()
	for time.Since(begun) < 50*time.Millisecond {
		id := next(t, s)
		at, _, _ := s.Decode(id)
		if id <= last || time.Until(at) > 20*time.Millisecond || time.Since(at) > time.Second {
			t.Fatalf("%d after %d, of %v", id, last, at)
		}
		last = id
	}
	stop()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if at, _, _ := s.Decode(next(t, s)); time.Since(at) > time.Second {
		t.Errorf("after the ticks: an id of %v", at)
	}
	still := fixed(t, idgen.Refuse, newClock())
	ctx, stop = context.WithCancel(t.Context())
	stop()
	if err := still.Tick(ctx); err != nil { // without the setting it only waits
		t.Error(err)
	}
}

func TestDecode(t *testing.T) {
	clock := newClock()
	s := fixed(t, idgen.Refuse, clock)
	id := next(t, s)
	at, worker, seq, err := idgen.Decode(idgen.DefaultConfig(), id)
	if wantAt, wantWorker, wantSeq := s.Decode(id); err != nil || !at.Equal(wantAt) || worker != wantWorker || seq != wantSeq || !at.Equal(clock.Now()) {
		t.Errorf("%v %d %d %v", at, worker, seq, err)
	}
	for _, wrong := range []int64{0, -1} {
		if _, _, _, err := idgen.Decode(idgen.DefaultConfig(), wrong); err == nil {
			t.Errorf("%d is an id", wrong)
		}
	}
}

func sequence(t testing.TB, address, key string, pack int) *idgen.Sequence {
	t.Helper()
	cfg := idgen.DefaultConfig()
	cfg.Sequence.Pack = pack
	s, err := idgen.NewSequence(redisClient(t, address), key, cfg, idgen.Deps{})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// TestSequence: several processes never share a number, and each one's ascend.
func TestSequence(t *testing.T) {
	for name, address := range redisServers(t) {
		t.Run(name, func(t *testing.T) {
			key := prefix()
			if _, err := sequence(t, address, key, 10).Next(); !errors.Is(err, idgen.ErrResting) {
				t.Fatalf("a number from an empty Redis: %v", err)
			}
			// A second later, without waiting for it: the counter is set as it would stand then.
			if err := redisClient(t, address).HIncrBy(t.Context(), key+"sequence", "last", -65_536).Err(); err != nil {
				t.Fatal(err)
			}
			var mu sync.Mutex
			var all []int64
			var running sync.WaitGroup
			for p := range 4 {
				s := sequence(t, address, key, 10+p)
				running.Go(func() {
					last, own := int64(0), []int64(nil)
					for i := range 200 {
						ids, err := s.NextN(1 + i%37)
						if err != nil {
							t.Error(err)
							return
						}
						if ids[0] <= last || !slices.IsSorted(ids) {
							t.Errorf("%v after %d", ids, last)
						}
						last = ids[len(ids)-1]
						own = append(own, ids...)
					}
					mu.Lock()
					all = append(all, own...)
					mu.Unlock()
				})
			}
			running.Wait()
			slices.Sort(all)
			if n := len(slices.Compact(slices.Clone(all))); n != len(all) || all[len(all)-1]-all[0] > int64(len(all))+4*20 {
				t.Fatalf("%d of %d are different, between %d and %d", n, len(all), all[0], all[len(all)-1])
			}
		})
	}
}

// TestSequenceAfterLoss: whenever Redis loses its memory, and however many numbers were taken in that second, the next are above.
func TestSequenceAfterLoss(t *testing.T) {
	server, _ := embeddedRedis(t)
	address, key := server.Addr(), prefix()
	at := func(second float64) {
		server.SetTime(time.Date(2026, 11, 23, 9, 0, 0, 0, time.UTC).Add(time.Duration(second * float64(time.Second))))
	}
	drain := func(s *idgen.Sequence) (last int64) {
		t.Helper()
		for {
			id, err := s.Next()
			if err != nil {
				if !errors.Is(err, idgen.ErrResting) || errs.KindOf(err) != errs.Unavailable {
					t.Fatal(err)
				}
				return last
			}
			if id <= last {
				t.Fatalf("%d after %d", id, last)
			}
			last = id
		}
	}
	at(0)
	s := sequence(t, address, key, 5000)
	if last := drain(s); last != 0 {
		t.Fatalf("a number from an empty Redis: %d", last)
	}
	highest := int64(0)
	for _, second := range []float64{1, 3.5, 6, 10} { // all of a second's numbers, and the loss in the same second
		at(second)
		highest = max(highest, drain(s))
		server.FlushAll()
		other := sequence(t, address, key, 10)
		if id, err := other.Next(); err == nil && id <= highest {
			t.Fatalf("second %v: %d after the loss, %d before", second, id, highest)
		}
		at(second + 1)
		id, err := other.Next()
		if err != nil || id <= highest {
			t.Fatalf("a second after the loss: %d, %v; before it %d", id, err, highest)
		}
		highest = id
	}
	server.FlushAll()
	server.SetTime(time.Date(2025, 1, 1, 0, 0, 0, 0, time.UTC))
	drain(s)
	server.SetTime(time.Date(2025, 1, 1, 0, 0, 1, 0, time.UTC))
	if _, err := s.NextN(idgen.MaxBatch); !errors.Is(err, idgen.ErrClock) || errs.KindOf(err) != errs.Unavailable {
		t.Errorf("memory lost and clock set back: %v", err)
	}
	for _, n := range []int{0, -1, idgen.MaxBatch + 1} {
		if _, err := s.NextN(n); err == nil || errs.KindOf(err) == errs.Unavailable {
			t.Errorf("%d at once: %v", n, err)
		}
	}
	server.Close()
	if _, err := sequence(t, address, key, 5).Next(); errs.KindOf(err) != errs.Unavailable {
		t.Errorf("without Redis: %v", err)
	}
}
