package limit_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"

	"github.com/eprod/eprod/internal/limit"
	"github.com/eprod/eprod/internal/testenv"
)

type allower interface {
	Allow(ctx context.Context, key string) (ok bool, retryAfter time.Duration)
}

// counted passes calls on and counts them.
type counted struct {
	redis.Scripter
	calls atomic.Int64
}

func (c *counted) EvalSha(ctx context.Context, sha string, keys []string, args ...any) *redis.Cmd {
	c.calls.Add(1)
	return c.Scripter.EvalSha(ctx, sha, keys, args...)
}

// process is what one process has of a shared limit: its own client, breaker and buckets.
type process struct {
	*limit.Leased
	client  *counted
	breaker *limit.Breaker
	alone   atomic.Int64
}

// fleet is several processes that share a limit.
type fleet struct {
	rate      float64
	burst     int
	prefix    string
	processes int
	keys      int
	clock     func() time.Time
	timeout   time.Duration
}

func newFleet(rate float64, burst int) *fleet {
	return &fleet{rate: rate, burst: burst, keys: 1000, prefix: fmt.Sprintf("t%d:", time.Now().UnixNano()), clock: time.Now, timeout: 5 * time.Second}
}

// open adds a process.
func (f *fleet) open(t testing.TB, address string) *process {
	client := redis.NewClient(&redis.Options{Addr: address, ContextTimeoutEnabled: true, MaxRetries: -1, DisableIdentity: true, DialerRetries: 1})
	t.Cleanup(func() { _ = client.Close() })
	cfg := limit.DefaultConfig().Breaker
	cfg.CallTimeout, cfg.OpenFor = f.timeout, 50*time.Millisecond
	f.processes++
	p := &process{client: &counted{Scripter: client}, breaker: limit.NewBreaker("limits", cfg, nil)}
	p.Leased = limit.NewLeased(f.rate, f.burst, f.keys, limit.LeasedParts{Client: p.client, Breaker: p.breaker, Prefix: f.prefix,
		Process: fmt.Sprint("p", f.processes), Clock: f.clock, OnAlone: func() { p.alone.Add(1) }, Alone: limit.NewBuckets(f.rate, f.burst, f.keys, f.clock)})
	return p
}

// redisAddresses are the embedded server's and, where it runs, the real one's.
func redisAddresses(t *testing.T) map[string]string {
	t.Helper()
	all := map[string]string{"embedded": miniredis.RunT(t).Addr()}
	if address, ok := testenv.Redis(t); ok {
		all["redis"] = address
	}
	return all
}

// TestLeasedExact: processes that all ask at once get the whole burst together, and not a token more.
func TestLeasedExact(t *testing.T) {
	for name, address := range redisAddresses(t) {
		t.Run(name, func(t *testing.T) {
			for _, burst := range []int{1, 7, 100, 5000} {
				f := newFleet(0.001, burst)
				f.clock = testenv.Clock(start).Now // leases do not end here
				var got atomic.Int64
				var wg sync.WaitGroup
				for range 4 {
					p := f.open(t, address)
					for range 4 {
						wg.Go(func() {
							for refused := 0; refused < 50; {
								if ok, _ := p.Allow(t.Context(), "caller"); ok {
									got.Add(1)
								} else {
									refused++
								}
							}
						})
					}
				}
				wg.Wait()
				if got.Load() != int64(burst) {
					t.Errorf("%d tokens of a burst of %d", got.Load(), burst)
				}
			}
		})
	}
}

// TestLeasedRate: under steady pressure from several processes the sum stays within burst + rate·t, and close to it.
func TestLeasedRate(t *testing.T) {
	for name, address := range redisAddresses(t) {
		t.Run(name, func(t *testing.T) {
			const rate, burst = 20_000, 500
			f := newFleet(rate, burst)
			began := time.Now()
			ended := make([]time.Time, 3)
			var got, asked atomic.Int64
			var wg sync.WaitGroup
			for i := range ended {
				p := f.open(t, address)
				wg.Go(func() {
					for got.Load() < 5*burst {
						asked.Add(1)
						if ok, _ := p.Allow(t.Context(), "caller"); ok {
							got.Add(1)
						}
					}
					ended[i] = time.Now()
				})
			}
			wg.Wait()
			took := max(ended[0].Sub(began), ended[1].Sub(began), ended[2].Sub(began))
			if most := burst + rate*took.Seconds(); float64(got.Load()) > most {
				t.Errorf("%d tokens in %v, at most %.0f are allowed", got.Load(), took, most)
			}
			t.Logf("%d of %d requests in %v", got.Load(), asked.Load(), took)
		})
	}
}

