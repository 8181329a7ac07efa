package telemetry_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/eprod/eprod/internal/errs"
	"github.com/eprod/eprod/internal/telemetry"
	"github.com/eprod/eprod/internal/testenv"
	"github.com/eprod/eprod/internal/trace"
)

const (
	outsideTrace = "0af7651916cd43dd8448eb211c80319c"
	outsideSpan  = "b7ad6b7169203331"
	insistent    = "00-" + outsideTrace + "-" + outsideSpan + "-01"
)

// tracing runs a tracing to a collector; stop ends it and returns what it counted.
func tracing(t *testing.T, c *testenv.Collector, change func(*telemetry.TraceConfig)) (ctx context.Context, tr *trace.Tracer, stop func() string) {
	t.Helper()
	config := telemetry.DefaultTraceConfig()
	config.Endpoint, config.Ratio, config.Every, config.Timeout = c.URL, 0, 10*time.Millisecond, 300*time.Millisecond
	if change != nil {
		change(&config)
	}
	if err := config.Validate(); err != nil {
		t.Fatal(err)
	}
	m := telemetry.NewMetrics()
	tracing, err := telemetry.NewTracing(t.Context(), config, map[string]string{"Authorization": "Bearer secret"}, service, m.Spans, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	running, end := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- tracing.Run(running) }()
	stopped := false
	stop = func() string {
		if !stopped {
			stopped = true
			end()
			if err := <-ended; err != nil {
				t.Error(err)
			}
		}
		return exposition(m)
	}
	t.Cleanup(func() { stop() })
	return trace.With(t.Context(), tracing.Tracer), tracing.Tracer, stop
}

func names(spans []testenv.ReceivedSpan) []string {
	out := make(map[string]bool)
	for _, s := range spans {
		out[s.Name] = true
	}
	return slices.Sorted(maps.Keys(out))
}

// TestSampling: the ratio decides about a request, whatever its caller wants, and so it goes on through the log; failures are kept with all
// of their spans, as many a second as may be.
func TestSampling(t *testing.T) {
	away := errs.New(errs.Unavailable, "unavailable", "a text that is not told")
	request := func(ctx context.Context, tr *trace.Tracer, name string, err error) (header string) {
		ctx, span := tr.Request(ctx, name, insistent)
		inner, child := trace.Start(ctx, name+" inside", trace.Client)
		child.End(err)
		header = trace.Header(inner)
		span.End(nil)
		return header
	}
	cases := []struct {
		name   string
		change func(*telemetry.TraceConfig)
		want   []string
		header bool
	}{
		{"None", nil, []string{"failed", "failed inside"}, false},
		{"All", func(c *telemetry.TraceConfig) { c.Ratio = 1 }, []string{"failed", "failed inside", "fine", "fine inside", "refused", "refused inside"}, true},
		{"CallerTrusted", func(c *telemetry.TraceConfig) { c.TrustCaller = true }, []string{"failed", "failed inside", "fine", "fine inside", "refused", "refused inside"}, true},
		{"NoErrors", func(c *telemetry.TraceConfig) { c.Errors = 0 }, nil, false},
		{"NoRoom", func(c *telemetry.TraceConfig) { c.Held = 1; c.HeldSpans = 1 }, []string{"failed", "failed inside"}, false},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			collector := testenv.NewCollector(t, nil)
			ctx, tr, stop := tracing(t, collector, c.change)
			header := request(ctx, tr, "fine", nil)
			request(ctx, tr, "refused", errs.New(errs.Conflict, "locked", "x"))
			request(ctx, tr, "failed", away)
			stop()
			spans := collector.Spans(outsideTrace)
			if diff := cmp.Diff(c.want, names(spans)); diff != "" && len(c.want)+len(spans) > 0 {
				t.Error(diff)
			}
			if strings.HasPrefix(header, "00-"+outsideTrace+"-") != c.header {
				t.Errorf("handed on %q", header)
			}
			for _, s := range spans {
				if s.Name == "failed inside" && (s.Status.Code != 2 || s.Attrs["error.type"] != "unavailable" || s.Status.Message != "") {
					t.Errorf("%v %v", s.Status, s.Attrs)
				}
				if s.Name == "failed" && s.Parent != outsideSpan {
					t.Errorf("parent %s", s.Parent)
				}
			}
			if strings.Contains(string(collector.Raw()), "not told") {
				t.Error("the text of an error was exported")
			}
		})
	}
}

