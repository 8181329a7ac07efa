package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// edgePage is docs/edge.md as the test reads it.
type edgePage struct {
	group  map[string]string                   // operation → group
	answer map[string]map[string]string        // group → column of a dependency → usual, 503 or either
	within map[string]map[string]time.Duration // dependency → state → longest time of any route
}

// readEdgePage takes the three tables of docs/edge.md apart.
func readEdgePage(t *testing.T) edgePage {
	t.Helper()
	raw, err := os.ReadFile("../../docs/edge.md")
	if err != nil {
		t.Fatal(err)
	}
	p := edgePage{map[string]string{}, map[string]map[string]string{}, map[string]map[string]time.Duration{}}
	var head []string
	for line := range strings.SplitSeq(string(raw), "\n") {
		if !strings.HasPrefix(line, "| ") {
			head = nil
			continue
		}
		cells := strings.Split(strings.Trim(line, "| "), " | ")
		switch {
		case head == nil:
			head = cells
		case strings.HasPrefix(cells[0], "---"):
		case head[0] == "group" && head[1] == "operations":
			for _, op := range regexp.MustCompile("`([a-z-]+)`").FindAllStringSubmatch(cells[1], -1) {
				p.group[op[1]] = cells[0]
			}
		case head[0] == "group":
			p.answer[cells[0]] = map[string]string{}
			for i, cell := range cells[1:] {
				p.answer[cells[0]][head[i+1]] = cell
			}
		case head[0] == "dependency" && head[1] == "slow":
			p.within[cells[0]] = map[string]time.Duration{}
			for i, cell := range cells[1:] {
				seconds, err := strconv.ParseFloat(strings.TrimSuffix(cell, " s"), 64)
				if err != nil {
					t.Fatalf("docs/edge.md: %s, %s: %v", cells[0], head[i+1], err)
				}
				p.within[cells[0]][head[i+1]] = time.Duration(seconds * float64(time.Second))
			}
		}
	}
	groups := make(map[string]bool)
	for op, group := range p.group {
		groups[group] = true
		for _, column := range []string{"metadata", "its shard", "another shard", "Kafka", "Redis", "etcd", "gateway"} {
			if !slices.Contains([]string{"usual", "503", "either"}, p.answer[group][column]) {
				t.Fatalf("docs/edge.md: %s is in the group %q, of which it says %q for %s", op, group, p.answer[group][column], column)
			}
		}
	}
	for group := range p.answer {
		if !groups[group] {
			t.Errorf("docs/edge.md: no operation is in the group %q", group)
		}
	}
	return p
}

// dependency is what a fault is done to, and the columns of the page that speak of it.
type dependency struct {
	name, service string
	side          int // of a shard, else -1
}

// column is where the page says what a probe is answered.
func (d *dependency) column(p *probe) string {
	if d.side < 0 {
		return d.name
	}
	if p.side < 0 || p.side == d.side {
		return "its shard"
	}
	return "another shard"
}

func edgeDependencies() []dependency {
	return []dependency{{"metadata", "mysql-meta", -1}, {"shard", "mysql-shard0", 0}, {"Kafka", "kafka-1", -1}, {"Redis", "redis", -1}, {"etcd", "etcd", -1}, {"gateway", "", -1}}
}

// begin does a fault to a dependency and returns what ends it.
func (w *edgeWorld) begin(t *testing.T, d dependency, state string) (end func()) {
	t.Helper()
	verbs := func(verb string) { w.d.serviceDo(verb, d.service) }
	if d.service == "" {
		verbs = func(verb string) { w.gatewayDo(t, verb) }
	}
	switch state {
	case "hung":
		verbs("pause")
		return func() { verbs("resume") }
	case "dead":
		verbs("kill")
		return func() { verbs("start") }
	}
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() { // slow: it works for a moment at a time
		defer close(stopped)
		for {
			verbs("pause")
			_ = pause(context.Background(), 60*time.Millisecond)
			verbs("resume")
			select {
			case <-stop:
				return
			case <-time.After(30 * time.Millisecond):
			}
		}
	}()
	return func() { close(stop); <-stopped }
}

func (w *edgeWorld) gatewayDo(t *testing.T, verb string) {
	switch verb {
	case "pause":
		_ = w.gateway.Process.Signal(syscall.SIGSTOP)
	case "resume":
		_ = w.gateway.Process.Signal(syscall.SIGCONT)
	case "kill":
		_ = w.gateway.Process.Kill()
	case "start":
		w.startGateway(t)
	}
}

// observed is one answer.
type observed struct {
	probe      *probe
	began, end time.Time
	answer     answer
	err        error
}

// load asks every route at a steady, light rate until it is stopped, and hands over each answer.
func (w *edgeWorld) load(ctx context.Context, probes []*probe, every time.Duration, seen func(observed)) (wait func()) {
	var running sync.WaitGroup
	var turn atomic.Int64
	for i, p := range probes {
		running.Go(func() {
			_ = pause(ctx, time.Duration(i)*every/time.Duration(len(probes))) // not all at once
			for ctx.Err() == nil {
				c := p.next()
				if c.method == "" {
					return
				}
				o := observed{probe: p, began: time.Now()}
				o.answer, o.err = w.do(context.WithoutCancel(ctx), int(turn.Add(1)), c)
				o.end = time.Now()
				w.settle(c.submission, o.answer.Status)
				seen(o)
				_ = pause(ctx, every)
			}
		})
	}
	return running.Wait
}

