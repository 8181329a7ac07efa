package main

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"golang.org/x/sync/errgroup"
)

// TestSafety: an urgent alert overtakes what waits for the processors; each submission raises each alert once, however often and by however
// many ways at once it is sent, and however often the processes that raise alerts die at it; staff see, acknowledge and resolve.
func TestSafety(t *testing.T) {
	crowd, backlog, kills, storms, storm, within := 500, 2, 2, 1, 200, 15*time.Second // the machine may be busy; the long run is held to what is promised
	if os.Getenv("EPROD_TEST_LONG") != "" {
		crowd, backlog, kills, storms, storm, within = 20_000, 10, 20, 4, 2000, 5*time.Second
	}
	rules := []string{"urgent"}
	for i := range backlog {
		rules = append(rules, fmt.Sprintf("backlog%d", i))
	}
	d := newDeployment(t)
	apis := []*process{d.start("api"), d.start("api")}
	tr := newTrial(t, d, crowd, rules, apis[0].api, apis[1].api)
	a := &alarms{tr: tr, d: d, v: newVerifier(t, d, tr)}
	a.publish(t)

	for _, rule := range rules[1:] { // no processor runs: all of it waits
		r := newRound(tr, rule)
		tr.each(t, func(ctx context.Context, i int, p *person) error { return r.submit(ctx, tr, i, p) })
	}
	a.signIn(t)
	few := tr.people[:20]
	a.inTime(t, few, within, crowd*backlog)
	grave := len(few)
	hit := 0
	for i := range storms {
		hit += a.stormed(t, apis, i%len(apis), tr.people[grave:grave+storm])
		grave += storm
	}
	if hit == 0 {
		t.Errorf("none of %d apis was killed while urgent findings waited", storms)
	}

	random := rand.New(rand.NewPCG(uint64(time.Now().UnixNano()), 1))
	all := crowd*backlog + grave
	for i := range kills {
		since, more := a.youngest(t), 1+random.IntN(min(500, all/(2*kills)))
		p := d.start("processor")
		began := time.Now()
		a.until(t, "any", since, more, 3*time.Minute)
		_ = p.cmd.Process.Kill()
		<-p.exited
		n := a.count(t, "any", 0)
		if n == all {
			t.Errorf("kill %d hit a processor that had nothing to do", i)
		}
		t.Logf("a processor was killed at %d of %d alerts, when it had raised %d, after %v", n, all, a.count(t, "any", since), time.Since(began).Round(time.Millisecond))
	}
	d.start("processor")
	a.everyOnce(t, all, grave)
	a.signIn(t)
	a.handled(t)
}

type alarms struct {
	tr *trial
	d  *deployment
	v  *verifier
}

// signIn gives staff a new access token: a long run outlives the first.
func (a *alarms) signIn(t *testing.T) {
	t.Helper()
	name := fmt.Sprintf("safety-%d", time.Now().UnixNano())
	a.d.runInput(edgePassword+"\n", "user", "add", "--username", name, "--role", "administrator", "--password-stdin")
	a.tr.staff.token = a.tr.staff.must(t, 200, "POST", "/api/v1/auth/login", map[string]string{"username": name, "password": edgePassword}).text("accessToken")
}

func (a *alarms) path(suffix string) string { return "/api/v1/studies/" + a.tr.study + suffix }

// publish states two rules: an urgent one that few answers fit, and an ordinary one that every answer fits.
func (a *alarms) publish(t *testing.T) {
	t.Helper()
	rule := func(id, operator string, number float64, urgent bool) map[string]any {
		return map[string]any{"id": id, "questionnaire": trialQuestionnaire, "severity": "high", "urgent": urgent,
			"when": map[string]any{"answer": map[string]any{"linkId": "q01", "operator": operator, "number": number}}}
	}
	wrong := a.tr.staff.must(t, 422, "PUT", a.path("/safety/rules"), map[string]any{"rules": []any{rule("not an id", ">", 1, false)}})
	if wrong.text("code") != "invalid_rules" || !strings.Contains(string(wrong.Raw), "/rules/0/id") {
		t.Errorf("%s", wrong.Raw)
	}
	published := a.tr.staff.must(t, 200, "PUT", a.path("/safety/rules"), map[string]any{"rules": []any{rule("grave", "=", 10, true), rule("any", ">=", 0, false)}})
	if published.Body["version"] != float64(1) {
		t.Errorf("%s", published.Raw)
	}
}

// grave is an answer that the urgent rule fits.
func (a *alarms) grave(p *person) (uuid.UUID, []byte) {
	id := uuid.New()
	return id, envelopeOf(p.tasks["urgent"], grave(id))
}

