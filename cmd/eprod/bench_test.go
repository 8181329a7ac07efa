package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/gin-gonic/gin"

	"github.com/eprod/eprod/internal/kafka"
)

// The bench prints ratios beside baselines of the same run; it asserts nothing about time. `make bench` runs it.
const benchVariable = "EPROD_TEST_BENCH"

// line is one row of the bench's table.
type line struct {
	Ratio    string  `json:"ratio"`
	Baseline string  `json:"baseline"`
	Seen     float64 `json:"seen"`
	Must     string  `json:"must"`
	OK       bool    `json:"ok"`
	Detail   string  `json:"detail"`
}

type bench struct {
	t        *testing.T
	d        *deployment
	tr       *trial
	v        *verifier
	api      *process
	worker   *process
	services map[string]int // name → pid
	lines    []line
	// saturation is how many submissions a second the bursts reached, with the processor and all stores beside the door.
	saturation float64
	youngest   int64 // response before the wave that runs
}

func (b *bench) least(ratio, baseline string, seen, must float64, detail string) {
	b.lines = append(b.lines, line{ratio, baseline, seen, fmt.Sprintf("at least %g", must), seen >= must, detail})
}

func (b *bench) most(ratio, baseline string, seen, must float64, detail string) {
	b.lines = append(b.lines, line{ratio, baseline, seen, fmt.Sprintf("at most %g", must), seen <= must, detail})
}

func TestBench(t *testing.T) {
	if os.Getenv(benchVariable) == "" {
		t.Log("left out: the bench; make bench runs it")
		return
	}
	d := newDeployment(t)
	b := &bench{t: t, d: d, api: d.start("api"), worker: d.start("processor"), services: servicePids(t, d), saturation: 4000}
	b.tr = newTrial(t, d, burstSize, []string{"w1", "w2", "f1", "f2", "f3", "a", "b", "c", "x1", "y1", "x2", "y2", "x3", "y3", "p1", "p2", "p3"}, b.api.api)
	b.v = newVerifier(t, d, b.tr)
	// The tasks of so many newcomers are issued at once; the bench is not about that.
	eventually(t, 5*time.Minute, func() string { return b.v.issued(t) })
	b.part("bursts", b.bursts)
	b.part("large", b.large)
	b.part("latency", b.latency)
	b.part("inserts", b.inserts)
	b.part("lookups", b.lookups)
	b.part("ids", b.ids)
	b.part("locks", b.locks)
	b.part("limiter", b.limiter)
	b.print()
}

// part runs one part of the bench; -run 'TestBench/bursts' runs it alone.
func (b *bench) part(name string, run func()) {
	t := b.t
	t.Run(name, func(t *testing.T) {
		b.t = t
		run()
	})
	b.t = t
}

// servicePids asks dev/services which processes are its own.
func servicePids(t *testing.T, d *deployment) map[string]int {
	t.Helper()
	out, err := exec.Command(d.service, "status").Output()
	if err != nil {
		t.Fatalf("status: %v", err)
	}
	pids := map[string]int{}
	for row := range strings.Lines(string(out)) {
		fields := strings.Fields(row)
		if pid, err := strconv.Atoi(fields[len(fields)-1]); err == nil {
			pids[fields[0]] = pid
		}
	}
	return pids
}

// cpu returns the CPU seconds that a process has used, all threads, from /proc/PID/stat (proc(5), fields 14 and 15).
func cpu(t *testing.T, pid int) time.Duration {
	t.Helper()
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		t.Fatal(err)
	}
	fields := strings.Fields(string(raw[strings.LastIndexByte(string(raw), ')')+1:]))
	user, _ := strconv.ParseInt(fields[11], 10, 64)
	system, _ := strconv.ParseInt(fields[12], 10, 64)
	return time.Duration(user+system) * 10 * time.Millisecond
}

// bare is a baseline in a process of its own: gin that reads a body and answers 202, with or without an awaited produce.
type bare struct {
	address string
	pid     int
}

