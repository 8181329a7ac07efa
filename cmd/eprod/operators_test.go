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
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/emersion/go-smtp"
	"github.com/google/uuid"

	"github.com/eprod/eprod/internal/telemetry"
	"github.com/eprod/eprod/internal/testenv"
)

// operators is a deployment with everything that it tells its operators.
type operators struct {
	d         *deployment
	collector *testenv.Collector
	tr        *trial
	processes []*process
	mails     *mailbox
	model     *talkative
	answers   bytes.Buffer // bodies of all refusals
	canaries  []string
}

// TestWhatOperatorsSee runs submissions, alerts, mails and assessments, and everything that a clumsy or curious client sends, through real roles over
// the real stores, and holds metrics, traces and log lines of it against what the pages promise.
func TestWhatOperatorsSee(t *testing.T) {
	o := &operators{d: newDeployment(t), collector: testenv.NewCollector(t, nil), mails: newMailbox(t)}
	o.model = newTalkative(t, o.canary)
	o.d.keepLog = true
	o.d.env = append(o.d.env, "EPROD_TELEMETRY__SAMPLE__EVERY=200ms", "EPROD_TELEMETRY__TRACES__ENDPOINT="+o.collector.URL,
		"EPROD_TELEMETRY__TRACES__RATIO=1", "EPROD_TELEMETRY__TRACES__EVERY=50ms", "EPROD_SAFETY__RULES_TTL=100ms", "EPROD_SAFETY__INTERVAL=200ms",
		"EPROD_NOTIFY__INTERVAL=200ms", "EPROD_NOTIFY__EMAIL__ENABLED=true", "EPROD_NOTIFY__EMAIL__HOST=127.0.0.1", "EPROD_NOTIFY__EMAIL__PORT="+o.mails.port,
		"EPROD_NOTIFY__EMAIL__SECURITY=none", "EPROD_NOTIFY__EMAIL__FROM=no-reply@example.org", "EPROD_RISK__HTTP__URL="+o.model.url, "EPROD_RISK__HTTP__MODEL=m",
		"EPROD_RISK__HTTP__VERSION=1", "EPROD_RISK__HTTP_TOKEN="+o.canary("modeltoken"), "EPROD_RISK__RATE=1000", "EPROD_RISK__BURST=1000", "EPROD_RISK__SETTING_TTL=100ms")
	api, worker := o.d.start(roleAPI), o.d.start(roleProcessor)
	o.processes = []*process{api, worker}
	o.tr = newTrialOf(t, o.d, scoredQuestionnaire(t), 5, append([]string{"more"}, traced...), api.api)
	o.watched(t)
	t.Run("Metrics", func(t *testing.T) { o.metrics(t, api, worker) })
	t.Run("OneTrace", o.oneTrace)
	t.Run("Canaries", o.searched)
}

// watched states an urgent and an ordinary rule that a grave answer fits, who is told, and that a model looks at the scores.
func (o *operators) watched(t *testing.T) {
	t.Helper()
	staff, base := o.tr.staff.token, "/api/v1/studies/"+o.tr.study
	rule := func(id string, urgent bool) map[string]any {
		return map[string]any{"id": id, "questionnaire": trialQuestionnaire, "severity": "high", "urgent": urgent,
			"when":       map[string]any{"answer": map[string]any{"linkId": "q01", "operator": "=", "number": 10}},
			"escalation": []any{map[string]any{"to": "site", "after": "PT0S"}}}
	}
	o.tr.staff.must(t, 200, "PUT", base+"/safety/rules", map[string]any{"rules": []any{rule("grave", true), rule("later", false)}})
	rota := func(phone, mail string) []byte {
		return fmt.Appendf(nil, `{"sites":[{"site":"S01","duty":[{"email":"%s@example.org","phone":%q}]}],"manager":[{"email":"%s@example.org"}]}`, mail, phone, o.canary("manager"))
	}
	o.call(t, 422, "PUT", base+"/safety/rota", staff, rota(o.canary("nophone"), o.canary("duty")), map[string]string{"If-Match": `"0"`})
	o.call(t, 200, "PUT", base+"/safety/rota", staff, rota(o.canary("phone"), o.canary("duty")), map[string]string{"If-Match": `"0"`})
	o.call(t, 422, "PUT", base+"/risk", staff, fmt.Appendf(nil, `{"enabled":true,"model":%q}`, o.canary("model")), map[string]string{"If-Match": `"0"`})
	o.call(t, 200, "PUT", base+"/risk", staff, []byte(`{"enabled":true,"model":"http"}`), map[string]string{"If-Match": `"0"`})
}

