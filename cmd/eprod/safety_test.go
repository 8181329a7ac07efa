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
)

// TestSafety: an urgent alert overtakes what waits for the processors; each submission raises each alert once, however often it is sent
// and however often its consumers die; staff see, acknowledge and resolve.
func TestSafety(t *testing.T) {
	crowd, kills, within := 1000, 2, 15*time.Second // the machine may be busy; the long run is held to what is promised
	if os.Getenv("EPROD_TEST_LONG") != "" {
		crowd, kills, within = 20_000, 20, 5*time.Second
	}
	d := newDeployment(t)
	api1, api2 := d.start("api"), d.start("api")
	tr := newTrial(t, d, crowd, []string{"backlog", "urgent"}, api1.api, api2.api)
	v := newVerifier(t, d, tr)
	a := &alarms{tr: tr, d: d}
	a.publish(t)

	r := newRound(tr, "backlog") // no processor runs: all of it waits
	tr.each(t, func(ctx context.Context, i int, p *person) error { return r.submit(ctx, tr, i, p) })
	var slowest atomic.Int64
	few := tr.people[:20]
	tr.over(t, 4, few, func(ctx context.Context, i int, p *person) error {
		took, err := a.urgent(ctx, i, p)
		if int64(took) > slowest.Load() {
			slowest.Store(int64(took))
		}
		return err
	})
	if took := time.Duration(slowest.Load()); took > within {
		t.Errorf("an urgent alert came %v after its 202", took)
	}
	t.Logf("%d submissions wait; the slowest of %d urgent alerts came %v after its 202", crowd, len(few), time.Duration(slowest.Load()).Round(time.Millisecond))

	random := rand.New(rand.NewPCG(uint64(time.Now().UnixNano()), 1))
	for range kills {
		p := d.start("processor")
		if err := pause(t.Context(), time.Duration(200+random.IntN(1500))*time.Millisecond); err != nil {
			t.Fatal(err)
		}
		_ = p.cmd.Process.Kill()
		<-p.exited
	}
	d.start("processor")
	a.everyOnce(t, v, crowd, len(few))
	a.handled(t)
}

type alarms struct {
	tr *trial
	d  *deployment
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

// urgent submits a grave answer five times, and returns how long after the first 202 its alert was there.
func (a *alarms) urgent(ctx context.Context, i int, p *person) (time.Duration, error) {
	id := uuid.New()
	body := strings.Replace(string(burstResponse(id, "1.0.0", time.Now().Format(time.RFC3339), "")), `{"linkId":"q01","text":"Symptom 1 today, 0 to 10","answer":[{"valueInteger":1}]}`,
		`{"linkId":"q01","answer":[{"valueInteger":10}]}`, 1)
	for range 5 {
		answered, _, err := a.tr.submit(ctx, i, p, envelopeOf(p.tasks["urgent"], []byte(body)))
		if err != nil || answered.Status != 202 {
			return 0, fmt.Errorf("%d %s %w", answered.Status, answered.Raw, err)
		}
	}
	accepted := time.Now()
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

// everyOnce waits until each submission has its alerts, once, and each alert says that its submission is stored.
func (a *alarms) everyOnce(t *testing.T, v *verifier, crowd, few int) {
	t.Helper()
	want := map[string]int{"any": crowd + few, "grave": few}
	eventually(t, 5*time.Minute, func() string {
		for rule, n := range want {
			rows, different, stored := 0, 0, 0
			for _, shard := range v.shards {
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
