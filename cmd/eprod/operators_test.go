package main

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"net/url"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/eprod/eprod/internal/kafka"
	"github.com/eprod/eprod/internal/submission"
	"github.com/eprod/eprod/internal/telemetry"
	"github.com/eprod/eprod/internal/testenv"
	"github.com/eprod/eprod/internal/trace"
)

// operators is a deployment with everything that it tells its operators.
type operators struct {
	d         *deployment
	collector *testenv.Collector
	tr        *trial
	processes []*process
	answers   bytes.Buffer // bodies of all refusals
	canaries  []string
}

// TestWhatOperatorsSee runs submissions, and everything that a clumsy or curious client sends, through real roles over the real stores, and
// holds metrics, traces and log lines of it against what the pages promise.
func TestWhatOperatorsSee(t *testing.T) {
	o := &operators{d: newDeployment(t), collector: testenv.NewCollector(t, nil)}
	o.d.keepLog = true
	o.d.env = append(o.d.env, "EPROD_TELEMETRY__SAMPLE__EVERY=200ms", "EPROD_TELEMETRY__TRACES__ENDPOINT="+o.collector.URL,
		"EPROD_TELEMETRY__TRACES__RATIO=1", "EPROD_TELEMETRY__TRACES__EVERY=50ms")
	api, worker := o.d.start(roleAPI), o.d.start(roleProcessor)
	o.processes = []*process{api, worker}
	o.tr = newTrial(t, o.d, 5, []string{"plain"}, api.api)
	t.Run("Metrics", func(t *testing.T) { o.metrics(t, api, worker) })
	t.Run("OneTrace", o.oneTrace)
	t.Run("Canaries", o.searched)
}

// metrics holds the page against processes of every role, and the names against Prometheus' own rules.
func (o *operators) metrics(t *testing.T, api, worker *process) {
	documented := documentedMetrics(t)
	for role, p := range map[string]*process{roleAPI: api, roleProcessor: worker, roleAll: o.d.start(roleAll)} {
		if role == roleAll {
			newClient(1, p.api).must(t, http.StatusNotFound, http.MethodGet, "/nothing", nil)
		}
		compareMetrics(t, role, documented, exposed(t, p.ops))
	}
	check := exec.CommandContext(t.Context(), testenv.Tool(t, "promtool"), "check", "metrics")
	check.Stdin = strings.NewReader(exposed(t, api.ops))
	if out, err := check.CombinedOutput(); err != nil || len(out) > 0 {
		t.Errorf("promtool check metrics: %v\n%s", err, out)
	}
}

// oneTrace follows one submission from the phone to a consumer of its event.
func (o *operators) oneTrace(t *testing.T) {
	const outside, phone = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
	o.consumeEvents(t)
	p := o.tr.people[0]
	body := envelopeOf(p.tasks["plain"], burstResponse(uuid.New(), "1.0.0", time.Now().Format(time.RFC3339), ""))
	o.call(t, 202, "POST", "/api/v1/submissions", p.token, body, map[string]string{"traceparent": "00-" + outside + "-" + phone + "-00"})
	want := []struct {
		name, parent string
		kind         int32  // of the protocol
		group        string // of a consumer
	}{
		{"POST /api/v1/submissions", "", 2, ""}, {"send submissions", "POST /api/v1/submissions", 4, ""}, {"process submissions", "send submissions", 5, processorGroup},
		{"transaction shard", "process submissions", 3, ""}, {"send events", "transaction shard", 4, ""}, {"process events", "send events", 5, safetyGroup},
		{"process events", "send events", 5, "onlooker"}, {"alert", "process events", 1, ""}, // under the last of the name
	}
	var problem string
	eventually(t, 20*time.Second, func() string {
		ids := map[string]string{"": phone}
		spans := o.collector.Spans(outside)
		for _, w := range want {
			i := slices.IndexFunc(spans, func(s testenv.ReceivedSpan) bool {
				return strings.HasPrefix(s.Name, w.name) && int32(s.Kind) == w.kind && s.Parent == ids[w.parent] &&
					s.Attrs["messaging.consumer.group.name"] == w.group
			})
			if i < 0 {
				problem = fmt.Sprintf("no span %q of kind %d under %q in %d spans", w.name, w.kind, w.parent, len(spans))
				for _, s := range spans {
					problem += fmt.Sprintf("\n%s %s under %s", s.Name, s.ID, s.Parent)
				}
				return problem
			}
			ids[w.name] = spans[i].ID
		}
		return ""
	})
	nodes := map[string]bool{}
	for _, s := range o.collector.Spans(outside) {
		nodes[s.Node] = true
		if s.StartTimeUnixNano == 0 || s.EndTimeUnixNano < s.StartTimeUnixNano {
			t.Errorf("%s lasts from %d to %d", s.Name, s.StartTimeUnixNano, s.EndTimeUnixNano)
		}
	}
	if len(nodes) != 3 {
		t.Errorf("the trace has spans of %v, want api, processor and this test", nodes)
	}
	eventually(t, 5*time.Second, func() string {
		if !strings.Contains(o.processes[0].everything(), `"trace.id":"`+outside+`"`) {
			return "no line of the api has the trace's id"
		}
		return ""
	})
}

