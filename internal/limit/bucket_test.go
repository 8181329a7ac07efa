package limit_test

import (
	"context"
	"runtime"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/eprod/eprod/internal/limit"
	"github.com/eprod/eprod/internal/testenv"
)

var start = time.Unix(1_700_000_000, 0)

func TestBuckets(t *testing.T) {
	clock := testenv.Clock(start)
	b := limit.NewBuckets(2, 3, 10, clock.Now)
	for range 3 {
		if ok, _ := b.Allow(t.Context(), "a"); !ok {
			t.Fatal("refused within the burst")
		}
	}
	if ok, after := b.Allow(t.Context(), "a"); ok || after != 500*time.Millisecond {
		t.Fatalf("%v %v, want half a second for one token of two a second", ok, after)
	}
	if ok, _ := b.Allow(t.Context(), "b"); !ok {
		t.Fatal("another key must have its own bucket")
	}
	clock.Advance(500 * time.Millisecond)
	if ok, _ := b.Allow(t.Context(), "a"); !ok {
		t.Fatal("refused when the token was due")
	}
	clock.Advance(time.Hour)
	if n := taken(t, b, "a", 10); n != 3 {
		t.Fatalf("%d tokens after an hour, want the burst of 3", n)
	}
}

// taken asks n times and returns how often the answer was yes.
func taken(t *testing.T, b allower, key string, n int) (yes int) {
	t.Helper()
	for range n {
		if ok, _ := b.Allow(t.Context(), key); ok {
			yes++
		}
	}
	return yes
}

// TestBucketsExact: however many ask at once, nobody gets a token more or less than there are.
func TestBucketsExact(t *testing.T) {
	clock := testenv.Clock(start)
	b := limit.NewBuckets(50, 100, 100, clock.Now)
	for round, want := range []int64{100, 50, 25, 100} {
		var got atomic.Int64
		var wg sync.WaitGroup
		for range 8 {
			wg.Go(func() { got.Add(int64(taken(t, b, "caller", 500))) })
		}
		wg.Wait()
		if got.Load() != want {
			t.Errorf("round %d: %d tokens, want %d", round, got.Load(), want)
		}
		clock.Advance([]time.Duration{time.Second, 500 * time.Millisecond, time.Hour, 0}[round])
	}
}

// TestMemory: a million keys stay under the stated 160 bytes each, and more keys take no more.
func TestMemory(t *testing.T) {
	const keys = 1_000_000
	for name, open := range map[string]func() bounded{
		"buckets": func() bounded { return limit.NewBuckets(50, 100, keys, testenv.Clock(start).Now) },
		"leased": func() bounded {
			return limit.NewLeased(50, 100, keys, limit.LeasedParts{Client: generous{}, Clock: testenv.Clock(start).Now,
				Breaker: limit.NewBreaker("x", limit.DefaultBreakerConfig(), nil)})
		},
	} {
		t.Run(name, func(t *testing.T) {
			before := heap()
			b := open()
			for i := range keys + keys/4 {
				b.Allow(t.Context(), strconv.Itoa(i))
				if n := i % (keys / 10); n == 0 && b.Len() > keys {
					t.Fatalf("%d keys are remembered", b.Len())
				}
			}
			used := heap() - before
			t.Logf("%d keys use %d MB, %d bytes each", b.Len(), used>>20, used/int64(b.Len()))
			if n := b.Len(); n < keys*3/4 || n > keys {
				t.Errorf("%d keys are remembered, want nearly %d", n, keys)
			}
			if used > 160*keys {
				t.Errorf("%d bytes in use, more than 160 for each of %d keys", used, keys)
			}
			runtime.KeepAlive(b)
		})
	}
}

type bounded interface {
	allower
	Len() int
}

// generous is a Redis whose buckets are never empty.
type generous struct{ redis.Scripter }

func (generous) EvalSha(context.Context, string, []string, ...any) *redis.Cmd {
	return redis.NewCmdResult([]any{int64(1), int64(0)}, nil)
}

func heap() int64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// TestBucketsForget: what is full again goes first, then what lacks least; a caller who is being refused stays refused while
// thousands of others come by.
func TestBucketsForget(t *testing.T) {
	clock := testenv.Clock(start)
	b := limit.NewBuckets(1, 10, 64, clock.Now)
	for i := range 40 {
		b.Allow(t.Context(), "early"+strconv.Itoa(i))
	}
	clock.Advance(2 * time.Second) // those are full again
	taken(t, b, "greedy", 10)
	for i := range 23 {
		taken(t, b, "half"+strconv.Itoa(i), 5)
	}
	b.Allow(t.Context(), "new") // makes room
	if n := b.Len(); n != 25 {
		t.Errorf("%d keys are left, want the 24 that lack something and the new one", n)
	}
	for i := range 23 {
		if n := taken(t, b, "half"+strconv.Itoa(i), 10); n != 5 {
			t.Fatalf("half%d had %d tokens, want 5: it was forgotten although others were full", i, n)
		}
	}
	for i := range 5000 {
		b.Allow(t.Context(), "once"+strconv.Itoa(i))
	}
	if n := taken(t, b, "greedy", 10); n != 0 {
		t.Errorf("the refused caller got %d tokens because others came by", n)
	}
	if n := b.Len(); n > 64 {
		t.Errorf("%d keys are remembered, want 64 at most", n)
	}
}

func BenchmarkBuckets(b *testing.B) {
	bk := limit.NewBuckets(1e6, 1_000_000, 1000, time.Now)
	for b.Loop() {
		bk.Allow(b.Context(), "participant")
	}
}

// BenchmarkBucketsNewKeys has a new key in every request, with buckets that are never full again meanwhile.
func BenchmarkBucketsNewKeys(b *testing.B) {
	bk := limit.NewBuckets(0.001, 100, 100_000, time.Now)
	keys := make([]string, 1_000_000)
	for i := range keys {
		keys[i] = strconv.Itoa(i)
	}
	for i := 0; b.Loop(); i++ {
		bk.Allow(b.Context(), keys[i%len(keys)])
	}
}
