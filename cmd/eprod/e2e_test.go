package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/google/uuid"
)

const burstSize = 5000

// sent is what a device knows afterwards.
type sent struct {
	id     string // of the 202
	uuid   uuid.UUID
	sha256 string
	task   string
	body   []byte // the response
	tries  int    // until it was accepted
}

// round is one wave of submissions, one per participant, for one rule.
type round struct {
	rule     string
	accepted []sent // by participant
	slowest  atomic.Int64
	retries  atomic.Int64
	ready    []prepared // nil: answers are filled in when they are sent
}

func newRound(tr *trial, rule string) *round {
	return &round{rule: rule, accepted: make([]sent, len(tr.people))}
}

// prepared is an answer of somebody, filled in before it is sent.
type prepared struct {
	id             uuid.UUID
	response, body []byte
}

// fill makes an answer of a participant to the round's task.
func (r *round) fill(p *person) prepared {
	id := uuid.New()
	response := burstResponse(id, "1.0.0", time.Now().Format(time.RFC3339), "")
	return prepared{id, response, envelopeOf(p.tasks[r.rule], response)}
}

// prepare fills in everybody's answers, so that submit does not spend the machine on it while a clock runs.
func (r *round) prepare(tr *trial) {
	r.ready = make([]prepared, len(tr.people))
	for i, p := range tr.people {
		r.ready[i] = r.fill(p)
	}
}

// submit sends participant i's answer and remembers the receipt; the answer must be a 202 whose hash is ours.
func (r *round) submit(ctx context.Context, tr *trial, i int, p *person) error {
	if err := tr.fresh(ctx, i, p); err != nil {
		return err
	}
	var one prepared
	if r.ready != nil {
		one = r.ready[i]
	} else {
		one = r.fill(p)
	}
	began := time.Now()
	a, tries, err := tr.submit(ctx, i, p, one.body)
	if err != nil {
		return err
	}
	if took := int64(time.Since(began)); took > r.slowest.Load() {
		r.slowest.Store(took)
	}
	r.retries.Add(int64(tries - 1))
	sum := sha256.Sum256(one.response)
	if a.Status != 202 || a.text("sha256") != hex.EncodeToString(sum[:]) || a.text("submission") != one.id.String() {
		return fmt.Errorf("submit: %d %s", a.Status, a.Raw)
	}
	r.accepted[i] = sent{id: a.text("id"), uuid: one.id, sha256: a.text("sha256"), task: p.tasks[r.rule], body: one.response, tries: tries}
	return nil
}

// paced submits everybody's answer at a constant rate and returns how long each took from when it was due, in milliseconds, shortest first.
func (r *round) paced(t *testing.T, tr *trial, rate float64) []float64 {
	t.Helper()
	took := make([]float64, len(tr.people))
	began := time.Now()
	tr.each(t, func(ctx context.Context, i int, p *person) error {
		due := began.Add(time.Duration(float64(i) / rate * float64(time.Second)))
		if err := pause(ctx, time.Until(due)); err != nil {
			return err
		}
		err := r.submit(ctx, tr, i, p)
		took[i] = time.Since(due).Seconds() * 1000
		return err
	})
	slices.Sort(took)
	return took
}