func (b *bench) bare(mode string) bare {
	b.t.Helper()
	cmd := exec.Command(os.Args[0], "-test.run=^TestBare$")
	cmd.Env = append(append(os.Environ(), b.d.env...), "EPROD_TEST_BARE="+mode)
	out, err := cmd.StdoutPipe()
	if err != nil {
		b.t.Fatal(err)
	}
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	var address string
	if _, err := fmt.Fscanln(out, &address); err != nil {
		b.t.Fatalf("baseline %s: %v", mode, err)
	}
	go func() { _, _ = io.Copy(io.Discard, out) }()
	return bare{address, cmd.Process.Pid}
}

// TestBare is the baseline's process; it serves until it is killed.
func TestBare(t *testing.T) {
	mode := os.Getenv("EPROD_TEST_BARE")
	if mode == "" {
		return
	}
	gin.SetMode(gin.ReleaseMode)
	engine := gin.New()
	produce := func(context.Context, []byte) error { return nil }
	if mode == "produce" {
		config := kafka.DefaultConfig()
		config.Brokers, config.Prefix = strings.Split(os.Getenv("EPROD_KAFKA__BROKERS"), ","), os.Getenv("EPROD_KAFKA__PREFIX")
		if err := kafka.EnsureTopics(t.Context(), config, nil, []kafka.Topic{{Name: "bare"}}); err != nil {
			t.Fatal(err)
		}
		producer := kafka.NewProducer(config, nil, slog.New(slog.DiscardHandler))
		go func() { _ = producer.Run(context.Background()) }()
		var n atomic.Int32
		produce = func(ctx context.Context, body []byte) error {
			return producer.Send(ctx, kafka.Message{Topic: "bare", Partition: n.Add(1) % 8, Value: body})
		}
		for produce(t.Context(), []byte("x")) != nil {
			if err := pause(t.Context(), 50*time.Millisecond); err != nil {
				t.Fatal(err)
			}
		}
	}
	engine.POST("/", func(c *gin.Context) {
		body, err := io.ReadAll(c.Request.Body)
		if err == nil {
			err = produce(c.Request.Context(), body)
		}
		if err != nil {
			c.Status(http.StatusServiceUnavailable)
			return
		}
		c.Data(http.StatusAccepted, "application/json", []byte(`{"id":"383140337935187968","state":"received"}`))
	})
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	fmt.Printf("http://%s\n", listener.Addr())
	server := &http.Server{Handler: engine, ReadHeaderTimeout: 5 * time.Second}
	t.Fatal(server.Serve(listener))
}

// burst posts one body per participant over at most 400 connections and returns the wall time and the server's CPU.
func (b *bench) burst(s bare) (wall, used time.Duration) {
	r := newRound(b.tr, "a")
	r.prepare(b.tr)
	c := newClient(400, s.address)
	before, began := cpu(b.t, s.pid), time.Now()
	b.tr.each(b.t, func(ctx context.Context, i int, p *person) error {
		a, err := c.do(ctx, 0, "POST", "/", p.token, r.ready[i].body)
		if err == nil && a.Status != 202 {
			err = fmt.Errorf("baseline answers %d", a.Status)
		}
		return err
	})
	return time.Since(began), cpu(b.t, s.pid) - before
}

// wave is one burst of the product: the last 202, and CPU by process until the last event is relayed.
type wave struct {
	acked time.Duration
	all   map[string]time.Duration
}

// front is a wave while the processor stands still: what the door can do, and what it costs, beside the log alone.
func (b *bench) front(rule string) (wall, used time.Duration) {
	b.open()
	signal := func(s syscall.Signal) {
		if err := b.worker.cmd.Process.Signal(s); err != nil {
			b.t.Fatal(err)
		}
	}
	signal(syscall.SIGSTOP)
	pid := b.api.cmd.Process.Pid
	r := newRound(b.tr, rule)
	r.prepare(b.tr)
	before := cpu(b.t, pid)
	defer b.profile("front")()
	began := time.Now()
	b.tr.each(b.t, func(ctx context.Context, i int, p *person) error { return r.submit(ctx, b.tr, i, p) })
	wall, used = time.Since(began), cpu(b.t, pid)-before
	signal(syscall.SIGCONT)
	b.stored(began, burstSize)
	b.relayed()
	b.holds(r)
	return wall, used
}

