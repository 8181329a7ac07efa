package lock

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/google/go-cmp/cmp"
	"github.com/redis/go-redis/v9"

	"github.com/eprod/eprod/internal/errs"
	"github.com/eprod/eprod/internal/testenv"
)

// TestFenceOnRedis: what the server's clock and memory do, the fence grows, except if it loses both at once.
func TestFenceOnRedis(t *testing.T) {
	for _, reentrant := range []bool{false, true} {
		t.Run(fmt.Sprintf("reentrant=%v", reentrant), func(t *testing.T) {
			server := miniredis.RunT(t)
			l := onRedis("", redis.Options{Addr: server.Addr()}, reentrant).locker(t, "one")
			now := time.Date(2026, 5, 1, 0, 0, 0, 0, time.UTC)
			var last int64
			for _, c := range []struct {
				what string
				do   func()
			}{
				{"at first", func() {}},
				{"in the same microsecond", func() {}},
				{"with the clock set back", func() { now = now.Add(-time.Hour) }},
				{"with the memory lost a moment later", func() { now = now.Add(time.Hour + time.Millisecond); server.FlushAll() }},
				{"when the fence was forgotten", func() { now = now.Add(keepFence + time.Hour); server.FastForward(keepFence + time.Hour) }},
				{"in the year 2250", func() { now = time.Date(2250, 1, 1, 0, 0, 0, 0, time.UTC) }},
				{"once more", func() {}},
			} {
				c.do()
				server.SetTime(now)
				s := acquired(t, l, "anna", "n", time.Minute)
				if s.Token <= last || s.Token < now.UnixMicro() {
					t.Errorf("%s: token %d after %d", c.what, s.Token, last)
				}
				last = s.Token
				released(t, s)
				if n := len(server.Keys()); n != 1 {
					t.Errorf("%s: %d keys are left of a lock that is free, want the fence", c.what, n)
				}
			}
			if ttl := server.TTL(server.Keys()[0]); ttl != keepFence {
				t.Errorf("the fence is kept for %v", ttl)
			}
		})
	}
}

func TestRedisHoldsSomethingElse(t *testing.T) {
	server := miniredis.RunT(t)
	for _, reentrant := range []bool{false, true} {
		l := onRedis("", redis.Options{Addr: server.Addr()}, reentrant).locker(t, "one")
		for what, fill := range map[string]func(key string) error{
			"a text": func(key string) error { return server.Set(key, "hello") },
			"words":  func(key string) error { return server.Set(key, "hello my friends") },
			"a list": func(key string) error { _, err := server.Push(key, "x"); return err },
		} {
			for _, key := range []string{"lock:{n}", "relock:{n}"} {
				server.Del(key)
				if err := fill(key); err != nil {
					t.Fatal(err)
				}
			}
			if s, err := l.Acquire(by(t, "anna"), "n", time.Minute); errs.KindOf(err) != errs.Unavailable {
				t.Errorf("%s: got %v %v", what, s, err)
			}
		}
	}
}

func reentrants(t *testing.T) map[string]*Reentrant {
	t.Helper()
	prefix := fmt.Sprintf("t%d:", time.Now().UnixNano())
	all := map[string]*Reentrant{"embedded": NewReentrant(redisClient(t, &redis.Options{Dialer: embeddedRedis(t).RedisDial}), prefix, testParts("one"))}
	if address, ok := testenv.Redis(t); ok {
		all["redis"] = NewReentrant(redisClient(t, &redis.Options{Addr: address}), prefix, testParts("one"))
	}
	return all
}

// TestReentrance: an owner comes in again, with the same fence, and others when he has left as often as he came.
func TestReentrance(t *testing.T) {
	for name, l := range reentrants(t) {
		t.Run(name, func(t *testing.T) {
			first := acquired(t, l, "anna", "n", time.Minute)
			second := acquired(t, l, "anna", "n", 30*time.Second)
			if first.Token != second.Token {
				t.Errorf("tokens %d and %d in one holding", first.Token, second.Token)
			}
			refused(t, l, "bert", "n", "anna")
			released(t, first)
			refused(t, l, "bert", "n", "anna")
			again := acquired(t, l, "anna", "n", time.Minute)
			released(t, second)
			released(t, second)
			refused(t, l, "bert", "n", "anna")
			released(t, again)
			next := acquired(t, l, "bert", "n", time.Minute)
			if next.Token <= first.Token {
				t.Errorf("token %d after %d", next.Token, first.Token)
			}
			released(t, next)
		})
	}
}