// TestSubmissionPath runs the whole path on the real services: two api and two processor processes, bursts of 5,000 with and
// without faults. After each wave the four views must agree: receipts, rows, the staff's list and the reconciliation.
func TestSubmissionPath(t *testing.T) {
	d := newDeployment(t)
	api1, api2 := d.start("api"), d.start("api")
	processors := []*process{d.start("processor"), d.start("processor")}
	rules := []string{"plain", "killed", "broker", "shard", "twice", "sigterm", "closed"}
	tr := newTrial(t, d, burstSize, rules, api1.api, api2.api)
	v := newVerifier(t, d, tr)

	t.Run("Burst", func(t *testing.T) {
		r := newRound(tr, "plain")
		began := time.Now()
		tr.each(t, func(ctx context.Context, i int, p *person) error { return r.submit(ctx, tr, i, p) })
		acked := time.Since(began)
		v.storedExactly(t, r)
		t.Logf("%d submissions: last 202 after %v, slowest %v, last row after %v", burstSize, acked.Round(time.Millisecond),
			time.Duration(r.slowest.Load()).Round(time.Millisecond), time.Since(began).Round(time.Millisecond))
	})
	t.Run("ProcessorKilled", func(t *testing.T) {
		r := newRound(tr, "killed")
		var done atomic.Int64
		kill := sync.OnceFunc(func() { _ = processors[0].cmd.Process.Kill() })
		tr.each(t, func(ctx context.Context, i int, p *person) error {
			if done.Add(1) > burstSize/3 {
				kill()
			}
			return r.submit(ctx, tr, i, p)
		})
		processors[0] = d.start("processor")
		v.storedExactly(t, r)
	})
	t.Run("BrokerStopped", func(t *testing.T) { testBrokerStopped(t, d, tr, v, api1, api2) })
	t.Run("ShardStopped", func(t *testing.T) { testShardStopped(t, d, tr, v) })
	t.Run("TwiceAndChanged", func(t *testing.T) { testTwice(t, tr, v) })
	t.Run("GeneratorsKilled", func(t *testing.T) { testGenerators(t, d, tr, v, processors) })
	t.Run("SIGTERM", func(t *testing.T) { testTerminate(t, d, tr, v, api1, processors) })
	t.Run("BadInput", func(t *testing.T) { testBadInput(t, tr, v) })
	v.balanced(t)
}

// outage submits a third before a service stops, a third while it is away for 20 s, and a third after it is back.
func outage(t *testing.T, d *deployment, tr *trial, r *round, service string) {
	t.Helper()
	third := len(tr.people) / 3
	part := func(from, to int) {
		tr.eachOf(t, tr.people[from:to], func(ctx context.Context, i int, p *person) error { return r.submit(ctx, tr, from+i, p) })
	}
	part(0, third)
	d.serviceDo("stop", service)
	back := time.Now().Add(20 * time.Second)
	began := time.Now()
	part(third, 2*third)
	t.Logf("%s away: %d accepted in %v, slowest %v, %d retries", service, third, time.Since(began).Round(time.Millisecond),
		time.Duration(r.slowest.Load()).Round(time.Millisecond), r.retries.Load())
	// Refusals are for a machine that is too busy to commit anything in time; the outage itself must cause none.
	if refused := int(r.retries.Load()); refused > third/10 {
		t.Errorf("%d of %d submissions were refused while %s was away: %v", refused, third, service, tr.refused.Load())
	}
	if err := pause(t.Context(), time.Until(back)); err != nil {
		t.Fatal(err)
	}
	d.serviceDo("start", service)
	part(2*third, len(tr.people))
}

func testBrokerStopped(t *testing.T, d *deployment, tr *trial, v *verifier, apis ...*process) {
	r := newRound(tr, "broker")
	outage(t, d, tr, r, "kafka-1")
	v.storedExactly(t, r)
	v.spooledSome(t, apis...)
}

func testShardStopped(t *testing.T, d *deployment, tr *trial, v *verifier) {
	r := newRound(tr, "shard")
	outage(t, d, tr, r, "mysql-shard1")
	v.storedExactly(t, r)
}

