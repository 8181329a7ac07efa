package limit_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/eprod/eprod/internal/limit"
	"github.com/eprod/eprod/internal/testenv"
)

// TestProtectRedis: a Redis that hangs opens the breaker and costs nobody anything then; refusals and missing keys do not; when it
// answers again it is used again.
func TestProtectRedis(t *testing.T) {
	address, ok := testenv.Redis(t)
	if !ok {
		return
	}
	proxy := testenv.NewProxy(t, address)
	client := redis.NewClient(&redis.Options{Addr: proxy.Address(), ContextTimeoutEnabled: true, MaxRetries: -1,
		ReadTimeout: 100 * time.Millisecond, WriteTimeout: 100 * time.Millisecond, DialTimeout: time.Second, DisableIdentity: true})
	t.Cleanup(func() { _ = client.Close() })
	c := limit.DefaultBreakerConfig()
	c.CallTimeout, c.Failures, c.Ratio, c.OpenFor, c.Probes = 100*time.Millisecond, 3, 1, 200*time.Millisecond, 1
	b := limit.NewBreaker("the cache", c, nil)
	limit.ProtectRedis(client, b)
	for range 5 {
		if err := client.Get(t.Context(), "eprod_test_missing").Err(); !errors.Is(err, redis.Nil) {
			t.Fatalf("a missing key: %v", err)
		}
		if err := client.Do(t.Context(), "NOSUCHCOMMAND").Err(); err == nil {
			t.Fatal("an unknown command succeeded")
		}
	}
	if b.State() != limit.Closed {
		t.Fatal("answers opened the breaker")
	}
	proxy.Silence(true)
	for range 3 {
		if err := client.Get(t.Context(), "k").Err(); err == nil || errors.Is(err, limit.ErrOpen) {
			t.Fatalf("hung: %v", err)
		}
	}
	began := time.Now()
	err := client.Get(t.Context(), "k").Err()
	_, many := client.Pipelined(t.Context(), func(p redis.Pipeliner) error { p.Get(t.Context(), "k"); return nil })
	if took := time.Since(began); !errors.Is(err, limit.ErrOpen) || !errors.Is(many, limit.ErrOpen) || took > 50*time.Millisecond {
		t.Errorf("open: %v, %v after %v", err, many, took)
	}
	proxy.Silence(false)
	for end := time.Now().Add(10 * time.Second); client.Ping(t.Context()).Err() != nil; {
		if time.Now().After(end) {
			t.Fatal("not used again 10 s after it answers")
		}
	}
}

// TestBreakerLeavesOutTheHasty: callers without patience do not open a breaker, however many there are; those who waited do.
func TestBreakerLeavesOutTheHasty(t *testing.T) {
	c := limit.DefaultBreakerConfig()
	c.CallTimeout, c.Failures = 200*time.Millisecond, 3
	b := limit.NewBreaker("the database", c, nil)
	call := func(patience time.Duration) {
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		_ = b.Do(ctx, func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() })
	}
	for range 20 {
		call(time.Millisecond)
	}
	if b.State() != limit.Closed {
		t.Error("hasty callers opened the breaker")
	}
	for range 3 {
		call(150 * time.Millisecond)
	}
	if b.State() != limit.Open {
		t.Error("callers who had waited did not open it")
	}
}