// graveWith returns an answer that both rules fit.
func graveWith(id uuid.UUID, comment string) []byte {
	return bytes.Replace(burstResponse(id, "1.0.0", time.Now().Format(time.RFC3339), comment), []byte(`{"linkId":"q01","text":"Symptom 1 today, 0 to 10","answer":[{"valueInteger":1}]}`),
		[]byte(`{"linkId":"q01","answer":[{"valueInteger":10}]}`), 1)
}

// metrics holds the page against processes of every role, and the names against Prometheus' own rules.
func (o *operators) metrics(t *testing.T, api, worker *process) {
	documented := documentedMetrics(t)
	all := o.d.start(roleAll)
	defer o.d.terminate(all, 30*time.Second) // the trace is to have two processes only
	for role, p := range map[string]*process{roleAPI: api, roleProcessor: worker, roleAll: all} {
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

// traced are the tasks of the first participant whose answers are followed.
var traced = []string{"plain", "again", "once more", "at last"}

// oneTrace follows one submission from the phone to the mails about its two alerts: one that was found at the door, and one that was found when the
// response was stored. Which of the two ways raises the urgent one is a race that the door wins once its consumers have settled: until then
// another submission is followed.
func (o *operators) oneTrace(t *testing.T) {
	var problem string
	for n, task := range traced {
		outside := fmt.Sprintf("4bf92f3577b34da6a3ce929d0e0e473%d", n)
		if problem = o.follow(t, task, outside); problem == "" {
			o.complete(t, outside)
			return
		}
		t.Log(problem)
	}
	t.Fatal(problem)
}

// follow submits an answer under a trace and returns what is missing in it after some time.
func (o *operators) follow(t *testing.T, task, outside string) (problem string) {
	const phone = "00f067aa0ba902b7"
	p := o.tr.people[0]
	body := envelopeOf(p.tasks[task], graveWith(uuid.New(), ""))
	o.call(t, 202, "POST", "/api/v1/submissions", p.token, body, map[string]string{"traceparent": "00-" + outside + "-" + phone + "-00"})
	const internal, server, client, producer, consumer = 1, 2, 3, 4, 5 // of the protocol
	want := []struct {
		key, name, parent string
		kind              int32
		group             string // of a consumer
	}{
		{"door", "POST /api/v1/submissions", "", server, ""},
		{"sent", "send submissions", "door", producer, ""},
		{"processed", "process submissions", "sent", consumer, processorGroup},
		{"stored", "transaction shard", "processed", client, ""},
		{"event", "send events", "stored", producer, ""},
		{"looked", "process events", "event", consumer, safetyGroup},
		{"alert", "transaction shard", "looked", client, ""},
		{"told", "escalate", "looked", internal, ""},
		{"mail", "send message", "told", client, ""},
		{"rules", "urgent rules", "door", internal, ""},
		{"found", "send alerts.urgent", "rules", producer, ""},
		{"taken", "process alerts.urgent", "found", consumer, urgentGroup},
		{"urgent alert", "transaction shard", "taken", client, ""},
		{"urgently told", "escalate", "taken", internal, ""},
		{"urgent mail", "send message", "urgently told", client, ""},
		{"handed on", "send risk.http", "event", producer, ""},
		{"assessed", "process risk.http", "handed on", consumer, riskHTTPGroup},
	}
	// Whatever failed and was begun anew is there more than once: any of its spans may be the one that led on.
	var follow func(spans []testenv.ReceivedSpan, ids map[string]string, i int) (most int)
	follow = func(spans []testenv.ReceivedSpan, ids map[string]string, i int) (most int) {
		if i == len(want) {
			return i
		}
		most = i
		for _, s := range spans {
			w := want[i]
			if strings.HasPrefix(s.Name, w.name) && int32(s.Kind) == w.kind && s.Parent == ids[w.parent] && s.Attrs["messaging.consumer.group.name"] == w.group {
				ids[w.key] = s.ID
				if most = max(most, follow(spans, ids, i+1)); most == len(want) {
					break
				}
			}
		}
		return most
	}
	for deadline := time.Now().Add(15 * time.Second); time.Now().Before(deadline); {
		spans := o.collector.Spans(outside)
		most := follow(spans, map[string]string{"": phone}, 0)
		if most == len(want) {
			return ""
		}
		problem = fmt.Sprintf("no span %q of kind %d under that of %q in %d spans", want[most].name, want[most].kind, want[most].parent, len(spans))
		for _, s := range spans {
			problem += fmt.Sprintf("\n%s %s of kind %d under %s %s", s.Name, s.ID, s.Kind, s.Parent, s.Attrs["messaging.consumer.group.name"])
		}
		if err := pause(t.Context(), 100*time.Millisecond); err != nil {
			t.Fatal(err)
		}
	}
	return problem
}

// complete holds a trace that was found against what it promises besides.
func (o *operators) complete(t *testing.T, outside string) {
	nodes := map[string]bool{}
	for _, s := range o.collector.Spans(outside) {
		nodes[s.Node] = true
		if s.StartTimeUnixNano == 0 || s.EndTimeUnixNano < s.StartTimeUnixNano {
			t.Errorf("%s lasts from %d to %d", s.Name, s.StartTimeUnixNano, s.EndTimeUnixNano)
		}
	}
	if len(nodes) != 2 {
		t.Errorf("the trace has spans of %v, want api and processor", nodes)
	}
	if letters := o.mails.arrived(); len(letters) < 2 {
		t.Errorf("%d mails have come about two alerts", len(letters))
	}
	eventually(t, 5*time.Second, func() string {
		if !strings.Contains(o.processes[0].everything(), `"trace.id":"`+outside+`"`) {
			return "no line of the api has the trace's id"
		}
		return ""
	})
}

// mailbox is a mail server that keeps what it is given.
type mailbox struct {
	port    string
	mu      sync.Mutex
	letters []string
}

// newMailbox returns a mail server that runs until the test ends.
func newMailbox(t *testing.T) *mailbox {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	m := new(mailbox)
	_, m.port, _ = net.SplitHostPort(listener.Addr().String())
	server := smtp.NewServer(smtp.BackendFunc(func(*smtp.Conn) (smtp.Session, error) { return m, nil }))
	server.Domain = "mail.example.org"
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = server.Serve(listener)
	}()
	t.Cleanup(func() {
		_ = server.Close()
		<-ended
	})
	return m
}

// Reset implements smtp.Session.
func (m *mailbox) Reset() {}

// Logout implements smtp.Session.
func (m *mailbox) Logout() error { return nil }

// Mail implements smtp.Session.
func (m *mailbox) Mail(string, *smtp.MailOptions) error { return nil }

// Rcpt implements smtp.Session.
func (m *mailbox) Rcpt(string, *smtp.RcptOptions) error { return nil }

// Data implements smtp.Session.
func (m *mailbox) Data(r io.Reader) error {
	letter, err := io.ReadAll(r)
	m.mu.Lock()
	defer m.mu.Unlock()
	m.letters = append(m.letters, string(letter))
	return err
}

func (m *mailbox) arrived() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(m.letters)
}

