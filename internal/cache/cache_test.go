package cache

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"

	"github.com/eprod/eprod/internal/testenv"
)

// stores returns the embedded server and, where it runs, the real one.
func stores(t *testing.T) map[string]*Redis {
	t.Helper()
	prefix := fmt.Sprintf("t%d:", time.Now().UnixNano())
	open := func(address string) *Redis {
		client := redis.NewClient(&redis.Options{Addr: address, ContextTimeoutEnabled: true, MaxRetries: -1})
		t.Cleanup(func() { _ = client.Close() })
		return NewRedis(client, prefix, time.Second)
	}
	all := map[string]*Redis{"embedded": open(miniredis.RunT(t).Addr())}
	if address, ok := testenv.Redis(t); ok {
		all["redis"] = open(address)
	}
	return all
}

func TestStore(t *testing.T) {
	for name, s := range stores(t) {
		t.Run(name, func(t *testing.T) {
			if _, ok, err := s.Get(t.Context(), "a"); ok || err != nil {
				t.Fatalf("%v %v", ok, err)
			}
			if err := s.SetMany(t.Context(), map[string][]byte{"a": {1, 0, 2}, "b": {}}, time.Minute); err != nil {
				t.Fatal(err)
			}
			if v, ok, err := s.Get(t.Context(), "a"); !ok || err != nil || string(v) != "\x01\x00\x02" {
				t.Errorf("%q %v %v", v, ok, err)
			}
		})
	}
}

func TestFetchLoadsOnce(t *testing.T) {
	for name, s := range stores(t) {
		t.Run(name, func(t *testing.T) {
			c := New(s, time.Hour)
			var loads atomic.Int32
			entered, open := make(chan struct{}), make(chan struct{})
			load := func(context.Context) ([]byte, error) {
				if loads.Add(1) == 1 {
					close(entered)
				}
				<-open
				return []byte("value"), nil
			}
			var callers sync.WaitGroup
			callers.Go(func() { _, _ = c.Fetch(t.Context(), "k", load) })
			<-entered
			for range 20 {
				callers.Go(func() {
					if v, err := c.Fetch(t.Context(), "k", load); err != nil || string(v) != "value" {
						t.Errorf("%q %v", v, err)
					}
				})
			}
			close(open)
			callers.Wait()
			if _, err := c.Fetch(t.Context(), "k", load); err != nil || loads.Load() != 1 {
				t.Errorf("%d loads (%v), want 1", loads.Load(), err)
			}
			boom := errors.New("boom")
			if _, err := c.Fetch(t.Context(), "other", func(context.Context) ([]byte, error) { return nil, boom }); !errors.Is(err, boom) {
				t.Errorf("got %v, want what load returned", err)
			}
		})
	}
}

// TestHungCacheIsAMiss: a server that takes connections and never answers costs the budget, and the value is loaded.
func TestHungCacheIsAMiss(t *testing.T) {
	hung, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer hung.Close()
	client := redis.NewClient(&redis.Options{Addr: hung.Addr().String(), ContextTimeoutEnabled: true, MaxRetries: -1, DisableIdentity: true})
	defer client.Close()
	c := New(NewRedis(client, "", 50*time.Millisecond), time.Hour)
	began := time.Now()
	v, err := c.Fetch(t.Context(), "k", func(context.Context) ([]byte, error) { return []byte("value"), nil })
	if err != nil || string(v) != "value" {
		t.Fatalf("%q %v", v, err)
	}
	if took := time.Since(began); took > 3*time.Second {
		t.Errorf("took %v", took)
	}
}

// broken is a store that fails in each of its ways.
type broken struct{ get, set error }

func (b broken) Get(context.Context, string) ([]byte, bool, error) {
	return []byte("wrong"), b.get == nil, b.get
}

func (b broken) Set(context.Context, string, []byte, time.Duration) error { return b.set }

func TestFailingStoreIsAMiss(t *testing.T) {
	boom := errors.New("boom")
	c := New(broken{boom, boom}, time.Hour)
	for range 2 {
		if v, err := c.Fetch(t.Context(), "k", func(context.Context) ([]byte, error) { return []byte("value"), nil }); err != nil || string(v) != "value" {
			t.Errorf("%q %v", v, err)
		}
	}
}

// TestLoadOutlivesItsFirstCaller: whoever began a load may leave; the others get its value.
func TestLoadOutlivesItsFirstCaller(t *testing.T) {
	c := New(broken{get: errors.New("boom")}, time.Hour)
	entered, open := make(chan struct{}), make(chan struct{})
	load := func(ctx context.Context) ([]byte, error) {
		close(entered)
		<-open
		if _, bounded := ctx.Deadline(); !bounded {
			t.Error("a load without an end")
		}
		return []byte("value"), ctx.Err()
	}
	ctx, leave := context.WithCancel(t.Context())
	first, second := make(chan error, 1), make(chan string, 1)
	go func() { _, err := c.Fetch(ctx, "k", load); first <- err }()
	<-entered
	leave()
	if err := <-first; !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want that the caller left", err)
	}
	go func() {
		v, err := c.Fetch(t.Context(), "k", func(context.Context) ([]byte, error) { return []byte("loaded twice"), nil })
		second <- fmt.Sprintf("%s %v", v, err)
	}()
	select {
	case got := <-second:
		t.Fatalf("got %s before the load ended", got)
	case <-time.After(50 * time.Millisecond): // by now it waits for the same load
	}
	close(open)
	if got := <-second; got != "value <nil>" {
		t.Errorf("got %s, want the value of the load under way", got)
	}
}

// TestValuesExpire: a tenth apart at the most, never later than asked, and under the prefix.
func TestValuesExpire(t *testing.T) {
	server := miniredis.RunT(t)
	client := redis.NewClient(&redis.Options{Addr: server.Addr(), ContextTimeoutEnabled: true, MaxRetries: -1})
	defer client.Close()
	c := New(NewRedis(client, "eprod:", time.Second), 10*time.Hour)
	different := make(map[time.Duration]bool)
	for i := range 20 {
		key := fmt.Sprint(i)
		if _, err := c.Fetch(t.Context(), key, func(context.Context) ([]byte, error) { return []byte("v"), nil }); err != nil {
			t.Fatal(err)
		}
		ttl := server.TTL("eprod:" + key)
		if ttl > 10*time.Hour || ttl < 9*time.Hour {
			t.Errorf("kept for %v", ttl)
		}
		different[ttl] = true
	}
	if len(different) < 2 {
		t.Error("all values expire together")
	}
	server.FastForward(10 * time.Hour)
	if v, err := c.Fetch(t.Context(), "1", func(context.Context) ([]byte, error) { return []byte("new"), nil }); err != nil || string(v) != "new" {
		t.Errorf("%q %v", v, err)
	}
}