// consumeEvents is a consumer as any other: it gets its place in the trace from kafka.Consume.
func (o *operators) consumeEvents(t *testing.T) {
	config := kafka.DefaultConfig()
	for _, pair := range o.d.env {
		if list, ok := strings.CutPrefix(pair, "EPROD_KAFKA__BROKERS="); ok {
			config.Brokers = strings.Split(list, ",")
		}
		if prefix, ok := strings.CutPrefix(pair, "EPROD_KAFKA__PREFIX="); ok {
			config.Prefix = prefix
		}
	}
	settings := telemetry.DefaultTraceConfig()
	settings.Endpoint, settings.Ratio, settings.Every = o.collector.URL, 0, 50*time.Millisecond
	quiet := slog.New(slog.DiscardHandler)
	tracing, err := telemetry.NewTracing(t.Context(), settings, nil, telemetry.Service{Version: "test", Node: "test"}, telemetry.NewMetrics().Spans, quiet)
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(trace.With(context.Background(), tracing.Tracer))
	var running sync.WaitGroup
	running.Go(func() { _ = tracing.Run(ctx) })
	running.Go(func() {
		_ = kafka.Consume(ctx, config, nil, kafka.DefaultConsumerConfig("onlooker", submission.Events), func(ctx context.Context, _ []kafka.Message) error {
			_, span := trace.Start(ctx, "alert", trace.Internal)
			span.End(nil)
			return nil
		}, quiet)
	})
	t.Cleanup(func() { stop(); running.Wait() })
}

// call makes a request with headers of its own and keeps the body of a refusal.
func (o *operators) call(t *testing.T, status int, method, path, token string, body []byte, headers map[string]string) answer {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, o.processes[0].api+path, bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	req.Header.Set("Content-Type", "application/json")
	for name, value := range headers {
		req.Header.Set(name, value)
	}
	res, err := o.tr.staff.http.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	raw, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	if res.StatusCode != status {
		t.Errorf("%s %s: %d, want %d: %s", method, path, res.StatusCode, status, raw)
	}
	a := answer{Status: res.StatusCode, Header: res.Header, Raw: raw}
	_ = json.Unmarshal(raw, &a.Body) // not all are objects
	if status >= 400 {
		o.answers.Write(raw)
		fmt.Fprintln(&o.answers, res.Header)
	}
	return a
}

// canary returns something personal that is nowhere else.
func (o *operators) canary(kind string) string {
	c := fmt.Sprintf("Canary%s%016x", kind, rand.Uint64())
	if kind == "phone" {
		c = fmt.Sprintf("+4917%011d", rand.Int64N(1e11))
	}
	o.canaries = append(o.canaries, c)
	return c
}

// searched sends fifty names, numbers and texts on every way on which such things come, and finds none in what the processes tell.
func (o *operators) searched(t *testing.T) {
	staff, base := o.tr.staff.token, "/api/v1/studies/"+o.tr.study
	var people struct{ Items []struct{ ID string } }
	if err := json.Unmarshal(o.call(t, 200, "GET", base+"/participants", staff, nil, nil).Raw, &people); err != nil || len(people.Items) < 5 {
		t.Fatalf("%v %v", people, err)
	}
	for i, p := range people.Items {
		contact := base + "/participants/" + p.ID + "/contact"
		o.call(t, 200, "PUT", contact, staff, fmt.Appendf(nil, `{"phone":%q,"email":"%s@example.org","consents":{"sms":true},"reason":%q}`, o.canary("phone"), o.canary("mail"), o.canary("reason")),
			map[string]string{"If-Match": `"0"`})
		o.call(t, 422, "PUT", contact, staff, fmt.Appendf(nil, `{"phone":%q}`, o.canary("nophone")), map[string]string{"If-Match": `"1"`})
		o.call(t, 200, "PUT", "/api/v1/participants/"+p.ID+"/record", staff, fmt.Appendf(nil, `{"sections":{"identity":{"name":%q,"phone":%q}},"reason":"first"}`, o.canary("name"), o.canary("phone")),
			map[string]string{"If-Match": `"0"`})
		o.submissions(t, i)
	}
	o.call(t, 401, "POST", "/api/v1/auth/login", "", fmt.Appendf(nil, `{"username":%q,"password":%q}`, o.canary("user"), o.canary("password")), nil)
	o.call(t, 401, "POST", "/api/v1/auth/activate", "", fmt.Appendf(nil, `{"code":%q}`, o.canary("code")), nil)
	o.call(t, 404, "GET", "/"+o.canary("path")+"?name="+o.canary("query"), "", nil, map[string]string{"User-Agent": o.canary("agent"), "Tracestate": "x=" + o.canary("state"),
		"Baggage": "name=" + o.canary("baggage"), "X-Request-Id": o.canary("request") + " with blanks", "Traceparent": o.canary("parent"), "X-Forwarded-For": o.canary("address")})
	o.call(t, 405, o.canary("method"), "/api/v1/me/tasks", "", nil, nil)
	o.call(t, 401, "GET", "/api/v1/me/tasks", o.canary("token"), nil, nil)
	if len(o.canaries) < 50 {
		t.Fatalf("only %d canaries", len(o.canaries))
	}
	eventually(t, 20*time.Second, func() string { // all of it has been told
		if n := strings.Count(string(o.collector.Raw()), "process submissions"); n < 5 {
			return fmt.Sprintf("%d submissions are processed", n)
		}
		return ""
	})
	outputs := map[string]string{"problem bodies": o.answers.String()}
	for i, p := range o.processes {
		outputs[fmt.Sprint("metrics of process ", i)] = exposed(t, p.ops)
		o.d.terminate(p, 30*time.Second)
		outputs[fmt.Sprint("log of process ", i)] = p.everything()
	}
	outputs["traces"] = string(o.collector.Raw())
	for name, text := range outputs {
		if len(text) < 1000 {
			t.Errorf("%s has %d bytes only", name, len(text))
		}
		for _, c := range leaks(o.canaries, text) {
			t.Errorf("%s: %s is told", name, c)
		}
	}
	o.leaked(t)
}

