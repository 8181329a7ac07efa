package idgen_test

import (
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/alicebob/miniredis/v2/server"
	"github.com/redis/go-redis/v9"

	"github.com/eprod/eprod/internal/errs"
	"github.com/eprod/eprod/internal/idgen"
	"github.com/eprod/eprod/internal/testenv"
)

// redisServers returns the address of an embedded server and, where it runs, of the real one.
func redisServers(t testing.TB) map[string]string {
	t.Helper()
	embedded, _ := embeddedRedis(t)
	all := map[string]string{"embedded redis": embedded.Addr()}
	if address, ok := testenv.Redis(t); ok {
		all["redis"] = address
	}
	return all
}

// embeddedRedis returns a server that tells which run of it this is, as a real one does. The function starts the next run.
func embeddedRedis(t testing.TB) (*miniredis.Miniredis, func()) {
	t.Helper()
	var run atomic.Int64
	m := miniredis.RunT(t)
	m.Server().SetPreHook(func(c *server.Peer, command string, args ...string) bool {
		if command != "INFO" {
			return false
		}
		c.WriteBulk(fmt.Sprintf("# %s\r\nrun_id:r%d\r\nmaster_replid:m1\r\n", args[0], run.Load()))
		return true
	})
	return m, func() { run.Add(1) }
}

func redisClient(t testing.TB, address string) *redis.Client {
	t.Helper()
	client := redis.NewClient(&redis.Options{Addr: address, ContextTimeoutEnabled: true, MaxRetries: -1})
	t.Cleanup(func() { _ = client.Close() })
	return client
}

// rested returns leases in a Redis that has known them for long enough to give numbers out.
func rested(t testing.TB, client *redis.Client, key string, ttl time.Duration) *idgen.RedisLeases {
	t.Helper()
	leases := idgen.NewRedisLeases(client, key, ttl)
	early := newClock().Now().Add(-time.Hour)
	if _, err := leases.Take(t.Context(), "first", early, early.Add(ttl)); errs.KindOf(err) != errs.Unavailable {
		t.Fatalf("a number from an empty Redis: %v", err)
	}
	return leases
}

// losses are the ways in which Redis forgets: all of it, or what it had not yet written down when it ended.
func losses(t *testing.T, test func(t *testing.T, client *redis.Client, remember func(key string) (lose func()))) {
	t.Run("everything", func(t *testing.T) {
		for name, address := range redisServers(t) {
			t.Run(name, func(t *testing.T) {
				client := redisClient(t, address)
				test(t, client, func(key string) func() {
					return func() {
						if n, err := client.Del(t.Context(), key).Result(); n != 1 || err != nil {
							t.Fatal(n, err)
						}
					}
				})
			})
		}
	})
	t.Run("the newest", func(t *testing.T) {
		m, restart := embeddedRedis(t)
		client := redisClient(t, m.Addr())
		test(t, client, func(key string) func() {
			old, err := client.HGetAll(t.Context(), key).Result()
			if err != nil || len(old) == 0 {
				t.Fatal(old, err)
			}
			return func() {
				restart()
				client.Del(t.Context(), key)
				if err := client.HSet(t.Context(), key, old).Err(); err != nil {
					t.Fatal(err)
				}
			}
		})
	})
}

// TestRedisLosesLeases: who had a number before Redis lost its memory may use it to the end of its lease, and only then does
// somebody else get it, with ids above.
func TestRedisLosesLeases(t *testing.T) {
	losses(t, func(t *testing.T, client *redis.Client, remember func(string) func()) {
		key := prefix()
		leases := rested(t, client, key, 30*time.Second)
		lose := remember(key + "workers")
		own, others := newClock(), newClock()
		own.Add(9 * time.Second) // clocks that disagree
		a := start(t, leases, own)
		if err := a.lease.Acquire(t.Context()); err != nil {
			t.Fatal(err)
		}
		next(t, a.gen)
		lose()
		b := start(t, leases, others)
		if err := b.lease.Acquire(t.Context()); errs.KindOf(err) != errs.Unavailable || !strings.Contains(err.Error(), "rest for 40s") {
			t.Fatalf("a number at once: %v", err)
		}
		own.Add(20 * time.Second)
		a.lease.Step(t.Context()) // finds nothing to renew
		own.Add(10*time.Second - time.Millisecond)
		last := next(t, a.gen) // its lease still runs
		own.Add(time.Millisecond)
		if _, err := a.gen.Next(); !errors.Is(err, idgen.ErrNoLease) {
			t.Errorf("past the lease that could not be renewed: %v", err)
		}
		others.Add(40*time.Second + time.Millisecond)
		if err := b.lease.Acquire(t.Context()); err != nil {
			t.Fatal(err)
		}
		if id := next(t, b.gen); b.lease.Worker() != 0 || id <= last {
			t.Errorf("number %d, id %d, the old owner's last was %d", b.lease.Worker(), id, last)
		}
		own.Add(10 * time.Second)
		a.lease.Step(t.Context())
		if a.lease.Worker() != 1 {
			t.Errorf("the old owner holds %d, want a number of its own", a.lease.Worker())
		}
	})
}

