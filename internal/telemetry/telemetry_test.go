package telemetry_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/eprod/eprod/internal/errs"
	"github.com/eprod/eprod/internal/telemetry"
)

// logged returns the one line that a logger wrote.
func logged(t *testing.T, out *bytes.Buffer) map[string]any {
	t.Helper()
	var line map[string]any
	if err := json.Unmarshal(out.Bytes(), &line); err != nil {
		t.Fatalf("%v in %s", err, out.String())
	}
	if err := errors.Join(telemetry.Fields(line)...); err != nil {
		t.Error(err)
	}
	at, err := time.Parse(time.RFC3339Nano, line["@timestamp"].(string))
	if err != nil || at.Location() != time.UTC {
		t.Errorf("@timestamp %v", line["@timestamp"])
	}
	for _, name := range []string{"@timestamp", "ecs.version", "service.name", "service.version", "service.node.name", "event.dataset"} {
		delete(line, name)
	}
	return line
}

var service = telemetry.Service{Version: "v1", Node: "host/7"}

// TestLogNames: whatever is logged becomes a field of the schema with its type, or a label.
func TestLogNames(t *testing.T) {
	refusal := fmt.Errorf("store: %w", errs.New(errs.Unavailable, "unavailable", "the shard is away").WithCause(io.ErrUnexpectedEOF))
	cases := []struct {
		name string
		log  func(*slog.Logger)
		want map[string]any
	}{
		{"Labels", func(l *slog.Logger) {
			l.With("worker", 3).Warn("lease", "took", time.Second, "message", int64(7), "study.id", 5)
		},
			map[string]any{"log.level": "warn", "message": "lease", "labels.worker": "3", "labels.took": "1s", "labels.message": "7", "labels.study_id": "5"}},
		{"Fields", func(l *slog.Logger) {
			l.Info("request", "http.response.status_code", 202, "url.path", "/x", "event.duration", time.Millisecond, "event.category", []string{"web"},
				"event.start", time.Unix(0, 0), "event.risk_score", 0.5, "url.port", "none")
		}, map[string]any{"log.level": "info", "message": "request", "http.response.status_code": 202.0, "url.path": "/x", "event.duration": 1e6,
			"event.category": []any{"web"}, "event.start": "1970-01-01T00:00:00Z", "event.risk_score": 0.5, "labels.url_port": "none"}},
		{"Errors", func(l *slog.Logger) { l.Error("failed", "error", refusal, "duration", time.Second) }, map[string]any{"log.level": "error", "message": "failed",
			"error.message": refusal.Error(), "error.type": "*errors.errorString", "error.code": "unavailable", "event.duration": 1e9}},
		{"Joined", func(l *slog.Logger) { l.Error("failed", "error", errors.Join(context.Canceled, io.EOF)) }, map[string]any{"log.level": "error", "message": "failed",
			"error.message": "context canceled\nEOF", "error.type": "*errors.errorString"}},
		{"Groups", func(l *slog.Logger) { l.WithGroup("a").Info("m", slog.Group("b", "c", 1), "error", io.EOF) },
			map[string]any{"log.level": "info", "message": "m", "labels.a_b_c": "1", "labels.a_error": "EOF"}},
		{"Twice", func(l *slog.Logger) { l.With("x", 1).Info("m", "x", 2, "http.request.id", "mine") },
			map[string]any{"log.level": "info", "message": "m", "labels.x": "2", "http.request.id": "mine"}},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			var out bytes.Buffer
			l := telemetry.NewLogger(&out, telemetry.DefaultConfig(), service, nil)
			l.Debug("not shown")
			c.log(l)
			if diff := cmp.Diff(c.want, logged(t, &out)); diff != "" {
				t.Error(diff)
			}
		})
	}
	var out bytes.Buffer
	telemetry.NewLogger(&out, telemetry.DefaultConfig(), service, func(context.Context) string { return "abc" }).Info("m")
	if line := logged(t, &out); line["http.request.id"] != "abc" {
		t.Errorf("%v", line)
	}
}

