package limit_test

import (
	"context"
	"errors"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gin-gonic/gin"
	"github.com/google/go-cmp/cmp"

	"github.com/eprod/eprod/internal/errs"
	"github.com/eprod/eprod/internal/limit"
)

func TestInFlight(t *testing.T) {
	f := limit.NewInFlight(2)
	one, ok1 := f.TryAcquire()
	_, ok2 := f.TryAcquire()
	_, ok3 := f.TryAcquire()
	if !ok1 || !ok2 || ok3 || f.Count() != 2 || f.Refused() != 1 {
		t.Fatalf("%v %v %v count %d refused %d", ok1, ok2, ok3, f.Count(), f.Refused())
	}
	one()
	if _, ok := f.TryAcquire(); !ok {
		t.Error("a released place was not given again")
	}
}

func TestInFlightConcurrent(t *testing.T) {
	f := limit.NewInFlight(8)
	var wg sync.WaitGroup
	var mu sync.Mutex
	inside, most := 0, 0
	for range 64 {
		wg.Go(func() {
			for range 200 {
				release, ok := f.TryAcquire()
				if !ok {
					continue
				}
				mu.Lock()
				inside++
				most = max(most, inside)
				mu.Unlock()
				mu.Lock()
				inside--
				mu.Unlock()
				release()
			}
		})
	}
	wg.Wait()
	if most > 8 || f.Count() != 0 {
		t.Errorf("most %d inside, %d left", most, f.Count())
	}
}

func breakerConfig() limit.BreakerConfig {
	c := limit.DefaultBreakerConfig()
	c.CallTimeout, c.Failures, c.MinCalls, c.OpenFor, c.Probes = time.Second, 3, 10, 5*time.Second, 1
	return c
}

func TestBreakerOpensProbesAndCloses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var changes []string
		b := limit.NewBreaker("the log", breakerConfig(), func(_ string, from, to limit.State) { changes = append(changes, string(from)+" "+string(to)) })
		broken := errors.New("broken")
		fail := func(context.Context) error { return broken }
		for range 3 {
			if err := b.Do(t.Context(), fail); !errors.Is(err, broken) {
				t.Fatal(err)
			}
		}
		called := false
		err := b.Do(t.Context(), func(context.Context) error { called = true; return nil })
		e, _ := errs.As(err)
		if called || !errors.Is(err, limit.ErrOpen) || e.Kind != errs.Unavailable || e.Code != "unavailable" || e.RetryAfter != 5*time.Second {
			t.Fatalf("called %v, %#v", called, err)
		}
		time.Sleep(5*time.Second + 1) // synctest's clock
		if err := b.Do(t.Context(), func(context.Context) error { return nil }); err != nil || b.State() != limit.Closed {
			t.Fatalf("%v %s", err, b.State())
		}
		if diff := cmp.Diff([]string{"closed open", "open half-open", "half-open closed"}, changes); diff != "" {
			t.Error(diff)
		}
	})
}

func TestBreakerHungProbeEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := limit.NewBreaker("the log", breakerConfig(), nil)
		hang := func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }
		for range 3 {
			_ = b.Do(t.Context(), hang)
		}
		time.Sleep(5*time.Second + 1)
		start := time.Now()
		if err := b.Do(t.Context(), hang); errs.KindOf(err) != errs.Unavailable {
			t.Fatal(err)
		}
		if took := time.Since(start); took != time.Second || b.State() != limit.Open {
			t.Fatalf("the probe took %v and left the breaker %s", took, b.State())
		}
		time.Sleep(5*time.Second + 1)
		if err := b.Do(t.Context(), func(context.Context) error { return nil }); err != nil {
			t.Fatal(err)
		}
	})
}

func TestBreakerLeavesOut(t *testing.T) {
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	tests := []struct {
		name string
		ctx  context.Context
		err  error
		want limit.State
	}{
		{"caller cancelled", cancelled, context.Canceled, limit.Closed},
		{"caller cancelled, other error", cancelled, errors.New("broken pipe"), limit.Closed},
		{"refused input", t.Context(), errs.Absent("topic"), limit.Closed},
		{"away", t.Context(), errs.Away("kafka", nil), limit.Open},
		{"time-out", t.Context(), context.DeadlineExceeded, limit.Open},
		{"unknown", t.Context(), errors.New("?"), limit.Open},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			b := limit.NewBreaker("x", breakerConfig(), nil)
			for range 20 {
				if err := b.Do(tt.ctx, func(context.Context) error { return tt.err }); tt.want == limit.Closed && err != tt.err {
					t.Fatalf("error changed to %v", err)
				}
			}
			if b.State() != tt.want {
				t.Errorf("state %s, want %s", b.State(), tt.want)
			}
		})
	}
}