// inTime holds the way from the first 202 to the alert against a bound, while so many submissions wait and none is stored.
func (a *alarms) inTime(t *testing.T, few []*person, within time.Duration, waiting int) {
	t.Helper()
	var slowest atomic.Int64
	a.tr.over(t, 4, few, func(ctx context.Context, i int, p *person) error {
		if err := a.tr.fresh(ctx, i, p); err != nil {
			return err
		}
		took, err := a.urgent(ctx, i, p)
		for was := slowest.Load(); int64(took) > was && !slowest.CompareAndSwap(was, int64(took)); was = slowest.Load() {
		}
		return err
	})
	took := time.Duration(slowest.Load()).Round(time.Millisecond)
	if took > within {
		t.Errorf("an urgent alert came %v after its first 202", took)
	}
	if rows := a.v.rows(t); rows.Responses != 0 {
		t.Errorf("%d of the submissions that should wait are stored", rows.Responses)
	}
	t.Logf("%d submissions wait; the slowest of %d urgent alerts came %v after its first 202", waiting, len(few), took)
}

// urgent submits a grave answer five times, in turn to both processes and every second time to both at once, and returns how long after
// the first 202 its alert was there.
func (a *alarms) urgent(ctx context.Context, i int, p *person) (time.Duration, error) {
	id, body := a.grave(p)
	send := func(nth int) error {
		answered, _, err := a.tr.submit(ctx, i+nth, p, body)
		if err != nil || answered.Status != 202 {
			return fmt.Errorf("copy %d: %d %s %w", nth, answered.Status, answered.Raw, err)
		}
		return nil
	}
	var first atomic.Int64
	var copies errgroup.Group
	if i%2 == 1 {
		copies.SetLimit(1)
	}
	for nth := range 5 {
		copies.Go(func() error {
			err := send(nth)
			first.CompareAndSwap(0, time.Now().UnixNano())
			return err
		})
	}
	if err := copies.Wait(); err != nil {
		return 0, err
	}
	accepted := time.Unix(0, first.Load())
	for time.Since(accepted) < time.Minute {
		list, err := a.tr.staff.do(ctx, i, "GET", a.path("/alerts?state=open&rule=grave&limit=500"), a.tr.staff.token, nil)
		if err != nil || list.Status != 200 {
			return 0, fmt.Errorf("%d %s %w", list.Status, list.Raw, err)
		}
		if strings.Contains(string(list.Raw), id.String()) {
			return time.Since(accepted), nil
		}
		if err := pause(ctx, 50*time.Millisecond); err != nil {
			return 0, err
		}
	}
	return 0, fmt.Errorf("no alert within a minute")
}

// stormed lets people submit grave answers, kills an api in the middle of it and starts it again at its address. It returns 1 if findings
// waited for their alerts then, else 0: there is no processor, so the apis alone raise them.
func (a *alarms) stormed(t *testing.T, apis []*process, victim int, people []*person) int {
	t.Helper()
	before := a.count(t, "grave", 0)
	var accepted atomic.Int64
	killed := make(chan int)
	go func() {
		waiting := 0
		for raised := 0; t.Context().Err() == nil && (raised == 0 || waiting <= 0) && int(accepted.Load()) < len(people)/2; {
			waiting = int(accepted.Load()) // before the look: what is accepted meanwhile may be raised already
			raised = a.count(t, "grave", 0) - before
			waiting -= raised
		}
		_ = apis[victim].cmd.Process.Kill()
		<-apis[victim].exited
		killed <- waiting
	}()
	a.tr.over(t, 50, people, func(ctx context.Context, i int, p *person) error {
		if err := a.tr.fresh(ctx, victim+1, p); err != nil {
			return err
		}
		_, body := a.grave(p)
		answered, _, err := a.tr.submit(ctx, i, p, body)
		if err != nil || answered.Status != 202 {
			return fmt.Errorf("%d %s %w", answered.Status, answered.Raw, err)
		}
		accepted.Add(1)
		return nil
	})
	waiting := <-killed
	t.Logf("an api was killed while %d urgent findings waited", waiting)
	apis[victim] = a.d.startOn(strings.TrimPrefix(apis[victim].api, "http://"), "127.0.0.1:0", "api")
	if waiting <= 0 {
		return 0
	}
	return 1
}