// TestFields: a line with anything else than fields of the schema is found.
func TestFields(t *testing.T) {
	good := func() map[string]any {
		return map[string]any{"@timestamp": "2026-01-01T00:00:00Z", "log.level": "info", "message": "m", "ecs.version": "8.11.0", "service.name": "eprod",
			"service.version": "v", "service.node.name": "n", "event.dataset": "eprod", "labels.x": "1"}
	}
	if problems := telemetry.Fields(good()); len(problems) > 0 {
		t.Fatal(problems)
	}
	for name, value := range map[string]any{"worker": "1", "http.route": "/x", "http.response.status_code": "202", "event.duration": 1.5, "labels.a.b": "x", "labels.y": 1.0,
		"event.category": "web", "@timestamp": "now", "message": nil, "trace": map[string]any{"id": "x"}} {
		line := good()
		line[name] = value
		if problems := telemetry.Fields(line); len(problems) == 0 {
			t.Errorf("%s: %v is taken for a field of the schema", name, value)
		}
	}
}

func TestLogText(t *testing.T) {
	var out bytes.Buffer
	telemetry.NewLogger(&out, telemetry.Config{Level: "debug", Format: "text"}, service, nil).Debug("started", "port", 8080)
	if got := out.String(); !strings.Contains(got, "level=DEBUG msg=started port=8080") || strings.Contains(got, "trace.id") {
		t.Error(got)
	}
}

func TestValidate(t *testing.T) {
	err := telemetry.Config{Level: "loud", Format: "xml"}.Validate()
	if err == nil || !strings.Contains(err.Error(), "level: loud: ") || !strings.Contains(err.Error(), "format: xml: ") {
		t.Error(err)
	}
	if err := telemetry.DefaultConfig().Validate(); err != nil {
		t.Error(err)
	}
}

func TestMetrics(t *testing.T) {
	m := telemetry.NewMetrics()
	m.HTTP.ObserveRequest("POST", "/api/v1/submissions", 202, 3*time.Millisecond)
	m.HTTP.ObserveRequest("BREW", "(none)", 404, time.Millisecond)
	m.Intake.Accepted(false)
	m.Intake.Accepted(true)
	m.Intake.Refused("overloaded")
	m.Intake.Produced(time.Millisecond, nil)
	m.Intake.Produced(time.Second, errors.New("unknown"))
	m.Process.Processed(90, 1, 2, 3, 4)
	m.Process.Batch(96, time.Millisecond)
	state := "closed"
	m.Health.Breaker("log", func() string { return state })
	m.Health.Breaker("log", func() string { return "half-open" })
	state = "open"
	m.Health.IDRefused("clock")
	if err := m.Health.InFlight(func() int { return 7 }, func() uint64 { return 9 }); err != nil {
		t.Fatal(err)
	}
	if err := m.Health.Gauge("eprod_in_flight", "again", func() float64 { return 0 }); err == nil {
		t.Error("the same name was taken twice")
	}
	w := httptest.NewRecorder()
	promhttp.HandlerFor(m.Registry, promhttp.HandlerOpts{}).ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
	for _, line := range []string{
		`eprod_breaker_state{name="log"} 2`,
		`eprod_http_requests_total{method="POST",route="/api/v1/submissions",status="202"} 1`,
		`eprod_http_requests_total{method="other",route="(none)",status="404"} 1`,
		`eprod_http_request_seconds_count{method="POST",route="/api/v1/submissions"} 1`,
		`eprod_ids_refused_total{reason="clock"} 1`,
		`eprod_in_flight 7`,
		`eprod_in_flight_refused_total 9`,
		`eprod_intake_accepted_total{way="log"} 1`,
		`eprod_intake_accepted_total{way="spool"} 1`,
		`eprod_intake_refused_total{code="overloaded"} 1`,
		`eprod_produce_seconds_count{outcome="acknowledged"} 1`,
		`eprod_produce_seconds_count{outcome="unknown"} 1`,
		`eprod_processed_total{outcome="stored"} 90`,
		`eprod_processed_total{outcome="quarantined"} 1`,
		`eprod_processed_total{outcome="conflict"} 2`,
		`eprod_processed_total{outcome="duplicate"} 3`,
		`eprod_batch_records_sum 96`,
		`eprod_batch_seconds_count 1`,
	} {
		if !strings.Contains(w.Body.String(), "\n"+line+"\n") {
			t.Errorf("/metrics does not show %s", line)
		}
	}
}

func BenchmarkObserveRequest(b *testing.B) {
	m := telemetry.NewMetrics()
	for b.Loop() {
		m.HTTP.ObserveRequest("POST", "/api/v1/submissions", 202, time.Millisecond)
	}
}
