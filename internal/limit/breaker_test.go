package limit_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/eprod/eprod/internal/errs"
	"github.com/eprod/eprod/internal/limit"
	"github.com/eprod/eprod/internal/telemetry"
)

func breakerConfig() limit.BreakerConfig {
	c := limit.DefaultBreakerConfig()
	c.CallTimeout, c.Failures, c.MinCalls, c.OpenFor, c.Probes = time.Second, 3, 10, 5*time.Second, 1
	return c
}

func TestBreakerOpensProbesAndCloses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := limit.NewBreaker("the log", breakerConfig(), nil)
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
		{"throttled", t.Context(), limit.RateLimited(time.Second), limit.Closed},
		{"our credentials", t.Context(), errs.NoCredentials("x"), limit.Closed},
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

// TestBreakerCancelledProbe: a probe whose caller left neither closes nor opens the breaker, and gives its place back.
func TestBreakerCancelledProbe(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := limit.NewBreaker("the log", breakerConfig(), nil)
		for range 3 {
			_ = b.Do(t.Context(), func(context.Context) error { return errors.New("broken") })
		}
		time.Sleep(5*time.Second + 1)
		leaving, leave := context.WithCancel(t.Context())
		defer leave()
		for range 5 { // one place for probes
			if err := b.Do(leaving, func(ctx context.Context) error { leave(); return ctx.Err() }); !errors.Is(err, context.Canceled) || b.State() != limit.HalfOpen {
				t.Fatalf("%v, %s", err, b.State())
			}
		}
		if err := b.Do(t.Context(), func(context.Context) error { return nil }); err != nil || b.State() != limit.Closed {
			t.Fatalf("%v, %s", err, b.State())
		}
	})
}

// TestBreakerHalfOpenBound: while the probes are out, everybody else is refused at once.
func TestBreakerHalfOpenBound(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := limit.NewBreaker("the log", breakerConfig(), nil)
		for range 3 {
			_ = b.Do(t.Context(), func(context.Context) error { return errors.New("broken") })
		}
		time.Sleep(5*time.Second + 1)
		err := b.Do(t.Context(), func(ctx context.Context) error {
			called := false
			if err := b.Do(ctx, func(context.Context) error { called = true; return nil }); called || !errors.Is(err, limit.ErrOpen) {
				t.Errorf("a second probe got through: %v", err)
			}
			return nil
		})
		if err != nil || b.State() != limit.Closed {
			t.Errorf("%v, %s", err, b.State())
		}
	})
}

// TestBreakerWindow: failures older than the window no longer count towards the ratio.
func TestBreakerWindow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := breakerConfig()
		cfg.Failures = 100
		b := limit.NewBreaker("the log", cfg, nil)
		fail := func(n int) {
			for range n {
				_ = b.Do(t.Context(), func(context.Context) error { return errors.New("broken") })
			}
		}
		fail(9)
		time.Sleep(cfg.Window + cfg.Window/10)
		if fail(9); b.State() != limit.Closed {
			t.Fatal("nine failures before the window were counted")
		}
		if fail(1); b.State() != limit.Open {
			t.Fatal("ten failures of ten calls in the window did not open the breaker")
		}
	})
}

// TestAnnounce: /metrics shows the state of the moment, and the log every change.
func TestAnnounce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		metrics := telemetry.NewMetrics()
		var log bytes.Buffer
		b := limit.NewBreaker("the log", breakerConfig(), limit.Announce("log", metrics.Health, slog.New(slog.NewTextHandler(&log, nil))))
		shown := func(want string) {
			t.Helper()
			w := httptest.NewRecorder()
			promhttp.HandlerFor(metrics.Registry, promhttp.HandlerOpts{}).ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
			if !strings.Contains(w.Body.String(), `eprod_breaker_state{name="log"} `+want+"\n") {
				t.Errorf("/metrics does not show %s:\n%s", want, w.Body)
			}
		}
		shown("0")
		for range 3 {
			_ = b.Do(t.Context(), func(context.Context) error { return errors.New("broken") })
		}
		shown("2")
		time.Sleep(5*time.Second + 1)
		shown("1") // though nobody has called
		_ = b.Do(t.Context(), func(context.Context) error { shown("1"); return nil })
		shown("0")
		for _, want := range []string{"level=WARN", "breaker=log", "from=closed to=open", "from=open to=half-open", "from=half-open to=closed"} {
			if !strings.Contains(log.String(), want) {
				t.Errorf("the log lacks %q:\n%s", want, log.String())
			}
		}
	})
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

func BenchmarkBreaker(b *testing.B) {
	br := limit.NewBreaker("x", limit.DefaultBreakerConfig(), nil)
	fn := func(context.Context) error { return nil }
	for b.Loop() {
		_ = br.Do(b.Context(), fn)
	}
}
