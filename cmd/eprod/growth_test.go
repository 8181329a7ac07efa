package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-sql-driver/mysql"

	"github.com/eprod/eprod/internal/db"
	"github.com/eprod/eprod/internal/growth"
	"github.com/eprod/eprod/internal/testenv"
)

// TestGrowth adds a third shard and moves half of the buckets to it while phones submit and staff read lists, with the command killed
// on the way: nobody sees an error beyond one retry, everything accepted is stored once, and the writers of no bucket are held for longer
// than the settings allow. The long variant also holds that the phones have submitted at their rate all the time.
func TestGrowth(t *testing.T) {
	people, waves, rate, buckets, deaths := 60, 20, 30, "0-11,128-139", []string{"held", "gone"}
	if os.Getenv("EPROD_TEST_LONG") != "" {
		people, waves, rate, buckets, deaths = 1500, 60, 500, "0-63,128-191", []string{"copy", "held", "gone", "clear"}
	}
	d := newDeployment(t)
	ownDatabases(t, d)
	d.env = append(d.env, "EPROD_GROWTH__POLL=100ms", "EPROD_GROWTH__LEASE=2s", "EPROD_GROWTH__GRACE=1s", "EPROD_GROWTH__GROUP=12")
	api1, api2 := d.start("api"), d.start("api")
	d.start("processor")
	d.start("processor")
	var rules []string
	for i := range waves {
		rules = append(rules, fmt.Sprint("wave-", i))
	}
	g := &growing{moved: make(chan struct{}), tr: newTrial(t, d, people, rules, api1.api, api2.api)}
	v := newVerifier(t, d, g.tr)
	ctx, over := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() { g.submitAll(t, rules, rate) })
	running.Go(func() { g.list(ctx, t) })

	d.run("shards", "add", "--name", "shard2")
	began, before := time.Now(), g.sent.Load()
	move := []string{"shards", "move", "--buckets", buckets, "--to", "shard2"}
	for _, at := range deaths {
		if err := d.killedAt(t, at, move...); err != nil {
			t.Fatal(err)
		}
		move = []string{"shards", "move", "--resume"}
	}
	out := string(d.run(move...))
	took := time.Since(began)
	during := g.sent.Load() - before
	close(g.moved)
	achieved := float64(during) / took.Seconds() // how many the machine took of those that were due; printed, for it depends on the machine
	running.Go(func() {                          // the lists go on until the last submission
		for g.sent.Load()+g.failed.Load() < int64(people*waves) && pause(ctx, 50*time.Millisecond) == nil {
		}
		over()
	})
	running.Wait()

	v.stored = people * waves
	want := rowCounts{Receipts: v.stored, Responses: v.stored, Tasks: v.stored, Audit: v.stored}
	eventually(t, 90*time.Second, func() string {
		if got := v.rows(t); got != want {
			return fmt.Sprintf("rows %+v, want %+v", got, want)
		}
		return ""
	})
	v.load(t)
	v.balanced(t)
	var status growth.Status
	if err := json.Unmarshal(d.run("shards", "status", "--json", "--rows"), &status); err != nil {
		t.Fatal(err)
	}
	moved, _ := growth.ParseBuckets(buckets)
	if s := status.Shards[2]; !slices.Equal(s.Buckets, moved) || s.Rows["response"] == 0 || status.Shards[0].Copies[db.Gone]+status.Shards[1].Copies[db.Gone] > 0 {
		t.Errorf("the new shard has %v and %v", s.Buckets, s.Rows)
	}
	var held, longest time.Duration
	for _, m := range status.Moves {
		for _, b := range m.Buckets {
			held, longest = held+b.Held, max(longest, b.Held)
		}
	}
	if held == 0 || longest > growth.DefaultConfig().Hold {
		t.Errorf("the writers of a bucket were held for up to %v, all together for %v", longest, held)
	}
	t.Logf("held %v on average, %v at most", (held / time.Duration(len(moved))).Round(time.Millisecond), longest.Round(time.Millisecond))
	t.Logf("%d submissions, %d of them during the move (%.0f a second), %d at the second try, none lost or twice; %d pages of lists; moved in %v with %d kills; %s", g.sent.Load(), during, achieved, g.again.Load(), g.pages.Load(),
		took.Round(time.Millisecond), len(deaths), out[strings.LastIndex(strings.TrimSpace(out), "\n")+1:])
}

