package telemetry_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/eprod/eprod/internal/telemetry"
)

func TestLogNames(t *testing.T) {
	var out bytes.Buffer
	log := telemetry.NewLogger(&out, telemetry.DefaultConfig(), func(context.Context) string { return "abc" })
	log.Debug("not shown")
	log.With("worker", 3).Warn("lease", "took", time.Second)
	var line map[string]any
	if err := json.Unmarshal(out.Bytes(), &line); err != nil {
		t.Fatalf("%v in %s", err, out.String())
	}
	at, err := time.Parse(time.RFC3339Nano, line["@timestamp"].(string))
	if err != nil || at.Location() != time.UTC {
		t.Errorf("@timestamp %v", line["@timestamp"])
	}
	delete(line, "@timestamp")
	want := map[string]any{"log.level": "warn", "message": "lease", "worker": 3.0, "took": 1e9, "trace.id": "abc", "ecs.version": "8.11.0", "service.name": "eprod"}
	if diff := cmp.Diff(want, line); diff != "" {
		t.Error(diff)
	}
}

func TestLogText(t *testing.T) {
	var out bytes.Buffer
	telemetry.NewLogger(&out, telemetry.Config{Level: "debug", Format: "text"}, nil).Debug("started", "port", 8080)
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
	m.Health.Breaker("log", "open")
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