func TestBreakerRatio(t *testing.T) {
	b := limit.NewBreaker("x", breakerConfig(), nil)
	for i := range 10 {
		_ = b.Do(t.Context(), func(context.Context) error {
			if i%2 == 0 {
				return nil
			}
			return errors.New("every second call")
		})
	}
	if b.State() != limit.Open {
		t.Error("half of ten calls failed and the breaker is still", b.State())
	}
}

func TestBuckets(t *testing.T) {
	now := time.Unix(1_700_000_000, 0)
	b, err := limit.NewBuckets(limit.BucketConfig{Rate: 2, Burst: 3, Keys: 2}, func() time.Time { return now })
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if ok, _ := b.Allow("a"); !ok {
			t.Fatal("refused within the burst")
		}
	}
	if ok, after := b.Allow("a"); ok || after != 500*time.Millisecond {
		t.Fatalf("%v %v, want half a second for one token of two a second", ok, after)
	}
	if ok, _ := b.Allow("b"); !ok {
		t.Fatal("another key must have its own bucket")
	}
	now = now.Add(500 * time.Millisecond)
	if ok, _ := b.Allow("a"); !ok {
		t.Fatal("refused when the token was due")
	}
	for _, key := range []string{"c", "d"} { // push a and b out
		b.Allow(key)
	}
	if ok, _ := b.Allow("a"); !ok {
		t.Fatal("a forgotten key starts full")
	}
	e, _ := errs.As(drain(b, "a"))
	if e == nil || e.Kind != errs.RateLimited || e.Code != "rate_limited" || e.RetryAfter <= 0 {
		t.Fatalf("%#v", e)
	}
}

func drain(b *limit.Buckets, key string) error {
	for range 10 {
		if err := b.Check(key); err != nil {
			return err
		}
	}
	return nil
}

func TestMiddleware(t *testing.T) {
	b, err := limit.NewBuckets(limit.BucketConfig{Rate: 0.1, Burst: 1, Keys: 10}, time.Now)
	if err != nil {
		t.Fatal(err)
	}
	gin.SetMode(gin.ReleaseMode)
	engine := gin.New()
	engine.Use(b.Middleware(func(c *gin.Context) string { return c.GetHeader("Key") }))
	engine.GET("/", func(c *gin.Context) { c.Status(204) })
	for _, step := range []struct {
		key    string
		status int
	}{{"a", 204}, {"a", 429}, {"b", 204}, {"", 204}, {"", 204}} {
		w := httptest.NewRecorder()
		req := httptest.NewRequest("GET", "/", nil)
		req.Header.Set("Key", step.key)
		engine.ServeHTTP(w, req)
		after, _ := strconv.Atoi(w.Header().Get("Retry-After"))
		if w.Code != step.status || step.status == 429 && (after < 10 || after > 21 || !strings.Contains(w.Body.String(), "rate_limited")) {
			t.Errorf("key %q: %d, Retry-After %d, %s", step.key, w.Code, after, w.Body.String())
		}
	}
}

func TestValidateNamesEveryProblem(t *testing.T) {
	for name, tt := range map[string]struct {
		err  error
		want []string
	}{
		"breaker": {limit.BreakerConfig{}.Validate(), []string{"callTimeout: ", "openFor: ", "window: ", "failures: ", "minCalls: ", "probes: ", "ratio: "}},
		"bucket":  {limit.BucketConfig{}.Validate(), []string{"rate: ", "burst: ", "keys: "}},
	} {
		for _, key := range tt.want {
			if tt.err == nil || !strings.Contains(tt.err.Error(), key) {
				t.Errorf("%s: %v does not name %s", name, tt.err, key)
			}
		}
	}
	if err := errors.Join(limit.DefaultBreakerConfig().Validate(), limit.DefaultBucketConfig().Validate()); err != nil {
		t.Error(err)
	}
}

func BenchmarkBreaker(b *testing.B) {
	br := limit.NewBreaker("x", limit.DefaultBreakerConfig(), nil)
	fn := func(context.Context) error { return nil }
	for b.Loop() {
		_ = br.Do(b.Context(), fn)
	}
}

func BenchmarkBuckets(b *testing.B) {
	bk, _ := limit.NewBuckets(limit.BucketConfig{Rate: 1e9, Burst: 1e9, Keys: 1000}, time.Now)
	for b.Loop() {
		bk.Allow("participant")
	}
}
