package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
)

// trial is a study with enrolled, signed-in participants, each with one open task per rule.
type trial struct {
	staff     *client
	study     string
	canonical string
	resource  []byte // the questionnaire
	people    []*person
	refused   atomic.Value // what the last refused submission was told
}

type person struct {
	number  string
	code    string
	token   string
	refresh string
	since   time.Time         // of the token
	tasks   map[string]string // rule → task id
}

const (
	trialQuestionnaire = "https://example.org/q/burst"
	trialItems         = 20
)

// burstQuestionnaire makes answers of some 2.2 KB: the size that everything is measured with.
func burstQuestionnaire(version string) []byte {
	items := make([]map[string]any, 0, trialItems+1)
	for i := range trialItems {
		items = append(items, map[string]any{"linkId": fmt.Sprintf("q%02d", i), "type": "integer", "required": i == 0, "text": fmt.Sprintf("Symptom %d today, 0 to 10", i),
			"extension": []any{
				map[string]any{"url": "http://hl7.org/fhir/StructureDefinition/minValue", "valueInteger": 0},
				map[string]any{"url": "http://hl7.org/fhir/StructureDefinition/maxValue", "valueInteger": 10}}})
	}
	items = append(items, map[string]any{"linkId": "where", "type": "choice", "text": "Where were you?", "answerOption": []any{
		map[string]any{"valueCoding": map[string]any{"system": "https://example.org/place", "code": "home", "display": "At home"}},
		map[string]any{"valueCoding": map[string]any{"system": "https://example.org/place", "code": "away", "display": "Away"}}}})
	b, _ := json.Marshal(map[string]any{"resourceType": "Questionnaire", "url": trialQuestionnaire, "version": version, "status": "draft", "title": "Burst", "item": items})
	return b
}

// burstResponse is a complete answer; comment varies the body without changing its meaning.
func burstResponse(id uuid.UUID, version, authored, comment string) []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, `{"resourceType":"QuestionnaireResponse","identifier":{"system":"urn:ietf:rfc:3986","value":"%s"},"questionnaire":"%s|%s",`, id, trialQuestionnaire, version)
	fmt.Fprintf(&b, `"status":"completed","authored":"%s","language":"en","item":[`, authored)
	for i := range trialItems {
		fmt.Fprintf(&b, `{"linkId":"q%02d","text":"Symptom %d today, 0 to 10","answer":[{"valueInteger":%d}]},`, i, i, i%11)
	}
	fmt.Fprintf(&b, `{"linkId":"where","answer":[{"valueCoding":{"system":"https://example.org/place","code":"home","display":%q}}]}]}`, "At home"+comment)
	return b.Bytes()
}

func envelopeOf(task string, response []byte) []byte {
	return fmt.Appendf(nil, `{"task":%q,"response":%s}`, task, response)
}

// newTrial designs and publishes a study through the API, enrols n participants by import and signs them all in.
func newTrial(t *testing.T, d *deployment, n int, rules []string, bases ...string) *trial {
	t.Helper()
	return newTrialOf(t, d, burstQuestionnaire("1.0.0"), n, rules, bases...)
}

// newTrialOf is newTrial with another questionnaire, which has burst's url and version.
func newTrialOf(t *testing.T, d *deployment, resource []byte, n int, rules []string, bases ...string) *trial {
	t.Helper()
	const password = "correct horse battery staple"
	admin := fmt.Sprintf("admin-%d", time.Now().UnixNano())
	d.runInput(password+"\n", "user", "add", "--username", admin, "--role", "administrator", "--password-stdin")
	tr := &trial{staff: newClient(400, bases...), canonical: trialQuestionnaire + "|1.0.0", resource: resource}
	in := tr.staff.must(t, 200, "POST", "/api/v1/auth/login", map[string]string{"username": admin, "password": password})
	tr.staff.token = in.text("accessToken")
	tr.design(t, rules)
	tr.enrol(t, n)
	began := time.Now()
	tr.over(t, 64, tr.people, func(ctx context.Context, i int, p *person) error { return tr.signIn(ctx, i, p) })
	t.Logf("%d participants signed in and their tasks listed in %v", n, time.Since(began).Round(time.Millisecond))
	return tr
}