// window measures the worst moment there is: processes take packs and keep them, the bucket fills up, and then everything
// that anybody holds is spent at once. It returns how much that is.
func window(t *testing.T, burst int, open func(f *fleet, address string) *process) int {
	t.Helper()
	server := miniredis.RunT(t)
	clock := testenv.Clock(start)
	server.SetTime(clock.Now())
	f := newFleet(100, burst)
	f.clock = clock.Now
	holders := []*process{open(f, server.Addr()), open(f, server.Addr()), open(f, server.Addr())}
	for _, p := range holders { // 1, 2, 4 and 8 tokens, of which the last pack keeps seven
		if n := taken(t, p, "caller", 8); n != 8 {
			t.Fatalf("%d of the first 8 requests passed", n)
		}
	}
	clock.Advance(900 * time.Millisecond) // enough to fill the bucket; the leases have not ended
	server.SetTime(clock.Now())
	spent := 0
	for range 50 {
		for _, p := range holders {
			spent += taken(t, p, "caller", 10)
		}
	}
	return spent
}

// TestLeasedAnyWindow: what processes hold counts towards the burst, so that no moment can see more than that.
func TestLeasedAnyWindow(t *testing.T) {
	const burst = 60
	if n := window(t, burst, func(f *fleet, address string) *process { return f.open(t, address) }); n > burst || n < burst-10 {
		t.Errorf("%d tokens in one moment, want nearly the burst of %d and never more", n, burst)
	}
	forgetful := window(t, burst, func(f *fleet, address string) *process {
		p := f.open(t, address)
		p.ReplaceScript(func(s string) string { return strings.ReplaceAll(s, "burst - held", "burst") })
		return p
	})
	if forgetful <= burst {
		t.Errorf("%d tokens without counting what is held: this test cannot see the difference", forgetful)
	}
}

// TestLeasedEnds: tokens that were not spent in time are void here, and make room in the bucket.
func TestLeasedEnds(t *testing.T) {
	server := miniredis.RunT(t)
	clock := testenv.Clock(start)
	server.SetTime(clock.Now())
	f := newFleet(100, 40)
	f.clock = clock.Now
	one, two := f.open(t, server.Addr()), f.open(t, server.Addr())
	if taken(t, one, "caller", 4) != 4 { // packs of 1, 2 and 4, which keeps 3
		t.Fatal("refused")
	}
	clock.Advance(time.Hour)
	server.SetTime(clock.Now())
	if n := taken(t, two, "caller", 100); n != 40 {
		t.Errorf("the other process got %d tokens after an hour, want the whole burst of 40", n)
	}
	calls := one.client.calls.Load()
	if n := taken(t, one, "caller", 1); n != 0 || one.client.calls.Load() != calls+1 {
		t.Errorf("%d tokens by %d calls out of a pack that ended long ago", n, one.client.calls.Load()-calls)
	}
}

// TestLeasedPacks: a busy key costs one call per hundred requests, an idle one takes a single token, and an empty bucket is not asked again
// before something is in it.
func TestLeasedPacks(t *testing.T) {
	server := miniredis.RunT(t)
	clock := testenv.Clock(start)
	server.SetTime(clock.Now())
	f := newFleet(1000, 100_000)
	f.clock = clock.Now
	p := f.open(t, server.Addr())
	if n := taken(t, p, "busy", 10_127); n != 10_127 || p.client.calls.Load() != 107 {
		t.Errorf("%d tokens by %d calls, want 7 small packs and 100 of 100", n, p.client.calls.Load())
	}
	f = newFleet(10, 4)
	f.clock = clock.Now
	p = f.open(t, server.Addr())
	if n := taken(t, p, "small", 4); n != 4 {
		t.Fatalf("%d tokens of 4", n)
	}
	calls := p.client.calls.Load()
	ok, after := p.Allow(t.Context(), "small")
	if ok || after != 100*time.Millisecond {
		t.Fatalf("%v %v, want 100ms for one token of ten a second", ok, after)
	}
	if taken(t, p, "small", 1000) != 0 || p.client.calls.Load() != calls+1 {
		t.Errorf("%d calls for a bucket that is known to be empty", p.client.calls.Load()-calls)
	}
	clock.Advance(after)
	server.SetTime(clock.Now())
	if n := taken(t, p, "small", 10); n != 1 {
		t.Errorf("%d tokens after the wait, want 1", n)
	}
}

// TestLeasedClockBack: a Redis whose clock is set back neither gives more nor gets stuck.
func TestLeasedClockBack(t *testing.T) {
	server := miniredis.RunT(t)
	clock := testenv.Clock(start)
	server.SetTime(clock.Now())
	f := newFleet(10, 10)
	f.clock = clock.Now
	p := f.open(t, server.Addr())
	if n := taken(t, p, "caller", 100); n != 10 {
		t.Fatalf("%d of a burst of 10", n)
	}
	clock.Advance(100 * time.Millisecond)
	server.SetTime(start.Add(-time.Hour))
	if n := taken(t, p, "caller", 10); n != 0 {
		t.Errorf("%d tokens because the clock went back", n)
	}
	clock.Advance(time.Second)
	server.SetTime(start.Add(-time.Hour + time.Second))
	if n := taken(t, p, "caller", 100); n < 9 || n > 10 {
		t.Errorf("%d tokens a second later, want some 10", n)
	}
}