// ownDatabases lets a deployment have databases of its own: what moves there moves for nobody else.
func ownDatabases(t *testing.T, d *deployment) {
	t.Helper()
	config, err := mysql.ParseDSN(os.Getenv("EPROD_TEST_MYSQL_DSN"))
	if err != nil {
		t.Fatal(err)
	}
	dsn := func(set string) string {
		d := testenv.Databases(t, set)["mysql"]
		if err := d.Pool().QueryRowContext(t.Context(), "SELECT DATABASE()").Scan(&config.DBName); err != nil {
			t.Fatal(err)
		}
		return config.FormatDSN()
	}
	var shards []map[string]string
	for i, buckets := range []string{"0-127", "128-255", "none"} {
		shards = append(shards, map[string]string{"name": fmt.Sprint("shard", i), "dsn": dsn("shard"), "buckets": buckets})
	}
	list, err := json.Marshal(shards)
	if err != nil {
		t.Fatal(err)
	}
	d.env = slices.DeleteFunc(d.env, func(pair string) bool { return strings.HasPrefix(pair, "EPROD_DATABASE__") })
	d.env = append(d.env, "EPROD_DATABASE__META__DSN="+dsn("meta"), "EPROD_DATABASE__SHARDS="+string(list))
	// One server has all four databases here, for five processes, and takes 400 connections.
	d.env = append(d.env, "EPROD_DATABASE__POOL__MAX_OPEN=18", "EPROD_DATABASE__POOL__MAX_IDLE=18")
}

// killedAt runs a command and kills it as soon as it says that it begins a step.
func (d *deployment) killedAt(t *testing.T, step string, args ...string) error {
	t.Helper()
	cmd := exec.Command(d.binary, args...)
	cmd.Env, cmd.Dir = d.env, t.TempDir()
	var stderr strings.Builder
	cmd.Stderr = &stderr
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	reached := false
	for lines := bufio.NewScanner(stdout); lines.Scan(); {
		if _, said, _ := strings.Cut(lines.Text(), " "); strings.HasPrefix(said, step+" ") && !reached {
			reached = true
			_ = cmd.Process.Kill()
		}
	}
	if err := cmd.Wait(); !reached {
		return fmt.Errorf("eprod %v never came to %s: %w\n%s", args, step, err, stderr.String())
	}
	return nil
}

// growing is what phones and staff do meanwhile.
type growing struct {
	tr                         *trial
	moved                      chan struct{}
	sent, again, failed, pages atomic.Int64
}

// submitAll submits one answer of everybody for each rule at a steady rate. A phone tries twice, and asks for the receipt.
func (g *growing) submitAll(t *testing.T, rules []string, rate int) {
	var phones sync.WaitGroup
	places := make(chan struct{}, 400)
	turns := make([]sync.Mutex, len(g.tr.people)) // a person's tasks come one after the other
	began, n := time.Now(), 0
	var rounds []*round
	for _, rule := range rules {
		r := newRound(g.tr, rule)
		rounds = append(rounds, r)
		for i, p := range g.tr.people {
			n++
			select { // at its time, so that what waits for a place is made up for
			case <-time.After(time.Until(began.Add(time.Duration(n) * time.Second / time.Duration(rate)))):
			case <-g.moved: // the rest as fast as it goes
			case <-t.Context().Done():
				return
			}
			places <- struct{}{}
			phones.Go(func() {
				defer func() { <-places }()
				turns[i].Lock()
				defer turns[i].Unlock()
				g.submit(t, r, i, p)
			})
		}
	}
	phones.Wait()
	for _, r := range rounds {
		if n := r.retries.Load(); n > 0 {
			g.again.Add(n)
			t.Logf("%s: %d further tries, the last refusal was %v", r.rule, n, g.tr.refused.Load())
		}
	}
}