// internals are words that no client may read.
var internals = regexp.MustCompile(`(?i)shard|mysql|kafka|redis|etcd|127\.0\.0\.1|dial tcp|sql|broker|context deadline|EOF`)

// verdict collects what is not as the page says, once for each kind.
type verdict struct {
	mu       sync.Mutex
	problems map[string]int
	slowest  observed
	seen     map[*probe]int // judged answers
	retries  map[string]bool
	summary  map[string]map[string]int // group and column → answers
}

func newVerdict() *verdict {
	return &verdict{problems: map[string]int{}, seen: map[*probe]int{}, retries: map[string]bool{}, summary: map[string]map[string]int{}}
}

func (v *verdict) wrong(format string, args ...any) { v.problems[fmt.Sprintf(format, args...)]++ }

// hold holds one answer against what the page allows.
func (v *verdict) hold(o observed, column, want string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	p, got := o.probe, o.answer.Status
	if took := o.end.Sub(o.began); took > v.slowest.end.Sub(v.slowest.began) {
		v.slowest = o
	}
	v.seen[p]++
	is := "usual"
	switch {
	case o.err != nil:
		v.wrong("%s: %v", p.op, o.err)
		return
	case p.ordinary(got):
	case got == 503:
		is = "503"
		v.refusal(o)
	default:
		v.wrong("%s: %d %s", p.op, got, o.answer.Raw)
		return
	}
	if v.summary[column+": "+p.op] == nil {
		v.summary[column+": "+p.op] = map[string]int{}
	}
	v.summary[column+": "+p.op][is]++
	if want != "either" && want != is {
		v.wrong("%s (%s): %s, and docs/edge.md says %q: %.200s", p.op, column, is, want, o.answer.Raw)
	}
}

// refusal holds a 503 against what clients are promised of it.
func (v *verdict) refusal(o observed) {
	after := o.answer.Header.Get("Retry-After")
	if n, err := strconv.Atoi(after); err != nil || n < 1 || n > 60 {
		v.wrong("%s: 503 with Retry-After %q", o.probe.op, after)
	}
	v.retries[after] = true
	if code := o.answer.text("code"); code != "unavailable" && code != "overloaded" {
		v.wrong("%s: 503 with the code %q", o.probe.op, code)
	}
	if word := internals.FindString(o.answer.text("detail")); word != "" {
		v.wrong("%s: the problem says %q", o.probe.op, o.answer.text("detail"))
	}
}

// TestHungDependency holds docs/edge.md against the real binary over the real services: each dependency in turn hangs (in the long
// variant it is also slow, and dead) while every route is asked all the time. Afterwards every route is well again without a restart,
// and what was accepted meanwhile is stored exactly once.
func TestHungDependency(t *testing.T) {
	page := readEdgePage(t)
	states, lasts, every, tasks := []string{"hung"}, 4500*time.Millisecond, 700*time.Millisecond, 600
	long := os.Getenv("EPROD_TEST_LONG") != ""
	if long {
		states, lasts, tasks = []string{"slow", "hung", "dead"}, 12*time.Second, 3000
	}
	w := newEdgeWorld(t, tasks)
	probes := w.probes(t, page)
	t.Logf("%d probes of %d operations", len(probes), len(page.group))
	w.usual(t, probes)
	for _, d := range edgeDependencies() {
		if page.within[d.name] == nil {
			t.Fatalf("docs/edge.md says nothing of %s", d.name)
		}
		for _, state := range states {
			t.Run(d.name+"/"+state, func(t *testing.T) { w.endure(t, page, d, state, lasts, every, probes) })
		}
	}
	t.Run("Kafka and shard/hung", w.stayReady)
	w.balanced(t)
}

// stayReady hangs the log together with a shard. Submissions of participants on the other shard are taken all the time, and no api process
// tells its balancer that it cannot take any.
func (w *edgeWorld) stayReady(t *testing.T) {
	readiness := func() string {
		for _, p := range w.apis {
			for path, want := range map[string]string{"/readyz": "ready", "/metrics": `eprod_breaker_state{name="log"} 0`} {
				res, err := http.Get(p.ops + path)
				if err != nil {
					return err.Error()
				}
				raw, err := io.ReadAll(res.Body)
				_ = res.Body.Close()
				switch said := strings.Contains(string(raw), want); {
				case err != nil:
					return err.Error()
				case path == "/readyz" && res.StatusCode != http.StatusOK:
					t.Fatalf("the log and one shard hang, another shard answers, and an api is not ready: %s", raw)
				case path == "/metrics" && said:
					return "the breaker of the log is closed"
				}
			}
		}
		return ""
	}
	for _, service := range []string{"kafka-1", "mysql-shard0"} {
		w.d.serviceDo("pause", service)
		defer w.d.serviceDo("resume", service)
	}
	var sending sync.WaitGroup
	for i := range 8 * len(w.apis) { // enough failures in each process to open its breaker
		sending.Go(func() {
			c := w.submit(1)
			a, err := w.do(t.Context(), i, c)
			w.settle(c.submission, a.Status)
			if err != nil || a.Status != http.StatusAccepted {
				t.Errorf("a submission to the shard that answers: %d %s %v", a.Status, a.Raw, err)
			}
		})
	}
	sending.Wait()
	eventually(t, 10*time.Second, readiness)
	for range 20 { // through the breaker's states
		_ = pause(t.Context(), 200*time.Millisecond)
		_ = readiness()
	}
}