// testTwice sends everything twice, the second time to the other process, and 1 % with a changed body under the same UUID:
// that process cannot know the first, so the processor must keep the second aside.
func testTwice(t *testing.T, tr *trial, v *verifier) {
	r := newRound(tr, "twice")
	tr.each(t, func(ctx context.Context, i int, p *person) error { return r.submit(ctx, tr, i, p) })
	var refused, conflicts atomic.Int64
	tr.each(t, func(ctx context.Context, i int, p *person) error {
		first := r.accepted[i]
		body := first.body
		if i%100 == 0 {
			body = burstResponse(first.uuid, "1.0.0", time.Now().Format(time.RFC3339), " again")
		}
		changed := sha256.Sum256(body)
		a, _, err := tr.submit(ctx, i+1, p, envelopeOf(first.task, body))
		switch {
		case err != nil:
			return err
		case hex.EncodeToString(changed[:]) == first.sha256 && a.Status == 202 && a.text("sha256") == first.sha256:
			return nil
		case a.Status == 409 && a.text("code") == "submission_conflict":
			refused.Add(1)
			return nil
		case a.Status == 202:
			conflicts.Add(1)
			return nil
		default:
			return fmt.Errorf("second copy: %d %s", a.Status, a.Raw)
		}
	})
	t.Logf("changed bodies: %d refused at the door, %d kept aside as conflicts", refused.Load(), conflicts.Load())
	v.storedWithConflicts(t, r, int(conflicts.Load()))
}

// testTerminate stops each role under load with SIGTERM: exit code 0 in bounded time, nothing acknowledged is lost.
func testTerminate(t *testing.T, d *deployment, tr *trial, v *verifier, api *process, processors []*process) {
	r := newRound(tr, "sigterm")
	var done atomic.Int64
	stop := sync.OnceFunc(func() {
		if code := d.terminate(processors[1], 30*time.Second); code != 0 {
			t.Errorf("processor: exit code %d after SIGTERM, want 0", code)
		}
		if code := d.terminate(api, 30*time.Second); code != 0 {
			t.Errorf("api: exit code %d after SIGTERM, want 0", code)
		}
	})
	stopped := make(chan struct{})
	tr.each(t, func(ctx context.Context, i int, p *person) error {
		if done.Add(1) == burstSize/3 {
			go func() { defer close(stopped); stop() }()
		}
		return r.submit(ctx, tr, i, p)
	})
	<-stopped
	processors[1] = d.start("processor")
	v.storedExactly(t, r)
}

// TestSecondSIGTERM: the first SIGTERM drains, the second ends the process at once.
func TestSecondSIGTERM(t *testing.T) {
	d := newDeployment(t)
	p := d.start("all", "EPROD_HTTP__DRAIN_DELAY=20s")
	for range 2 {
		if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
		if err := pause(t.Context(), 300*time.Millisecond); err != nil {
			t.Fatal(err)
		}
	}
	select {
	case <-p.exited:
	case <-time.After(5 * time.Second):
		t.Fatal("still running 5 s after the second SIGTERM")
	}
	if p.err == nil {
		t.Fatal("exit code 0, want another one: the drain was cut short")
	}
}

// badInput is one request that must be refused and leave nothing behind.
type badInput struct {
	name   string
	token  string
	body   []byte
	status int
	code   string
	linkID string
}

