package cache

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/eprod/eprod/internal/errs"
	"github.com/eprod/eprod/internal/kafka"
)

type tally struct {
	mu   sync.Mutex
	seen map[string]int
}

func (m *tally) Cached(outcome string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.seen == nil {
		m.seen = make(map[string]int)
	}
	m.seen[outcome]++
}

func value(v int64) Load {
	return func(context.Context) ([]byte, int64, error) { return fmt.Appendf(nil, "value %d", v), v, nil }
}

func refused(context.Context) ([]byte, int64, error) { return nil, 0, errors.New("must not be loaded") }

func gone(context.Context) ([]byte, int64, error) { return nil, 0, errs.Absent("the thing") }

// eachGated runs a test on the embedded server and, where it runs, on the real one.
func eachGated(t *testing.T, test func(t *testing.T, g *Gated, m *tally)) {
	for name, s := range stores(t) {
		t.Run(name, func(t *testing.T) {
			m := &tally{}
			test(t, NewGated(s, DefaultConfig(), m), m)
		})
	}
}

func get(t *testing.T, g *Gated, floor int64, load Load) string {
	t.Helper()
	v, err := g.Get(t.Context(), t.Name(), floor, load)
	if refusal, ok := errs.As(err); ok {
		return refusal.Detail
	}
	if err != nil {
		return err.Error()
	}
	return string(v)
}

func TestGated(t *testing.T) {
	eachGated(t, func(t *testing.T, g *Gated, m *tally) {
		want := func(what, got, want string) {
			t.Helper()
			if got != want {
				t.Errorf("%s: got %q, want %q", what, got, want)
			}
		}
		invalidate := func(version int64) {
			t.Helper()
			if err := g.Invalidate(t.Context(), t.Name(), version); err != nil {
				t.Fatal(err)
			}
		}
		want("what does not exist", get(t, g, 0, gone), "the thing does not exist")
		want("what does not exist is remembered", get(t, g, 0, refused), "the thing does not exist")
		invalidate(1) // it was created
		want("created", get(t, g, 0, value(1)), "value 1")
		want("kept", get(t, g, 0, refused), "value 1")
		want("for those who have seen no younger one", get(t, g, 1, refused), "value 1")
		invalidate(1)
		want("a late deletion leaves what is young enough", get(t, g, 0, refused), "value 1")
		invalidate(2)
		want("an older value is served and not kept", get(t, g, 0, value(1)), "value 1")
		want("the younger one is", get(t, g, 0, value(2)), "value 2")
		want("and kept", get(t, g, 0, refused), "value 2")
		want("a caller who has seen a younger one gets it", get(t, g, 3, value(3)), "value 3")
		want("and everybody after", get(t, g, 0, refused), "value 3")
		invalidate(0)
		want("whatever it is", get(t, g, 0, value(4)), "value 4")
		if m.seen["stale"] != 1 || m.seen["hit"] != 6 || m.seen["away"] != 0 {
			t.Errorf("counted %v", m.seen)
		}
	})
}

// TestFillAfterDeletion: a value that was loaded before its deletion, or before Redis lost its memory, never gets in.
func TestFillAfterDeletion(t *testing.T) {
	events := map[string]func(t *testing.T, g *Gated) error{
		"deleted by version": func(t *testing.T, g *Gated) error { return g.Invalidate(t.Context(), t.Name(), 2) },
		"deleted":            func(t *testing.T, g *Gated) error { return g.Invalidate(t.Context(), t.Name(), 0) },
		"memory lost": func(t *testing.T, g *Gated) error {
			return g.redis.client.Del(t.Context(), g.redis.prefix+t.Name()).Err()
		},
		"memory lost and another's turn": func(t *testing.T, g *Gated) error {
			err := g.redis.client.Del(t.Context(), g.redis.prefix+t.Name()).Err()
			_, also := g.enter(t.Context(), t.Name())
			return errors.Join(err, also)
		},
		"overtaken": func(t *testing.T, g *Gated) error {
			e, err := g.enter(t.Context(), t.Name())
			g.fill(t.Context(), t.Name(), e.turn, entry{value: []byte("value 2"), version: 2})
			return err
		},
	}
	for what, event := range events {
		eachGated(t, func(t *testing.T, g *Gated, _ *tally) {
			got := get(t, g, 0, func(ctx context.Context) ([]byte, int64, error) {
				if err := event(t, g); err != nil {
					t.Error(err)
				}
				return value(1)(ctx)
			})
			if next := get(t, g, 0, value(2)); got != "value 1" || next != "value 2" {
				t.Errorf("%s: got %q, then %q", what, got, next)
			}
			g.redis.client.Del(t.Context(), g.redis.prefix+t.Name())
		})
	}
}

func TestGatedDamage(t *testing.T) {
	eachGated(t, func(t *testing.T, g *Gated, _ *tally) {
		for _, damaged := range []string{"", "short", "\x00\x00\x00\x00\x00\x00\x00\x01\x07x"} {
			if err := g.redis.client.HSet(t.Context(), g.redis.prefix+t.Name(), "d", damaged).Err(); err != nil {
				t.Fatal(err)
			}
			if got, kept := get(t, g, 0, value(1)), get(t, g, 0, refused); got != "value 1" || kept != "value 1" {
				t.Errorf("%q: got %q, then %q", damaged, got, kept)
			}
		}
	})
}

