package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/eprod/eprod/internal/testenv"
)

// rolling is a load that goes on while processes are replaced.
type rolling struct {
	trial   *trial
	client  *client
	rules   []string
	mu      sync.Mutex
	sent    []delivered // what was acknowledged
	failed  []string    // what failed on both processes
	retried atomic.Int64
	asked   atomic.Int64
	slowest atomic.Int64
}

// delivered is an acknowledged submission and whose it is.
type delivered struct {
	sent
	person *person
}

// call tries a request on one process and, where that fails, once more on the other.
func (r *rolling) call(ctx context.Context, base int, method, path, token string, body []byte) answer {
	began := time.Now()
	r.asked.Add(1)
	var problems []string
	for try := range 2 {
		a, err := r.client.do(ctx, base+try, method, path, token, body)
		if err == nil && a.Status < 500 && a.Status != http.StatusTooManyRequests {
			for took := int64(time.Since(began)); ; {
				if known := r.slowest.Load(); took <= known || r.slowest.CompareAndSwap(known, took) {
					return a
				}
			}
		}
		problems = append(problems, fmt.Sprintf("%d %s %v", a.Status, a.Raw, err))
		if try == 0 {
			r.retried.Add(1)
		}
	}
	r.fail("%s %s: %q", method, path, problems)
	return answer{}
}

func (r *rolling) fail(format string, args ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.failed = append(r.failed, fmt.Sprintf(format, args...))
}

// item is the i-th piece of load: a submission, its receipt and the list of tasks. When every task has its answer, earlier answers are sent again.
func (r *rolling) item(ctx context.Context, i int) {
	people := r.trial.people
	total := len(people) * len(r.rules)
	p := people[i%len(people)]
	if i >= total {
		r.mu.Lock()
		s := r.sent[i%len(r.sent)]
		r.mu.Unlock()
		r.submit(ctx, i, s.person, s.sent)
		return
	}
	id := uuid.New()
	body := burstResponse(id, "1.0.0", time.Now().Format(time.RFC3339), "")
	sum := sha256.Sum256(body)
	s := sent{uuid: id, sha256: hex.EncodeToString(sum[:]), task: p.tasks[r.rules[i/len(people)]], body: body}
	if r.submit(ctx, i, p, s) {
		r.mu.Lock()
		r.sent = append(r.sent, delivered{s, p})
		r.mu.Unlock()
	}
	if a := r.call(ctx, i+1, http.MethodGet, "/api/v1/me/tasks", p.token, nil); a.Status != http.StatusOK && a.Status != 0 {
		r.fail("tasks: %d %s", a.Status, a.Raw)
	}
}

func (r *rolling) submit(ctx context.Context, base int, p *person, s sent) bool {
	a := r.call(ctx, base, http.MethodPost, "/api/v1/submissions", p.token, envelopeOf(s.task, s.body))
	if a.Status == http.StatusAccepted && a.text("sha256") == s.sha256 {
		return true
	}
	if a.Status != 0 {
		r.fail("submission: %d %s", a.Status, a.Raw)
	}
	return false
}

// run sends so many items a second until ctx ends, and then waits for those under way.
func (r *rolling) run(t *testing.T, ctx context.Context, perSecond int) {
	tick := time.NewTicker(time.Second / time.Duration(perSecond))
	defer tick.Stop()
	var under sync.WaitGroup
	defer under.Wait()
	slots := make(chan struct{}, 64) // a device that waits is one that does not send
	for i := 0; ; i++ {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		slots <- struct{}{}
		under.Go(func() {
			defer func() { <-slots }()
			r.item(t.Context(), i)
		})
	}
}

