package telemetry_test

import (
	"context"
	"errors"
	"log/slog"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/eprod/eprod/internal/telemetry"
)

func exposition(m *telemetry.Metrics) string {
	w := httptest.NewRecorder()
	promhttp.HandlerFor(m.Registry, promhttp.HandlerOpts{}).ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
	return w.Body.String()
}

// TestSampler: ages grow between two looks; a store that fails or hangs loses its own metrics and nobody else's; they come back.
func TestSampler(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := telemetry.NewMetrics()
		s, err := telemetry.NewSampler(m, telemetry.SampleConfig{Every: 10 * time.Second, Timeout: 3 * time.Second}, time.Now, slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		var mu sync.Mutex
		var trouble error
		hang := false
		s.Add("one", func(ctx context.Context) ([]telemetry.Reading, error) {
			mu.Lock()
			defer mu.Unlock()
			if hang {
				mu.Unlock()
				<-ctx.Done()
				mu.Lock()
				return nil, ctx.Err()
			}
			if trouble != nil { // what is known comes with the error
				return []telemetry.Reading{{Gauge: telemetry.SpoolDepth, Labels: []string{"one"}, Value: 4}}, trouble
			}
			return []telemetry.Reading{{Gauge: telemetry.SpoolDepth, Labels: []string{"one"}, Value: 3},
				{Gauge: telemetry.OutboxOldest, Labels: []string{"one"}, Since: time.Now().Add(-time.Minute)}}, nil
		})
		s.Add("two", func(context.Context) ([]telemetry.Reading, error) {
			return []telemetry.Reading{{Gauge: telemetry.SpoolDepth, Labels: []string{"two"}, Value: 7}, {Gauge: telemetry.OutboxOldest, Labels: []string{"two"}}}, nil
		})
		change := func(err error, hangs bool) { mu.Lock(); trouble, hang = err, hangs; mu.Unlock() }
		holds := func(step string, present, absent []string) {
			t.Helper()
			text := exposition(m)
			for _, line := range present {
				if !strings.Contains(text, "\n"+line+"\n") {
					t.Errorf("%s: %s is missing", step, line)
				}
			}
			for _, start := range absent {
				if strings.Contains(text, "\n"+start) {
					t.Errorf("%s: %s is shown", step, start)
				}
			}
		}
		one, old := `eprod_spool_depth{database="one"}`, `eprod_outbox_oldest_seconds{database="one"}`
		others := []string{`eprod_spool_depth{database="two"} 7`, `eprod_outbox_oldest_seconds{database="two"} 0`}
		holds("before", nil, []string{one, old})
		ctx, stop := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- s.Run(ctx) }()
		synctest.Wait()
		holds("first", append(others, one+" 3", old+" 60"), nil)
		time.Sleep(5 * time.Second)
		holds("between", append(others, one+" 3", old+" 65"), nil)
		change(errors.New("half of it"), false)
		time.Sleep(11 * time.Second)
		holds("in part", append(others, one+" 4", `eprod_sample_failures_total{source="one"} 1`), []string{old})
		change(nil, true)
		time.Sleep(15 * time.Second)
		holds("hung", append(others, `eprod_sample_failures_total{source="two"} 0`), []string{one, old})
		change(nil, false)
		time.Sleep(15 * time.Second)
		holds("back", append(others, one+" 3"), nil)
		stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}

// TestSamplerForgets: what nobody renews is not shown for long, also when a read does not keep to its context.
func TestSamplerForgets(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := telemetry.NewMetrics()
		s, err := telemetry.NewSampler(m, telemetry.DefaultSampleConfig(), time.Now, slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		stuck, looks := make(chan struct{}), 0
		s.Add("one", func(context.Context) ([]telemetry.Reading, error) {
			if looks++; looks > 1 {
				<-stuck
			}
			return []telemetry.Reading{{Gauge: telemetry.SpoolDepth, Labels: []string{"one"}, Value: 3}}, nil
		})
		ctx, stop := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- s.Run(ctx) }()
		time.Sleep(15 * time.Second)
		if !strings.Contains(exposition(m), "\neprod_spool_depth") {
			t.Error("gone too early")
		}
		time.Sleep(10 * time.Second)
		if strings.Contains(exposition(m), "\neprod_spool_depth") {
			t.Error("an old value is shown")
		}
		close(stuck)
		stop()
		<-ended
	})
}