// TestFailuresBounded: a storm of failures keeps no more than the setting says, and what is held is bounded.
func TestFailuresBounded(t *testing.T) {
	collector := testenv.NewCollector(t, nil)
	ctx, tr, stop := tracing(t, collector, func(c *telemetry.TraceConfig) { c.Errors, c.Held = 5, 3 })
	began := time.Now()
	for range 200 {
		_, span := tr.Request(ctx, "storm", "")
		span.End(errors.New("x"))
	}
	most := 5 * (int(time.Since(began)/time.Second) + 2)
	open := make([]trace.Span, 10)
	for i := range open {
		_, open[i] = tr.Request(ctx, "open", "")
	}
	for _, span := range open {
		span.End(errors.New("x"))
	}
	text := stop()
	if n := len(collector.Spans("")); n == 0 || n > most {
		t.Errorf("%d spans of a storm, at most %d", n, most)
	}
	if !strings.Contains(text, `eprod_spans_total{outcome="overlooked"} 7`) {
		t.Error("seven traces more than are held were not counted")
	}
}

// TestCollectorHangs: whoever ends a span never waits; what does not fit is dropped and counted; it goes on when the collector is back.
func TestCollectorHangs(t *testing.T) {
	var hang atomic.Bool
	hang.Store(true)
	collector := testenv.NewCollector(t, func(_ http.ResponseWriter, r *http.Request) bool {
		if hang.Load() {
			<-r.Context().Done()
			return true
		}
		return false
	})
	ctx, tr, stop := tracing(t, collector, func(c *telemetry.TraceConfig) { c.Ratio, c.Queue, c.Batch = 1, 100, 10 })
	began := time.Now()
	for range 10_000 {
		_, span := tr.Request(ctx, "hung", "")
		span.End(nil)
	}
	if took := time.Since(began); took > 2*time.Second {
		t.Errorf("10,000 spans took %v", took)
	}
	for collector.Calls() < 2 { // the first was given up
		time.Sleep(time.Millisecond)
	}
	hang.Store(false)
	for end := time.Now().Add(10 * time.Second); len(collector.Spans("")) == 0 && time.Now().Before(end); {
		_, span := tr.Request(ctx, "back", "")
		span.End(nil)
		time.Sleep(time.Millisecond)
	}
	text := stop()
	if len(collector.Spans("")) == 0 {
		t.Error("nothing came after the collector was back")
	}
	for _, zero := range []string{"dropped", "failed", "exported"} {
		if strings.Contains(text, fmt.Sprintf("eprod_spans_total{outcome=%q} 0\n", zero)) {
			t.Errorf("nothing was counted as %s", zero)
		}
	}
}

// TestTracingOff: without a collector nothing is traced.
func TestTracingOff(t *testing.T) {
	off, err := telemetry.NewTracing(t.Context(), telemetry.DefaultTraceConfig(), nil, service, telemetry.NewMetrics().Spans, slog.New(slog.DiscardHandler))
	if err != nil || off.Tracer != nil {
		t.Fatalf("%v %v", off.Tracer, err)
	}
	ctx, stop := context.WithCancel(t.Context())
	stop()
	if err := off.Run(ctx); err != nil {
		t.Error(err)
	}
	bad := telemetry.TraceConfig{Endpoint: "collector:4318", Ratio: 2}
	for _, want := range []string{"endpoint: ", "ratio: ", "queue: ", "every: "} {
		if err := bad.Validate(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s is not named: %v", want, err)
		}
	}
}