// TestLeasedForget: more keys than there is room for lose tokens, they never gain any.
func TestLeasedForget(t *testing.T) {
	server := miniredis.RunT(t)
	f := newFleet(0.001, 5)
	f.clock = testenv.Clock(start).Now
	p := f.open(t, server.Addr())
	for range 2 {
		for i := range 3_000 {
			p.Allow(t.Context(), fmt.Sprint("other", i))
		}
		if n := p.Len(); n > 1000 {
			t.Fatalf("%d keys are remembered, want 1000 at most", n)
		}
	}
	if p.alone.Load() != 0 {
		t.Errorf("%d decisions without Redis", p.alone.Load())
	}
}

// TestLeasedAlone: without Redis each process goes on with its own buckets, asks seldom, and comes back when Redis does.
func TestLeasedAlone(t *testing.T) {
	server := miniredis.RunT(t)
	f := newFleet(0.001, 100)
	p := f.open(t, server.Addr())
	if taken(t, p, "caller", 3) != 3 || p.alone.Load() != 0 {
		t.Fatal("refused, or decided alone, while Redis answers")
	}
	server.Close()
	if n := taken(t, p, "other", 1000); n != 100 || p.alone.Load() != 1000 {
		t.Errorf("%d tokens by %d decisions, want the process' own burst of 100", n, p.alone.Load())
	}
	if p.breaker.State() == limit.Closed {
		t.Error("the breaker has not noticed")
	}
	if err := server.Restart(); err != nil {
		t.Fatal(err)
	}
	within(t, func() bool {
		before := p.alone.Load()
		p.Allow(t.Context(), "third")
		return p.alone.Load() == before
	})
}

// within waits until check is true.
func within(t *testing.T, check func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !check() {
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatal("not within 20 seconds")
		}
	}
}

// TestLeasedHungRedis: a server that keeps its connections and says nothing holds up only the first callers, each no longer than the
// time-out; all of them get an answer from local buckets. Callers of one key share one wait.
func TestLeasedHungRedis(t *testing.T) {
	proxy := testenv.NewProxy(t, miniredis.RunT(t).Addr())
	f := newFleet(0.001, 100)
	f.timeout = 30 * time.Millisecond
	p := f.open(t, proxy.Address())
	proxy.Silence(true)
	var got atomic.Int64
	var wg sync.WaitGroup
	for range 50 {
		wg.Go(func() { got.Add(int64(taken(t, p, "caller", 20))) })
	}
	wg.Wait()
	if got.Load() != 100 || p.alone.Load() != 1000 {
		t.Errorf("%d tokens by %d decisions alone, want 100 by 1000", got.Load(), p.alone.Load())
	}
	if calls := p.client.calls.Load(); calls > 200 {
		t.Errorf("%d of 1000 requests went to a server that hangs", calls)
	}
	proxy.Silence(false)
}

// TestLeasedLostReply: a pack whose answer was lost is spent by nobody, and the caller is served from local buckets.
func TestLeasedLostReply(t *testing.T) {
	proxy := testenv.NewProxy(t, miniredis.RunT(t).Addr())
	f := newFleet(0.001, 10)
	p := f.open(t, proxy.Address())
	if taken(t, p, "caller", 1) != 1 {
		t.Fatal("refused")
	}
	proxy.LoseReply("evalsha")
	if n := taken(t, p, "caller", 1); n != 1 || !proxy.Lost() || p.alone.Load() != 1 {
		t.Fatalf("%d, %d decisions alone", n, p.alone.Load())
	}
	if n := taken(t, p, "caller", 100); n > 8 || n < 6 {
		t.Errorf("%d tokens are left of 10, want those that were neither spent nor lost", n)
	}
}

// TestLeasedCallerLeaves: somebody who goes away while waiting neither ends the call that others wait for nor counts against Redis.
func TestLeasedCallerLeaves(t *testing.T) {
	f := newFleet(0.001, 10)
	p := f.open(t, miniredis.RunT(t).Addr())
	gone, leave := context.WithCancelCause(t.Context())
	leave(errors.New("left"))
	for i := range 20 {
		if ok, _ := p.Allow(gone, "caller"); ok != (i < 10) {
			t.Fatalf("request %d: %v", i, ok)
		}
	}
	if p.breaker.State() != limit.Closed || p.alone.Load() != 0 {
		t.Errorf("breaker %s, %d decisions alone", p.breaker.State(), p.alone.Load())
	}
}