func (tr *trial) design(t *testing.T, rules []string) {
	t.Helper()
	s := tr.staff
	created := s.must(t, 201, "POST", "/api/v1/studies", map[string]any{"protocol": fmt.Sprintf("E2E-%d", time.Now().UnixNano()), "title": "Burst",
		"zone": "Europe/Berlin", "languages": []string{"en"}, "settings": map[string]string{"participantPin": "optional"}})
	tr.study = created.text("id")
	base := "/api/v1/studies/" + tr.study
	s.must(t, 201, "POST", base+"/sites", map[string]string{"code": "S01", "name": "Site 1"})
	s.must(t, 201, "POST", base+"/arms", map[string]string{"code": "A", "name": "Arm A"})
	q := s.must(t, 201, "POST", base+"/questionnaires", tr.resource)
	s.must(t, 200, "POST", base+"/questionnaires/"+q.text("id")+"/publish", nil)
	list := make([]map[string]any, 0, len(rules))
	for _, id := range rules {
		rule := map[string]any{"id": id, "questionnaire": tr.canonical, "anchor": "enrolment", "offset": "P28D",
			"repeat": map[string]string{"every": "P1D", "until": "P400D"}, "windows": []any{map[string]string{"opens": "00:00", "due": "12:00", "closes": "00:00"}}}
		if id == "closed" { // its only day lies weeks back
			delete(rule, "repeat")
			rule["offset"] = "P0D"
		}
		list = append(list, rule)
	}
	s.must(t, 200, "PUT", base+"/schedule", map[string]any{"rules": list})
	s.must(t, 200, "POST", base+"/publish", nil)
}

func (tr *trial) enrol(t *testing.T, n int) {
	t.Helper()
	zones := []string{"Europe/Berlin", "Asia/Shanghai", "America/New_York"}
	enrolled := time.Now().AddDate(0, 0, -30).Format(time.DateOnly)
	var lines bytes.Buffer
	for i := range n {
		fmt.Fprintf(&lines, `{"number":"%05d","site":"S01","arm":"A","zone":%q,"language":"en","anchors":{"enrolment":%q}}`+"\n", i+1, zones[i%len(zones)], enrolled)
	}
	began := time.Now()
	req, err := http.NewRequestWithContext(t.Context(), "POST", tr.staff.bases[0]+"/api/v1/studies/"+tr.study+"/participants/import", &lines)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+tr.staff.token)
	req.Header.Set("Content-Type", "application/x-ndjson")
	long := &http.Client{Timeout: 3 * time.Minute}
	res, err := long.Do(req)
	if err != nil {
		t.Fatalf("import: %v", err)
	}
	defer res.Body.Close()
	for dec := json.NewDecoder(res.Body); dec.More(); {
		var line struct {
			Number         string          `json:"number"`
			ActivationCode string          `json:"activationCode"`
			Problem        json.RawMessage `json:"problem"`
		}
		if err := dec.Decode(&line); err != nil {
			t.Fatalf("import answer: %v", err)
		}
		if line.ActivationCode == "" {
			t.Fatalf("import of %s: %s", line.Number, line.Problem)
		}
		tr.people = append(tr.people, &person{number: line.Number, code: line.ActivationCode})
	}
	if len(tr.people) != n {
		t.Fatalf("import answered %d lines, want %d (status %d)", len(tr.people), n, res.StatusCode)
	}
	t.Logf("%d participants enrolled in %v", n, time.Since(began).Round(time.Millisecond))
}

// each runs fn for every participant over at most 400 connections and fails the test on the first error.
func (tr *trial) each(t *testing.T, fn func(ctx context.Context, i int, p *person) error) {
	t.Helper()
	tr.eachOf(t, tr.people, fn)
}

func (tr *trial) eachOf(t *testing.T, people []*person, fn func(ctx context.Context, i int, p *person) error) {
	t.Helper()
	tr.over(t, 400, people, fn)
}