func testBadInput(t *testing.T, tr *trial, v *verifier) {
	p, other := tr.people[0], tr.people[1]
	for _, who := range []*person{p, other} {
		a, err := tr.staff.do(t.Context(), 1, "POST", "/api/v1/auth/refresh", "", fmt.Appendf(nil, `{"refreshToken":%q}`, who.refresh))
		if err != nil || a.Status != 200 {
			t.Fatalf("refresh: %d %s %v", a.Status, a.Raw, err)
		}
		who.token, who.refresh = a.text("accessToken"), a.text("refreshToken")
	}
	past := time.Now().AddDate(0, 0, -31)
	if err := tr.listTasks(t.Context(), 1, p, "missed", past, past.AddDate(0, 0, 3)); err != nil {
		t.Fatal(err)
	}
	task := p.tasks["plain"]
	good := func() string { return string(burstResponse(uuid.New(), "1.0.0", time.Now().Format(time.RFC3339), "")) }
	with := func(old, new string) []byte {
		body := strings.Replace(good(), old, new, 1)
		return envelopeOf(task, []byte(body))
	}
	deep := `{"task":"` + task + `","response":` + strings.Repeat("[", 100_000) + strings.Repeat("]", 100_000) + `}` // inside the size cap
	cases := []badInput{
		{"NoToken", "", envelopeOf(task, []byte(good())), 401, "unauthenticated", ""},
		{"ForgedToken", p.token[:len(p.token)-4] + "AAAA", envelopeOf(task, []byte(good())), 401, "unauthenticated", ""},
		{"OthersTask", p.token, envelopeOf(other.tasks["plain"], []byte(good())), 404, "not_found", ""},
		{"ClosedTask", p.token, envelopeOf(p.tasks["closed"], []byte(good())), 409, "task_closed", ""},
		{"UnknownVersion", p.token, with("|1.0.0", "|9.9.9"), 422, "invalid_response", ""},
		{"MalformedJSON", p.token, []byte(`{"task":"` + task + `","response":{`), 400, "invalid_json", ""},
		{"DuplicateMembers", p.token, with(`"status":"completed"`, `"status":"completed","status":"completed"`), 400, "invalid_json", ""},
		{"DuplicateTask", p.token, []byte(`{"task":"` + task + `","task":"` + task + `","response":` + good() + `}`), 400, "invalid_json", ""},
		{"TrailingGarbage", p.token, append(envelopeOf(task, []byte(good())), " {}"...), 400, "invalid_json", ""},
		{"UnknownMember", p.token, []byte(`{"task":"` + task + `","priority":1,"response":` + good() + `}`), 400, "unknown_member", ""},
		{"TenMebibytes", p.token, with("At home", "At home"+strings.Repeat("x", 10<<20)), 413, "too_large", ""},
		{"DeepNesting", p.token, []byte(deep), 400, "invalid_json", ""},
		{"UnknownLinkId", p.token, with(`"linkId":"q05"`, `"linkId":"nope"`), 422, "invalid_response", "nope"},
		{"MissingRequired", p.token, with(`{"linkId":"q00","text":"Symptom 0 today, 0 to 10","answer":[{"valueInteger":0}]},`, ""), 422, "invalid_response", "q00"},
		{"WrongOption", p.token, with(`"code":"home"`, `"code":"moon"`), 422, "invalid_response", "where"},
		{"OutOfRange", p.token, with(`"valueInteger":10`, `"valueInteger":11`), 422, "invalid_response", "q10"},
		{"WrongType", p.token, with(`"valueInteger":7`, `"valueString":"7"`), 422, "invalid_response", "q07"},
		{"NotAUUID", p.token, envelopeOf(task, []byte(strings.Replace(good(), `"value":"`, `"value":"x`, 1))), 422, "invalid_response", ""},
	}
	before := v.rows(t)
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			a, err := tr.staff.do(t.Context(), 1, "POST", "/api/v1/submissions", c.token, c.body)
			if err != nil {
				t.Fatal(err)
			}
			c.hold(t, a)
		})
	}
	if after := v.rows(t); after != before {
		t.Errorf("rows before %+v, after %+v: bad input left something behind", before, after)
	}
}

func (c *badInput) hold(t *testing.T, a answer) {
	t.Helper()
	if a.Status != c.status || a.text("code") != c.code {
		t.Fatalf("%d %q, want %d %q: %s", a.Status, a.text("code"), c.status, c.code, a.Raw)
	}
	if got := a.Header.Get("Content-Type"); got != "application/problem+json" {
		t.Errorf("Content-Type %q, want application/problem+json", got)
	}
	if c.linkID == "" {
		return
	}
	var problem struct {
		Errors []struct{ LinkID, Code, Detail string }
	}
	if err := json.Unmarshal(a.Raw, &problem); err != nil || len(problem.Errors) == 0 || problem.Errors[0].LinkID != c.linkID {
		t.Errorf("errors %+v, want the first at linkId %q", problem.Errors, c.linkID)
	}
}