func (b *bench) wave(rule string) wave {
	pids := map[string]int{"api": b.api.cmd.Process.Pid, "processor": b.worker.cmd.Process.Pid}
	for name, pid := range b.services {
		if name != "etcd" {
			pids[name] = pid
		}
	}
	b.open()
	r := newRound(b.tr, rule)
	r.prepare(b.tr)
	before := map[string]time.Duration{}
	for name, pid := range pids {
		before[name] = cpu(b.t, pid)
	}
	defer b.profile("burst")()
	began := time.Now()
	b.tr.each(b.t, func(ctx context.Context, i int, p *person) error { return r.submit(ctx, b.tr, i, p) })
	w := wave{acked: time.Since(began), all: map[string]time.Duration{}}
	b.v.stored += burstSize
	// What the looks cost counts as MySQL's here, so they are rare. The events belong to the price of a submission.
	b.until(100, "SELECT COUNT(*) FROM response WHERE study_id = ? AND id > ?", burstSize, b.tr.study, b.youngest)
	b.until(100, "SELECT COUNT(*) FROM outbox", 0)
	for name, pid := range pids {
		w.all[name] = cpu(b.t, pid) - before[name]
	}
	b.holds(r)
	return w
}

// open lets every participant list the day's tasks, as a phone does when the reminder is tapped, before anything is measured.
func (b *bench) open() {
	now := time.Now()
	b.tr.over(b.t, 64, b.tr.people, func(ctx context.Context, i int, p *person) error {
		if err := b.tr.fresh(ctx, i, p); err != nil {
			return err
		}
		return b.tr.listTasks(ctx, i, p, "open", now.Add(-time.Minute), now.Add(time.Minute))
	})
	b.youngest = 0
	for _, shard := range b.v.shards {
		var id int64
		if err := shard.QueryRowContext(b.t.Context(), "SELECT COALESCE(MAX(id), 0) FROM response WHERE study_id = ?", b.tr.study).Scan(&id); err != nil {
			b.t.Fatal(err)
		}
		b.youngest = max(b.youngest, id)
	}
}

// stored waits until the n rows of a wave are there and returns when that was. It looks only at rows younger than the wave,
// through an index: a look must not cost what is being measured.
func (b *bench) stored(began time.Time, n int) time.Duration {
	b.v.stored += n
	b.until(20, "SELECT COUNT(*) FROM response WHERE study_id = ? AND id > ?", n, b.tr.study, b.youngest)
	return time.Since(began)
}

// relayed waits until the outboxes are empty.
func (b *bench) relayed() { b.until(20, "SELECT COUNT(*) FROM outbox", 0) }

// until asks all shards for a sum until it is the wanted one, for at most one part in so many of the time.
func (b *bench) until(parts int, query string, want int, args ...any) {
	deadline := time.Now().Add(120 * time.Second)
	for {
		sum, began := 0, time.Now()
		for _, shard := range b.v.shards {
			var n int
			if err := shard.QueryRowContext(b.t.Context(), query, args...).Scan(&n); err != nil {
				b.t.Fatalf("%s: %v", query, err)
			}
			sum += n
		}
		if sum == want {
			return
		}
		if time.Now().After(deadline) {
			b.t.Fatalf("%s: %d after 120 s, want %d", query, sum, want)
		}
		if err := pause(b.t.Context(), max(20*time.Millisecond, time.Duration(parts-1)*time.Since(began))); err != nil {
			b.t.Fatal(err)
		}
	}
}