// TestGatedAway: without Redis every read is a load, of which few run at once, and none waits for ever.
func TestGatedAway(t *testing.T) {
	client := redis.NewClient(&redis.Options{Addr: "127.0.0.1:1", ContextTimeoutEnabled: true, MaxRetries: -1})
	defer client.Close()
	config, m := DefaultConfig(), &tally{}
	config.Loads, config.LoadTimeout = 2, 200*time.Millisecond
	g := NewGated(NewRedis(client, "x", 50*time.Millisecond), config, m)
	if got := get(t, g, 0, value(7)); got != "value 7" || m.seen["away"] != 1 {
		t.Errorf("got %q, counted %v", got, m.seen)
	}
	if err := g.Invalidate(t.Context(), "k", 1); err == nil {
		t.Error("a deletion that did not happen is no error")
	}
	var at, most, late atomic.Int32
	var callers sync.WaitGroup
	for i := range 8 {
		callers.Go(func() {
			_, err := g.Get(t.Context(), fmt.Sprint("k", i), 0, func(ctx context.Context) ([]byte, int64, error) {
				for n := at.Add(1); n > most.Load(); {
					most.Store(n)
				}
				<-ctx.Done() // a database that hangs
				at.Add(-1)
				return nil, 0, errs.Away("database", ctx.Err())
			})
			if errs.KindOf(err) == errs.Unavailable {
				late.Add(1)
			}
		})
	}
	callers.Wait()
	if most.Load() != 2 || late.Load() != 8 {
		t.Errorf("%d loads at once, %d of 8 callers told to come again", most.Load(), late.Load())
	}
}

func TestGatedLoadsOnce(t *testing.T) {
	eachGated(t, func(t *testing.T, g *Gated, _ *tally) {
		var loads atomic.Int32
		entered, open := make(chan struct{}), make(chan struct{})
		load := func(ctx context.Context) ([]byte, int64, error) {
			if loads.Add(1) == 1 {
				close(entered)
			}
			<-open
			return value(1)(ctx)
		}
		ctx, leave := context.WithCancel(t.Context())
		var callers sync.WaitGroup
		callers.Go(func() {
			if _, err := g.Get(ctx, t.Name(), 0, load); errs.KindOf(err) != errs.Unavailable {
				t.Errorf("who leaves gets %v", err)
			}
		})
		<-entered
		for range 20 {
			callers.Go(func() {
				if v, err := g.Get(t.Context(), t.Name(), 0, load); string(v) != "value 1" || err != nil {
					t.Errorf("%s, %v", v, err)
				}
			})
		}
		leave()
		close(open)
		callers.Wait()
		if n := loads.Load(); n != 1 {
			t.Errorf("loaded %d times", n)
		}
	})
}

func TestVerify(t *testing.T) {
	eachGated(t, func(t *testing.T, g *Gated, _ *tally) {
		verify := func(load Load) bool {
			t.Helper()
			ok, err := g.Verify(t.Context(), t.Name(), load)
			if err != nil {
				t.Fatal(err)
			}
			return ok
		}
		if !verify(refused) {
			t.Error("what is not kept is wrong")
		}
		get(t, g, 0, gone)
		if !verify(gone) || verify(value(1)) {
			t.Error("what does not exist is wrong, or right after it was created")
		}
		get(t, g, 0, value(1))
		if !verify(value(1)) || verify(value(2)) {
			t.Error("an older value is right, or the same one wrong")
		}
		if got := get(t, g, 0, value(2)); got != "value 2" || verify(gone) || get(t, g, 0, gone) == "value 2" {
			t.Errorf("got %q; what exists no more is not found out", got)
		}
	})
}

func TestInvalidator(t *testing.T) {
	eachGated(t, func(t *testing.T, g *Gated, _ *tally) {
		get(t, g, 0, value(1))
		var out strings.Builder
		i := &Invalidator{Cache: g, Logger: slog.New(slog.NewTextHandler(&out, nil))}
		e := Invalidation(1, t.Name(), 2, time.Now())
		batch := []kafka.Message{{Value: []byte("{")}, {Value: []byte("{}")}, {Value: []byte(`{"key":"x","version":-1}`)}, {Value: e.Payload}}
		if err := i.Handle(t.Context(), batch); err != nil || strings.Count(out.String(), "not an invalidation") != 3 {
			t.Errorf("%v; logged %s", err, out.String())
		}
		if got := get(t, g, 0, value(2)); got != "value 2" {
			t.Errorf("got %q", got)
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if err := i.Handle(ctx, batch); err == nil {
			t.Error("a deletion that did not happen counts as done")
		}
	})
}

func TestConfigNamesEveryProblem(t *testing.T) {
	if err := DefaultConfig().Validate(); err != nil {
		t.Error(err)
	}
	err := Config{LoadTimeout: time.Hour}.Validate()
	for _, key := range []string{"ttl: ", "absentTtl: ", "loadTimeout: ", "loads: "} {
		if err == nil || !strings.Contains(err.Error(), key) {
			t.Errorf("%s is not named in %v", key, err)
		}
	}
}