// talkative is a sponsor's model that fails in many ways and tells names each time, before it answers well.
type talkative struct {
	url   string
	mu    sync.Mutex
	calls int
	sent  strings.Builder // what it was asked
}

func newTalkative(t *testing.T, canary func(kind string) string) *talkative {
	t.Helper()
	m := new(talkative)
	answers := []struct {
		status int
		body   string
	}{
		{500, canary("failure")},
		{200, `{"model":"m","version":"1","level":"low","reasons":["` + canary("reason") + `"]}`},
		{200, `{"model":"` + canary("modelname") + `","version":"1","level":"low"}`},
		{200, `{"model":"m","version":"1","level":"` + canary("level") + `"}`},
		{200, `{"model":"m","version":"1","level":"low","` + canary("member") + `":1}`},
		{200, canary("nojson")},
		{400, `{"detail":"` + canary("refusal") + `"}`},
	}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		m.mu.Lock()
		defer m.mu.Unlock()
		m.sent.Write(body)
		status, answer := 200, `{"model":"m","version":"1","level":"low"}`
		if m.calls < len(answers) {
			status, answer = answers[m.calls].status, answers[m.calls].body
		}
		m.calls++
		w.WriteHeader(status)
		_, _ = io.WriteString(w, answer)
	}))
	t.Cleanup(server.Close)
	m.url = server.URL
	return m
}