// over runs fn for every participant, so many at once.
func (tr *trial) over(t *testing.T, connections int, people []*person, fn func(ctx context.Context, i int, p *person) error) {
	t.Helper()
	var next atomic.Int64
	var first atomic.Pointer[error]
	var workers sync.WaitGroup
	for range min(connections, len(people)) {
		workers.Go(func() {
			for {
				i := int(next.Add(1)) - 1
				if i >= len(people) || first.Load() != nil {
					return
				}
				if err := fn(t.Context(), i, people[i]); err != nil {
					err = fmt.Errorf("participant %s: %w", people[i].number, err)
					first.CompareAndSwap(nil, &err)
				}
			}
		})
	}
	workers.Wait()
	if err := first.Load(); err != nil {
		t.Fatal(*err)
	}
}

func (tr *trial) signIn(ctx context.Context, base int, p *person) error {
	a, err := tr.staff.do(ctx, base, "POST", "/api/v1/auth/activate", "", fmt.Appendf(nil, `{"code":%q}`, p.code))
	if err != nil || a.Status != 200 {
		return fmt.Errorf("activate: %d %s %w", a.Status, a.Raw, err)
	}
	p.token, p.refresh, p.since = a.text("accessToken"), a.text("refreshToken"), time.Now()
	now := time.Now().UTC()
	p.tasks = make(map[string]string)
	return tr.listTasks(ctx, base, p, "open", now.Add(-time.Minute), now.Add(time.Minute))
}

// listTasks adds the participant's tasks of one state between two instants to what the person knows.
func (tr *trial) listTasks(ctx context.Context, base int, p *person, state string, from, to time.Time) error {
	path := "/api/v1/me/tasks?limit=500&from=" + from.UTC().Format(time.RFC3339) + "&to=" + to.UTC().Format(time.RFC3339)
	a, err := tr.staff.do(ctx, base, "GET", path, p.token, nil)
	if err != nil || a.Status != 200 {
		return fmt.Errorf("tasks: %d %s %w", a.Status, a.Raw, err)
	}
	var page struct {
		Items []struct {
			ID, Rule, State string
		}
	}
	if err := json.Unmarshal(a.Raw, &page); err != nil {
		return err
	}
	for _, item := range page.Items {
		if item.State == state {
			p.tasks[item.Rule] = item.ID
		}
	}
	return nil
}

// fresh keeps the access token valid through long runs.
func (tr *trial) fresh(ctx context.Context, base int, p *person) error {
	if time.Since(p.since) < 7*time.Minute {
		return nil
	}
	a, err := tr.staff.do(ctx, base, "POST", "/api/v1/auth/refresh", "", fmt.Appendf(nil, `{"refreshToken":%q}`, p.refresh))
	if err != nil || a.Status != 200 {
		return fmt.Errorf("refresh: %d %s %w", a.Status, a.Raw, err)
	}
	p.token, p.refresh, p.since = a.text("accessToken"), a.text("refreshToken"), time.Now()
	return nil
}

// submit sends one body until it is accepted, as a device does: again on 429, 503 and broken connections, with the same
// UUID. It returns the last answer and how many tries it took.
func (tr *trial) submit(ctx context.Context, base int, p *person, body []byte) (answer, int, error) {
	deadline := time.Now().Add(90 * time.Second)
	for try := 1; ; try++ {
		a, err := tr.staff.do(ctx, base+try-1, "POST", "/api/v1/submissions", p.token, body)
		if err == nil && a.Status != 503 && a.Status != 429 {
			return a, try, nil
		}
		tr.refused.Store(fmt.Sprintf("%d %s %v", a.Status, a.Raw, err))
		if time.Now().After(deadline) {
			return a, try, fmt.Errorf("not accepted in 90 s: %d %s %w", a.Status, a.Raw, err)
		}
		if err := pause(ctx, 250*time.Millisecond); err != nil {
			return a, try, err
		}
	}
}

// pause waits as a device does before it tries again.
func pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// eventually polls check until it returns "" and fails with its last word after limit.
func eventually(t *testing.T, limit time.Duration, check func() string) {
	t.Helper()
	deadline := time.Now().Add(limit)
	for {
		problem := check()
		if problem == "" {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("after %v: %s", limit, strings.TrimSpace(problem))
		}
		if err := pause(t.Context(), 100*time.Millisecond); err != nil {
			t.Fatal(err)
		}
	}
}