// submissions sends a participant's answers with a text in them, and bodies that are refused.
func (o *operators) submissions(t *testing.T, i int) {
	p, id := o.tr.people[i], uuid.New()
	now := time.Now().Format(time.RFC3339)
	good := func(comment string) []byte { return burstResponse(id, "1.0.0", now, comment) }
	if i > 0 { // the first has answered
		o.call(t, 202, "POST", "/api/v1/submissions", p.token, envelopeOf(p.tasks["plain"], good(" "+o.canary("answer"))), nil)
		o.call(t, 409, "POST", "/api/v1/submissions", p.token, envelopeOf(p.tasks["plain"], good(" "+o.canary("other"))), nil)
	}
	id = uuid.New()
	refused := bytes.Replace(good(""), []byte(`"code":"home"`), fmt.Appendf(nil, `"code":%q`, o.canary("option")), 1)
	o.call(t, 422, "POST", "/api/v1/submissions", p.token, envelopeOf(p.tasks["plain"], refused), nil)
	text := bytes.Replace(good(""), []byte(`{"valueInteger":3}`), fmt.Appendf(nil, `{"valueString":%q}`, o.canary("text")), 1)
	o.call(t, 422, "POST", "/api/v1/submissions", p.token, envelopeOf(p.tasks["plain"], text), nil)
	o.call(t, 400, "POST", "/api/v1/submissions", p.token, fmt.Appendf(nil, `{"task":"1","response":{"item":[{"text":"%s`, o.canary("broken")), nil)
}

// leaks returns the canaries that a text tells, plainly or in one of the forms in which data travel.
func leaks(canaries []string, text string) []string {
	var found []string
	for _, c := range canaries {
		forms := []string{c, url.QueryEscape(c), hex.EncodeToString([]byte(c)), strings.ToLower(c)}
		for cut := range 3 { // Base64 of a longer text has one of three forms of what is inside
			inside := base64.StdEncoding.EncodeToString([]byte(strings.Repeat("x", cut) + c))
			forms = append(forms, strings.TrimRight(inside[4*((cut+2)/3):len(inside)-4], "="))
		}
		if slices.ContainsFunc(forms, func(form string) bool { return strings.Contains(text, form) }) {
			found = append(found, c)
		}
	}
	return found
}

// leaked lets one canary out on each of the ways: the search must find it.
func (o *operators) leaked(t *testing.T) {
	c := o.canaries[7]
	var log bytes.Buffer
	telemetry.NewLogger(&log, telemetry.DefaultConfig(), telemetry.Service{}, nil).Info("m", "error", fmt.Errorf("no such person: %s", c))
	m := telemetry.NewMetrics()
	m.Intake.Refused(c)
	families, err := m.Registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	collector := testenv.NewCollector(t, nil)
	settings := telemetry.DefaultTraceConfig()
	settings.Endpoint, settings.Ratio = collector.URL, 1
	tracing, err := telemetry.NewTracing(t.Context(), settings, nil, telemetry.Service{}, m.Spans, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	_, span := tracing.Tracer.Request(t.Context(), "GET /"+c, "")
	span.End(nil)
	ctx, stop := context.WithCancel(t.Context())
	stop()
	if err := tracing.Run(ctx); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{"log": log.String(), "metrics": fmt.Sprint(families), "traces": string(collector.Raw()),
		"problem": `{"detail":"` + c + ` is unknown"}`, "base64": base64.StdEncoding.EncodeToString([]byte(`{"name":"` + c + `"}`)), "hex": hex.EncodeToString([]byte(" " + c))} {
		if len(leaks(o.canaries, text)) != 1 {
			t.Errorf("a leak in %s is not found", name)
		}
	}
}