// usual finds out what each route answers when all is well.
func (w *edgeWorld) usual(t *testing.T, probes []*probe) {
	t.Helper()
	for _, p := range probes {
		c := p.next()
		a, err := w.do(t.Context(), 0, c)
		w.settle(c.submission, a.Status)
		if err != nil || a.Status >= 500 || a.Status == 429 {
			t.Fatalf("%s, when all is well: %d %s %v", p.op, a.Status, a.Raw, err)
		}
		p.usual = a.Status
	}
}

// endure is one dependency in one state.
func (w *edgeWorld) endure(t *testing.T, page edgePage, d dependency, state string, lasts, every time.Duration, probes []*probe) {
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	v := newVerdict()
	var mu sync.Mutex
	var all []observed
	wait := w.load(ctx, probes, every, func(o observed) {
		mu.Lock()
		all = append(all, o)
		mu.Unlock()
	})
	end := w.begin(t, d, state)
	from := time.Now()
	_ = pause(ctx, lasts)
	until := time.Now()
	end()
	mended := time.Now()
	mu.Lock()
	mark := len(all)
	mu.Unlock()
	// Well again: every route has answered as usual, and keeps doing so to the end.
	well, last := make(map[*probe]time.Time), make(map[*probe]observed)
	eventually(t, 20*time.Second, func() string {
		mu.Lock()
		defer mu.Unlock()
		for ; mark < len(all); mark++ {
			o := all[mark]
			last[o.probe] = o
			if o.err == nil && o.probe.ordinary(o.answer.Status) && o.began.After(mended) {
				if _, known := well[o.probe]; !known {
					well[o.probe] = o.end
				}
			} else if o.began.After(mended) {
				delete(well, o.probe)
			}
		}
		for _, p := range probes {
			if _, ok := well[p]; !ok {
				return fmt.Sprintf("%s is not well again: %d, not %d: %s %v", p.op, last[p].answer.Status, p.usual, last[p].answer.Raw, last[p].err)
			}
		}
		return ""
	})
	stop()
	wait()
	var recovered time.Duration
	for _, at := range well {
		recovered = max(recovered, at.Sub(mended))
	}
	for _, o := range all {
		column := d.column(o.probe)
		want := page.answer[page.group[o.probe.op]][column]
		if state == "slow" {
			want = "usual"
		}
		if o.began.Before(from) || o.end.After(until) {
			want = "either"
		}
		v.hold(o, column, want)
		if o.began.Before(from) || o.end.After(until) {
			v.seen[o.probe]--
		}
	}
	v.report(t, d, state, page.within[d.name][state], recovered, probes)
}

// report fails the test for what was not as the page says.
func (v *verdict) report(t *testing.T, d dependency, state string, within, recovered time.Duration, probes []*probe) {
	t.Helper()
	for _, p := range probes {
		if v.seen[p] == 0 {
			t.Errorf("%s was never answered during the fault", p.op)
		}
	}
	for problem, times := range v.problems {
		t.Errorf("%d times: %s", times, problem)
	}
	slowest := v.slowest.end.Sub(v.slowest.began)
	const grace = 300 * time.Millisecond // of the client, on a machine that also runs all the services
	if slowest > within+grace {
		t.Errorf("%s took %v; docs/edge.md says that nothing takes longer than %v", v.slowest.probe.op, slowest, within)
	}
	total, refused := 0, 0
	for _, s := range v.summary {
		total, refused = total+s["usual"]+s["503"], refused+s["503"]
	}
	if refused > 20 && len(v.retries) < 2 {
		t.Errorf("%d refusals with the same Retry-After %v", refused, v.retries)
	}
	t.Logf("%s %s: %d answers, %d of them 503, slowest %v (%s); all well again %v after it", d.name, state, total, refused, slowest.Round(time.Millisecond), v.slowest.probe.op,
		recovered.Round(time.Millisecond))
	if os.Getenv("EPROD_TEST_EDGE_SUMMARY") != "" {
		var out bytes.Buffer
		keys := make([]string, 0, len(v.summary))
		for k := range v.summary {
			keys = append(keys, k)
		}
		slices.Sort(keys)
		for _, k := range keys {
			fmt.Fprintf(&out, "%s %v\n", k, v.summary[k])
		}
		t.Log(out.String())
	}
}