// holds fails the bench if anything was refused, lost or doubled. It runs after the clocks were read.
func (b *bench) holds(rounds ...*round) {
	for _, r := range rounds {
		if n := r.retries.Load(); n > 0 {
			b.t.Errorf("%d submissions of round %s were refused: %v", n, r.rule, b.tr.refused.Load())
		}
	}
	want := rowCounts{Receipts: b.v.stored, Responses: b.v.stored, Tasks: b.v.stored, Audit: b.v.stored}
	if got := b.v.rows(b.t); got != want {
		b.t.Errorf("rows %+v, want %+v: something was lost or doubled", got, want)
	}
}

// bursts interleaves the baselines and the product, three times, and compares the medians.
func (b *bench) bursts() {
	plain, producing := b.bare("gin"), b.bare("produce")
	b.burst(plain)
	b.burst(producing)
	b.wave("w1") // warms connections, caches, the tables and the broker's compiler
	b.wave("w2")
	var ginWall, ginCPU, baseCPU, frontWall, frontCPU, acked, whole []float64
	var last wave
	for i, rule := range []string{"a", "b", "c"} {
		wall, used := b.burst(plain)
		ginWall, ginCPU = append(ginWall, wall.Seconds()), append(ginCPU, perRequest(used))
		_, used = b.burst(producing)
		baseCPU = append(baseCPU, perRequest(used))
		wall, used = b.front(fmt.Sprintf("f%d", i+1))
		frontWall, frontCPU = append(frontWall, wall.Seconds()), append(frontCPU, perRequest(used))
		last = b.wave(rule)
		acked = append(acked, last.acked.Seconds())
		total := 0.0
		for _, used := range last.all {
			total += perRequest(used)
		}
		whole = append(whole, total)
	}
	b.saturation = burstSize / median(acked)
	var detail []string
	for _, name := range []string{"api", "processor", "kafka-1", "mysql-shard0", "mysql-shard1", "mysql-meta", "redis"} {
		detail = append(detail, fmt.Sprintf("%s %.0f", name, perRequest(last.all[name])))
	}
	b.least("front CPU per submission", "bare gin + awaited produce", median(baseCPU)/median(frontCPU), 0.75,
		fmt.Sprintf("baseline %.0f µs, product %.0f µs; the processor stands still", median(baseCPU), median(frontCPU)))
	b.least("front requests/s", "bare gin", median(ginWall)/median(frontWall), 0.45,
		fmt.Sprintf("baseline %.0f/s, product %.0f/s; with the processor beside it %.0f/s", burstSize/median(ginWall), burstSize/median(frontWall), burstSize/median(acked)))
	b.most("burst of 5,000, last 202", "bare gin", median(acked)/median(ginWall), 2.0, fmt.Sprintf("baseline %.2f s, product %.2f s", median(ginWall), median(acked)))
	b.most("CPU per stored submission, all processes", "bare gin", median(whole)/median(ginCPU), 6,
		fmt.Sprintf("baseline %.0f µs, product %.0f µs: %s", median(ginCPU), median(whole), strings.Join(detail, ", ")))
}

// profileVariable names a folder for CPU profiles of both roles under the bursts.
const profileVariable = "EPROD_TEST_PROFILE"

// profile begins to take CPU profiles of both roles for the seconds of one burst, if they are asked for; the function that it returns waits
// for them. Those of the last burst of a name stay.
func (b *bench) profile(name string) func() {
	folder := os.Getenv(profileVariable)
	if folder == "" {
		return func() {}
	}
	var taken sync.WaitGroup
	for role, p := range map[string]*process{"api": b.api, "processor": b.worker} {
		taken.Go(func() {
			resp, err := http.Get(p.ops + "/debug/pprof/profile?seconds=3")
			if err != nil {
				b.t.Error(err)
				return
			}
			defer resp.Body.Close()
			body, err := io.ReadAll(resp.Body)
			if err == nil {
				err = os.WriteFile(filepath.Join(folder, name+"-"+role+".pprof"), body, 0o644)
			}
			if err != nil || resp.StatusCode != http.StatusOK {
				b.t.Errorf("profile of %s: %d, %v", role, resp.StatusCode, err)
			}
		})
	}
	return taken.Wait
}