// submit submits one answer and asks for its receipt, at the process that took it: another may not know it for a moment.
func (g *growing) submit(t *testing.T, r *round, i int, p *person) {
	if err := r.submit(t.Context(), g.tr, i, p); err != nil {
		g.failed.Add(1)
		t.Errorf("participant %s: %v", p.number, err)
		return
	}
	s := r.accepted[i]
	if s.tries > 2 {
		t.Errorf("participant %s needed %d tries, the last refusal was %v", p.number, s.tries, g.tr.refused.Load())
	}
	a, err := g.tr.staff.do(t.Context(), i, "GET", "/api/v1/submissions/"+s.uuid.String(), p.token, nil)
	if s.tries == 1 && (err != nil || a.Status != 200 || a.text("sha256") != s.sha256) {
		t.Errorf("receipt of participant %s right after the 202: %d %s %v", p.number, a.Status, a.Raw, err)
	}
	g.sent.Add(1)
}

// list reads the staff's list of responses to its end again and again: none may be in it twice, or missing once it was in it.
func (g *growing) list(ctx context.Context, t *testing.T) {
	known := make(map[string]bool)
	for ctx.Err() == nil {
		seen := make(map[string]bool)
		cursor := ""
		for {
			page := func() (answer, error) {
				return g.tr.staff.do(ctx, int(g.pages.Add(1)), "GET", "/api/v1/studies/"+g.tr.study+"/responses?limit=200&cursor="+cursor, g.tr.staff.token, nil)
			}
			a, err := page()
			if err == nil && a.Status == http.StatusServiceUnavailable { // as everybody, it tries once more
				a, err = page()
			}
			if ctx.Err() != nil {
				return
			}
			if err != nil || a.Status != 200 {
				t.Errorf("list: %d %s %v", a.Status, a.Raw, err)
				return
			}
			items, _ := a.Body["items"].([]any)
			for _, item := range items {
				one, _ := item.(map[string]any)
				id := fmt.Sprint(one["id"])
				if seen[id] {
					t.Errorf("response %s is in the list twice", id)
				}
				seen[id] = true
			}
			if cursor = a.text("nextCursor"); cursor == "" {
				break
			}
		}
		for id := range known {
			if !seen[id] {
				t.Errorf("response %s was in the list and is not any more", id)
				return
			}
		}
		known = seen
		if pause(ctx, 200*time.Millisecond) != nil {
			return
		}
	}
}

// TestReadsFindWhoHasMoved: a shard that For or ForBucket names is what the process believes. Writers are told where that is wrong;
// readers must ask: Home, or View.
func TestReadsFindWhoHasMoved(t *testing.T) {
	believing := regexp.MustCompile(`\.(For|ForBucket)\([^()]*(\([^()]*\))?[^()]*\)\.Read\(`)
	if !believing.MatchString("s.Shards.For(f(x)).Read(ctx)") || believing.MatchString("view.Home(x).Read(ctx)") {
		t.Fatal("the expression does not find what it looks for")
	}
	files := 0
	err := filepath.WalkDir("../..", func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") || strings.Contains(path, "internal/db/") {
			return err
		}
		files++
		content, err := os.ReadFile(path)
		for _, found := range believing.FindAllString(string(content), -1) {
			if !strings.HasPrefix(found, ".For(") || !strings.Contains(string(content), "view"+found) {
				t.Errorf("%s reads by %s: use Home(participant).Read, or a View", path, found)
			}
		}
		return err
	})
	if err != nil || files < 100 {
		t.Errorf("%d files, %v", files, err)
	}
}