// TestPeopleHold: the lock of somebody who edits, which lives in no process.
func TestPeopleHold(t *testing.T) {
	for name, l := range reentrants(t) {
		t.Run(name, func(t *testing.T) {
			ctx := t.Context()
			hold := func(owner, taking string, ttl time.Duration) Hold {
				t.Helper()
				h, err := l.Hold(ctx, "n", owner, taking, ttl)
				if left := time.Until(h.Until); err != nil || h.Owner != owner || left > ttl || left < ttl-5*time.Second {
					t.Fatalf("%+v for %v: %v", h, left, err)
				}
				return h
			}
			holder := func(want string) {
				t.Helper()
				h, held, err := l.Holder(ctx, "n")
				if err != nil || held != (want != "") || h.Owner != want {
					t.Errorf("held by %+v %v: %v; want %q", h, held, err, want)
				}
			}
			end := func(owner, taking string) {
				t.Helper()
				if err := l.Release(ctx, "n", owner, taking); err != nil {
					t.Error(err)
				}
			}
			holder("")
			first := hold("anna", "edit", time.Minute)
			if again := hold("anna", "edit", 2*time.Minute); again.Fence != first.Fence {
				t.Errorf("the same taking has the fences %d and %d", first.Fence, again.Fence)
			}
			hold("anna", "put", 10*time.Second)
			holder("anna")
			var held *HeldError
			_, err := l.Hold(ctx, "n", "bert", "edit", time.Minute) // the same taking of another owner is another taking
			if !errors.As(err, &held) {
				t.Fatalf("got %v", err)
			}
			if left := time.Until(held.Until); left < time.Minute || left > 2*time.Minute {
				t.Errorf("told that it ends in %v, want the end of the longest taking", left)
			}
			got, want := held.Hold, Hold{Owner: "anna", Fence: first.Fence, Until: held.Until}
			if d := cmp.Diff(want, got); d != "" {
				t.Error(d)
			}
			end("bert", "edit")
			end("anna", "edit")
			end("anna", "edit")
			holder("anna")
			end("anna", "put")
			holder("")
			if next := hold("bert", "edit", time.Minute); next.Fence <= first.Fence {
				t.Errorf("fence %d after %d", next.Fence, first.Fence)
			}
			end("bert", "edit")
		})
	}
}

// TestTakingsEndAlone: one that is over neither keeps the lock nor comes back with the same fence.
func TestTakingsEndAlone(t *testing.T) {
	server := miniredis.RunT(t)
	l := NewReentrant(redisClient(t, &redis.Options{Addr: server.Addr()}), "", testParts("one"))
	now := time.Now()
	pass := func(d time.Duration) {
		now = now.Add(d)
		server.SetTime(now)
		server.FastForward(d)
	}
	pass(0)
	first, err := l.Hold(t.Context(), "n", "anna", "short", 10*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := l.Hold(t.Context(), "n", "anna", "long", time.Minute); err != nil {
		t.Fatal(err)
	}
	pass(10 * time.Second)
	if again, err := l.Hold(t.Context(), "n", "anna", "short", time.Second); err != nil || again.Fence != first.Fence {
		t.Errorf("%+v %v: the other taking kept the holding", again, err)
	}
	pass(50 * time.Second)
	if _, held, err := l.Holder(t.Context(), "n"); held || err != nil {
		t.Errorf("held after the last taking: %v", err)
	}
	if again, err := l.Hold(t.Context(), "n", "anna", "short", time.Second); err != nil || again.Fence <= first.Fence {
		t.Errorf("%+v %v: a holding that had ended goes on", again, err)
	}
	pass(3 * time.Second)
	if n := len(server.Keys()); n != 1 {
		t.Errorf("%d keys are left, want the fence", n)
	}
}

func TestTakingsAreBounded(t *testing.T) {
	for name, l := range reentrants(t) {
		t.Run(name, func(t *testing.T) {
			for i := range maxTakings {
				if _, err := l.Hold(t.Context(), "n", "anna", fmt.Sprint(i), time.Minute); err != nil {
					t.Fatal(err)
				}
			}
			if _, err := l.Hold(t.Context(), "n", "anna", "one more", time.Minute); errs.KindOf(err) != errs.Overloaded {
				t.Errorf("got %v", err)
			}
			if _, err := l.Hold(t.Context(), "n", "anna", "0", time.Minute); err != nil {
				t.Errorf("one that is there: %v", err)
			}
			for i := range maxTakings {
				if err := l.Release(t.Context(), "n", "anna", fmt.Sprint(i)); err != nil {
					t.Fatal(err)
				}
			}
		})
	}
}

func TestRedisAway(t *testing.T) {
	server := miniredis.RunT(t)
	l := NewReentrant(redisClient(t, &redis.Options{Addr: server.Addr()}), "", testParts("one"))
	server.Close()
	_, errHold := l.Hold(t.Context(), "n", "anna", "edit", time.Minute)
	_, _, errHolder := l.Holder(t.Context(), "n")
	for what, err := range map[string]error{"hold": errHold, "holder": errHolder, "release": l.Release(t.Context(), "n", "anna", "edit")} {
		if errs.KindOf(err) != errs.Unavailable {
			t.Errorf("%s: %v", what, err)
		}
	}
	if _, err := l.Hold(t.Context(), "n", "anna", "", time.Minute); err == nil || errs.KindOf(err) == errs.Unavailable {
		t.Errorf("no taking: %v", err)
	}
}