func perRequest(d time.Duration) float64 { return float64(d.Microseconds()) / burstSize }

func median(values []float64) float64 {
	sorted := slices.Sorted(slices.Values(values))
	return sorted[len(sorted)/2]
}

// large sends 10,000 in one burst, two tasks of each participant, three times.
func (b *bench) large() {
	var ratios, last202, lastRow []float64
	people := append(slices.Clone(b.tr.people), b.tr.people...)
	for _, rules := range [][2]string{{"x1", "y1"}, {"x2", "y2"}, {"x3", "y3"}} {
		first, second := newRound(b.tr, rules[0]), newRound(b.tr, rules[1])
		b.open()
		first.prepare(b.tr)
		second.prepare(b.tr)
		began := time.Now()
		b.tr.eachOf(b.t, people, func(ctx context.Context, i int, p *person) error {
			if i < burstSize {
				return first.submit(ctx, b.tr, i, p)
			}
			return second.submit(ctx, b.tr, i-burstSize, p)
		})
		acked := time.Since(began)
		stored := b.stored(began, 2*burstSize)
		b.holds(first, second)
		ratios = append(ratios, stored.Seconds()/acked.Seconds())
		last202, lastRow = append(last202, acked.Seconds()), append(lastRow, stored.Seconds())
	}
	b.most("burst of 10,000, last row stored", "last 202", median(ratios), 1.5, fmt.Sprintf("last 202 %.2f s, last row %.2f s; ratios %.2f", median(last202), median(lastRow), ratios))
}

// latency sends at a constant rate, a quarter of what the bursts reached, and counts from the scheduled time; three times, for
// one stall of the machine is more than one in a hundred.
func (b *bench) latency() {
	rate := b.saturation / 4
	var p50s, p99s, ratios []float64
	for _, rule := range []string{"p1", "p2", "p3"} {
		p50, p99 := b.paced(rule, rate)
		p50s, p99s, ratios = append(p50s, p50), append(p99s, p99), append(ratios, p99/p50)
	}
	b.most("p99 of 202 at 25 % of saturation", "p50", median(ratios), 6, fmt.Sprintf("p50 %.1f ms, p99 %.1f ms at %.0f/s; p99 %.0f", median(p50s), median(p99s), rate, p99s))
	b.most("p99 of 202 at 25 % of saturation", "100 ms", median(p99s), 100, "open loop, counted from the scheduled time")
}

// paced sends a wave at a constant rate and returns milliseconds.
func (b *bench) paced(rule string, rate float64) (p50, p99 float64) {
	b.open()
	r := newRound(b.tr, rule)
	began := time.Now()
	took := r.paced(b.t, b.tr, rate)
	b.stored(began, burstSize)
	b.holds(r)
	return took[burstSize/2], took[burstSize*99/100]
}

func (b *bench) print() {
	var out strings.Builder
	fmt.Fprintf(&out, "\n%-42s %-28s %8s  %-14s %-6s %s\n", "ratio", "baseline", "seen", "must", "", "detail")
	for _, l := range b.lines {
		verdict := "ok"
		if !l.OK {
			verdict = "BELOW"
		}
		fmt.Fprintf(&out, "%-42s %-28s %8.2f  %-14s %-6s %s\n", l.Ratio, l.Baseline, l.Seen, l.Must, verdict, l.Detail)
	}
	fmt.Print(out.String())
	if file := os.Getenv(benchVariable); file != "1" {
		content, err := json.MarshalIndent(b.lines, "", "  ")
		if err == nil {
			err = os.WriteFile(file, content, 0o600)
		}
		if err != nil {
			b.t.Error(err)
		}
	}
}