// freeAddress returns an address on which nobody listens now.
func freeAddress(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// TestRollingReplacement: two processes of each role are replaced one after the other under load. A client that knows both api processes and
// tries once more on the other one never fails, and what was acknowledged is stored once.
func TestRollingReplacement(t *testing.T) {
	people, rounds, perSecond := 400, 1, 60
	if testenv.Long() {
		people, rounds, perSecond = 2000, 10, 80
	}
	rules := []string{"r1", "r2", "r3", "r4"}
	d := newDeployment(t)
	addresses := []string{freeAddress(t), freeAddress(t)}
	var apis, processors []*process
	for _, address := range addresses {
		apis, processors = append(apis, d.startOn(address, "127.0.0.1:0", roleAPI)), append(processors, d.start(roleProcessor))
	}
	tr := newTrial(t, d, people, rules, "http://"+addresses[0], "http://"+addresses[1])
	v := newVerifier(t, d, tr)
	r := &rolling{trial: tr, client: newClient(200, tr.staff.bases...), rules: rules}
	r.client.http.Timeout = 5 * time.Second

	ctx, stop := context.WithCancel(t.Context())
	var load sync.WaitGroup
	load.Go(func() { r.run(t, ctx, perSecond) })
	defer load.Wait()
	defer stop()
	var drains []time.Duration
	replace := func(p *process, start func() *process) *process {
		began := time.Now()
		if code := d.terminate(p, 60*time.Second); code != 0 {
			t.Errorf("exit code %d after SIGTERM, want 0", code)
		}
		drains = append(drains, time.Since(began))
		return start()
	}
	began := time.Now()
	for range rounds {
		for i, address := range addresses {
			apis[i] = replace(apis[i], func() *process { return d.startOn(address, "127.0.0.1:0", roleAPI) })
			processors[i] = replace(processors[i], func() *process { return d.start(roleProcessor) })
		}
	}
	took := time.Since(began)
	stop()
	load.Wait()
	slices.Sort(drains)
	t.Logf("%d replacements in %v, drains of %v to %v; %d requests, %d acknowledged submissions, %d tried again on the other process, slowest %v",
		len(drains), took.Round(time.Millisecond), drains[0].Round(time.Millisecond), drains[len(drains)-1].Round(time.Millisecond), r.asked.Load(), len(r.sent),
		r.retried.Load(), time.Duration(r.slowest.Load()).Round(time.Millisecond))
	if len(r.failed) > 0 {
		t.Errorf("%d requests failed on both processes, first: %s", len(r.failed), r.failed[0])
	}
	if r.retried.Load() == 0 {
		t.Error("no request met a process that was away: the second try was not put to the test")
	}
	if least := int(took.Seconds() * float64(perSecond) / 4); len(r.sent) < min(least, people*len(rules)) {
		t.Errorf("only %d submissions in %v: there was no load", len(r.sent), took)
	}
	v.deliveredExactly(t, r)
	v.balanced(t)
}

// deliveredExactly waits until everything that was acknowledged is stored, and holds rows and receipts against it.
func (v *verifier) deliveredExactly(t *testing.T, r *rolling) {
	t.Helper()
	v.stored += len(r.sent)
	want := rowCounts{Receipts: v.stored, Responses: v.stored, Tasks: v.stored, Audit: v.stored}
	eventually(t, 60*time.Second, func() string {
		if got := v.rows(t); got != want {
			return fmt.Sprintf("rows %+v, want %+v", got, want)
		}
		return ""
	})
	stored := v.load(t)
	for i, s := range r.sent {
		if row := stored[s.uuid]; row.sha256 != s.sha256 || row.task != s.task {
			t.Fatalf("%s with %s for task %s was acknowledged, stored is %+v", s.uuid, s.sha256, s.task, row)
		}
		if i%10 != 0 {
			continue
		}
		a, err := v.trial.staff.do(t.Context(), i/10, http.MethodGet, "/api/v1/submissions/"+s.uuid.String(), s.person.token, nil)
		if err != nil || a.text("state") != "stored" || a.text("sha256") != s.sha256 {
			t.Fatalf("receipt of %s: %d %s %v", s.uuid, a.Status, a.Raw, err)
		}
	}
}