// asked returns how often it was asked, and what.
func (m *talkative) asked() (int, string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.calls, m.sent.String()
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
	o.handled(t)
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
		if calls, _ := o.model.asked(); calls < 12 {
			return fmt.Sprintf("the model was asked %d times", calls)
		}
		return ""
	})
	_, asked := o.model.asked()
	outputs := map[string]string{"problem bodies": o.answers.String(), "what the model was asked": asked}
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

// handled takes care of an alert, with what staff write about it.
func (o *operators) handled(t *testing.T) {
	t.Helper()
	staff, base := o.tr.staff.token, "/api/v1/studies/"+o.tr.study+"/alerts"
	var list struct{ Items []struct{ ID string } }
	if err := json.Unmarshal(o.call(t, 200, "GET", base+"?state=open", staff, nil, nil).Raw, &list); err != nil || len(list.Items) < 2 {
		t.Fatalf("%v %v", list, err)
	}
	one := base + "/" + list.Items[0].ID
	note := func(kind string) []byte { return fmt.Appendf(nil, `{"note":%q}`, o.canary(kind)) }
	o.call(t, 200, "POST", one+"/acknowledge", staff, note("note"), nil)
	o.call(t, 409, "POST", one+"/acknowledge", staff, note("note"), nil)
	o.call(t, 200, "POST", one+"/resolve", staff, note("resolution"), nil)
	o.call(t, 409, "POST", one+"/resolve", staff, note("resolution"), nil)
	o.call(t, 422, "POST", base+"/"+list.Items[1].ID+"/resolve", staff, []byte(`{"note":""}`), nil)
	o.call(t, 400, "GET", base+"?state="+o.canary("state"), staff, nil, nil)
}

// submissions sends a participant's answers with a text in them, and bodies that are refused.
func (o *operators) submissions(t *testing.T, i int) {
	p, id := o.tr.people[i], uuid.New()
	good := func(comment string) []byte { return graveWith(id, comment) }
	if i > 0 { // the first has answered
		o.call(t, 202, "POST", "/api/v1/submissions", p.token, envelopeOf(p.tasks["plain"], good(" "+o.canary("answer"))), nil)
		o.call(t, 409, "POST", "/api/v1/submissions", p.token, envelopeOf(p.tasks["plain"], good(" "+o.canary("other"))), nil)
	}
	id = uuid.New() // each answer is one more for the model
	o.call(t, 202, "POST", "/api/v1/submissions", p.token, envelopeOf(p.tasks["more"], good(" "+o.canary("answer"))), nil)
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