// count returns how many alerts of a rule there are with ids above since.
func (a *alarms) count(t *testing.T, rule string, since int64) int {
	n := 0
	for _, shard := range a.v.shards {
		var here int
		if err := shard.QueryRowContext(t.Context(), "SELECT COUNT(*) FROM alert WHERE study_id = ? AND id > ? AND rule = ?", a.tr.study, since, rule).Scan(&here); err != nil {
			t.Error(err)
		}
		n += here
	}
	return n
}

// youngest returns the largest id of the study's alerts.
func (a *alarms) youngest(t *testing.T) int64 {
	t.Helper()
	var youngest int64
	for _, shard := range a.v.shards {
		var id int64
		if err := shard.QueryRowContext(t.Context(), "SELECT COALESCE(MAX(id), 0) FROM alert WHERE study_id = ?", a.tr.study).Scan(&id); err != nil {
			t.Fatal(err)
		}
		youngest = max(youngest, id)
	}
	return youngest
}

// until waits until a rule has n alerts with ids above since. It looks often, for a small backlog passes quickly, but for a tenth of the
// time at most.
func (a *alarms) until(t *testing.T, rule string, since int64, n int, limit time.Duration) {
	t.Helper()
	for began := time.Now(); ; {
		looked := time.Now()
		is := a.count(t, rule, since)
		if is >= n {
			return
		}
		if time.Since(began) > limit {
			t.Fatalf("%d alerts of rule %s after %v, want %d", is, rule, limit, n)
		}
		if err := pause(t.Context(), max(10*time.Millisecond, 9*time.Since(looked))); err != nil {
			t.Fatal(err)
		}
	}
}

// everyOnce waits until each submission has its alerts, once, and each alert says that its submission is stored.
func (a *alarms) everyOnce(t *testing.T, all, grave int) {
	t.Helper()
	want := map[string]int{"any": all, "grave": grave}
	a.until(t, "any", 0, all, 2*time.Minute+time.Duration(all)*10*time.Millisecond)
	eventually(t, 2*time.Minute, func() string {
		for rule, n := range want {
			rows, different, stored := 0, 0, 0
			for _, shard := range a.v.shards {
				var x, y, z int
				err := shard.QueryRowContext(t.Context(), "SELECT COUNT(*), COUNT(DISTINCT submission), COALESCE(SUM(submission_state = 'stored'), 0) FROM alert WHERE study_id = ? AND rule = ?", a.tr.study, rule).Scan(&x, &y, &z)
				if err != nil {
					t.Fatal(err)
				}
				rows, different, stored = rows+x, different+y, stored+z
			}
			if rows > n || different != rows {
				t.Fatalf("%d alerts of rule %s for %d submissions; there are %d submissions", rows, rule, different, n)
			}
			if rows < n || stored < n {
				return fmt.Sprintf("%d alerts of rule %s, %d of stored submissions, want %d", rows, rule, stored, n)
			}
		}
		return ""
	})
}

// handled follows one alert through its states.
func (a *alarms) handled(t *testing.T) {
	t.Helper()
	var list struct {
		Items []struct{ ID, Rule, State string }
	}
	if err := json.Unmarshal(a.tr.staff.must(t, 200, "GET", a.path("/alerts?rule=grave&limit=5"), nil).Raw, &list); err != nil {
		t.Fatal(err)
	}
	at := slices.IndexFunc(list.Items, func(i struct{ ID, Rule, State string }) bool { return i.Rule == "grave" })
	if at < 0 {
		t.Fatal("no grave alert on the first page")
	}
	one := a.path("/alerts/" + list.Items[at].ID)
	if shown := a.tr.staff.must(t, 200, "GET", one, nil); !strings.Contains(string(shown.Raw), `"answer":"10"`) {
		t.Errorf("the evidence is not shown: %s", shown.Raw)
	}
	a.tr.staff.must(t, 422, "POST", one+"/resolve", map[string]string{})
	if is := a.tr.staff.must(t, 200, "POST", one+"/acknowledge", map[string]string{"note": "called"}); is.text("state") != "acknowledged" {
		t.Errorf("%s", is.Raw)
	}
	a.tr.staff.must(t, 409, "POST", one+"/acknowledge", map[string]string{})
	if is := a.tr.staff.must(t, 200, "POST", one+"/resolve", map[string]string{"note": "a slip of the finger"}); is.text("state") != "resolved" || !strings.Contains(string(is.Raw), "slip of the finger") {
		t.Errorf("%s", is.Raw)
	}
	if again := a.tr.staff.must(t, 409, "POST", one+"/resolve", map[string]string{"note": "x"}); again.text("code") != "alert_resolved" {
		t.Errorf("%s", again.Raw)
	}
	a.tr.staff.must(t, 404, "GET", a.path("/alerts/12345"), nil)
}