// TestRedisOwnerSleepsThroughLoss: an owner that was paused while Redis lost its memory and others went on never gets its old number
// renewed.
func TestRedisOwnerSleepsThroughLoss(t *testing.T) {
	losses(t, func(t *testing.T, client *redis.Client, remember func(string) func()) {
		key := prefix()
		leases := rested(t, client, key, 30*time.Second)
		own, others := newClock(), newClock()
		a := start(t, leases, own)
		if err := a.lease.Acquire(t.Context()); err != nil {
			t.Fatal(err)
		}
		next(t, a.gen)
		lose := remember(key + "workers")
		lose()
		b := start(t, leases, others)
		_ = b.lease.Acquire(t.Context())
		others.Add(time.Minute)
		if err := b.lease.Acquire(t.Context()); err != nil || b.lease.Worker() != 0 {
			t.Fatal(b.lease.Worker(), err)
		}
		own.Add(time.Minute)
		a.lease.Step(t.Context())
		if a.lease.Worker() == b.lease.Worker() {
			t.Fatalf("both hold number %d", a.lease.Worker())
		}
	})
}

// TestSequenceForgets: numbers that were issued do not come again when Redis forgets the newest of them.
func TestSequenceForgets(t *testing.T) {
	m, restart := embeddedRedis(t)
	key, now := prefix(), newClock()
	m.SetTime(now.Now())
	s := sequence(t, m.Addr(), key, 10)
	_, _ = s.Next()
	tick := func() { now.Add(time.Second); m.SetTime(now.Now()) }
	tick()
	highest, err := s.Next()
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		tick()
		client := redisClient(t, m.Addr())
		old := client.HGetAll(t.Context(), key+"sequence").Val()
		for range 50 {
			if highest, err = s.Next(); err != nil {
				t.Fatal(err)
			}
		}
		if err := client.HSet(t.Context(), key+"sequence", old).Err(); err != nil {
			t.Fatal(err)
		}
		restart()
		s = sequence(t, m.Addr(), key, 10)
		_, _ = s.Next()
		tick()
		id, err := s.Next()
		if err != nil || id <= highest {
			t.Fatalf("%d after %d, %v", id, highest, err)
		}
	}
}

// TestSequenceHangs: callers do not wait for one another's time-outs.
func TestSequenceHangs(t *testing.T) {
	m, _ := embeddedRedis(t)
	proxy := testenv.NewProxy(t, m.Addr())
	proxy.Silence(true)
	cfg := idgen.DefaultConfig()
	cfg.Sequence.Timeout = 200 * time.Millisecond
	s, err := idgen.NewSequence(redisClient(t, proxy.Address()), prefix(), cfg, idgen.Deps{})
	if err != nil {
		t.Fatal(err)
	}
	begun := time.Now()
	var callers sync.WaitGroup
	for range 50 {
		callers.Go(func() {
			if _, err := s.Next(); errs.KindOf(err) != errs.Unavailable {
				t.Error(err)
			}
		})
	}
	callers.Wait()
	if took := time.Since(begun); took > 3*time.Second {
		t.Errorf("50 callers together waited %v for a server that hangs, with 200 ms for each call", took)
	}
}

// TestLeaseStoreAway: a store that is away delays a start by seconds, not for ever.
func TestLeaseStoreAway(t *testing.T) {
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closed.Close()
	for name, leases := range map[string]idgen.Leases{
		"redis": idgen.NewRedisLeases(redisClient(t, closed.Addr().String()), prefix(), time.Minute),
		"etcd":  idgen.NewEtcdLeases(etcdClient(t, closed.Addr().String()), prefix()),
	} {
		t.Run(name, func(t *testing.T) {
			begun := time.Now()
			err := start(t, leases, newClock()).lease.Acquire(t.Context())
			if took := time.Since(begun); errs.KindOf(err) != errs.Unavailable || took > 10*time.Second {
				t.Errorf("%v after %v", err, took)
			}
		})
	}
}
