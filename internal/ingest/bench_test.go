package ingest

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/eprod/eprod/internal/auth"
	"github.com/eprod/eprod/internal/kafka"
	"github.com/eprod/eprod/internal/limit"
	"github.com/eprod/eprod/internal/participant"
	"github.com/eprod/eprod/internal/questionnaire"
	"github.com/eprod/eprod/internal/telemetry"
	"github.com/eprod/eprod/internal/trace"
	"github.com/eprod/eprod/internal/web"
)

// followedLog is the log as it looks to the door: sending is a span of the request's trace.
type followedLog struct{ Log }

// Send implements Log.
func (l followedLog) Send(ctx context.Context, m kafka.Message) error {
	ctx, span := trace.Start(ctx, "send submissions", trace.Producer)
	err := l.Log.Send(ctx, m)
	span.End(err)
	return err
}

// BenchmarkDoor is the door's own share of one submission of 2.2 KB: everything but the network, the token and the log. It sets the door that
// nobody follows beside doors that are: at 1 % with and without the failures of the rest, and all of it.
func BenchmarkDoor(b *testing.B) {
	const nowhere = "http://127.0.0.1:1" // the spans that are kept are dropped
	for _, c := range []struct {
		name   string
		change func(*telemetry.TraceConfig)
	}{
		{"off", func(*telemetry.TraceConfig) {}},
		{"one in a hundred", func(c *telemetry.TraceConfig) { c.Endpoint, c.Errors = nowhere, 0 }},
		{"one in a hundred and failures", func(c *telemetry.TraceConfig) { c.Endpoint = nowhere }},
		{"all", func(c *telemetry.TraceConfig) { c.Endpoint, c.Ratio = nowhere, 1 }},
	} {
		b.Run(c.name, func(b *testing.B) {
			config := telemetry.DefaultTraceConfig()
			c.change(&config)
			tracing, err := telemetry.NewTracing(b.Context(), config, nil, telemetry.Service{}, telemetry.NewMetrics().Spans, slog.New(slog.DiscardHandler))
			if err != nil {
				b.Fatal(err)
			}
			running, stop := context.WithCancel(context.Background())
			ended := make(chan error, 1)
			go func() { ended <- tracing.Run(running) }()
			benchmarkDoor(b, tracing.Tracer)
			stop()
			if err := <-ended; err != nil {
				b.Error(err)
			}
		})
	}
}

func benchmarkDoor(b *testing.B, tracer *trace.Tracer) {
	s, f, taskID := newDoor(b)
	s.Log = followedLog{s.Log}
	var items, answers []string
	for i := range 21 {
		items = append(items, fmt.Sprintf(`{"linkId":"q%02d","type":"integer","text":"Symptom %d today, 0 to 10","extension":[{"url":"http://hl7.org/fhir/StructureDefinition/minValue","valueInteger":0},{"url":"http://hl7.org/fhir/StructureDefinition/maxValue","valueInteger":10}]}`, i, i))
		answers = append(answers, fmt.Sprintf(`{"linkId":"q%02d","text":"Symptom %d today, 0 to 10","answer":[{"valueInteger":%d}]}`, i, i, i%11))
	}
	definition, findings := questionnaire.Compile([]byte(`{"resourceType":"Questionnaire","url":"https://example.org/q","version":"1","status":"active","item":[`+strings.Join(items, ",")+`]}`), questionnaire.DefaultLimits())
	if len(findings) > 0 {
		b.Fatal(findings)
	}
	f.definition = definition
	server, err := web.New(web.DefaultConfig(), web.Deps{Tracer: tracer})
	if err != nil {
		b.Fatal(err)
	}
	(&Door{Service: s, Slots: limit.NewInFlight(100)}).Routes(server.Gin(), server.API())
	body := fmt.Sprintf(`{"task":"%d","response":{"resourceType":"QuestionnaireResponse","identifier":{"value":"%%s"},"questionnaire":"https://example.org/q|1","status":"completed","authored":"2026-11-23T12:00:00Z","item":[%s]}}`, taskID, strings.Join(answers, ","))
	profile := *f.profile
	f.warm = true
	b.SetBytes(int64(len(body)))
	b.ReportAllocs()
	ctx := b.Context()
	var participantID int64
	began := cpuTime(b)
	defer func() { b.ReportMetric(float64(cpuTime(b)-began)/float64(b.N), "cpu-ns/op") }()
	for b.Loop() {
		// Another participant each time, as at 20:00; the same task computes for all because only the profile's person counts.
		participantID++
		f.sent = f.sent[:0]
		f.remembered = f.remembered[:0]
		f.profile = &participant.Profile{ID: participantID, Study: 3, Status: participant.ActiveStatus, Key: profile.Key, Person: profile.Person}
		req := httptest.NewRequestWithContext(auth.With(ctx, auth.Principal{Kind: auth.KindParticipant, ID: participantID, Study: 3}), http.MethodPost, "/api/v1/submissions",
			bytes.NewReader(fmt.Appendf(nil, body, uuid.UUID{byte(participantID), byte(participantID >> 8), byte(participantID >> 16), 1})))
		req.Header.Set("Content-Type", "application/json")
		w := httptest.NewRecorder()
		server.Handler().ServeHTTP(w, req)
		if w.Code != http.StatusAccepted {
			b.Fatalf("%d %s", w.Code, w.Body)
		}
	}
}

// cpuTime is what this process has computed so far: other programs on the machine disturb it less than time.
func cpuTime(b *testing.B) time.Duration {
	var used syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &used); err != nil {
		b.Fatal(err)
	}
	return time.Duration(used.Utime.Nano() + used.Stime.Nano())
}
