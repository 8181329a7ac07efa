package archive

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/eprod/eprod/internal/db"
	"github.com/eprod/eprod/internal/lock"
	"github.com/eprod/eprod/internal/testenv"
)

// childVariable holds a place as JSON for a process of its own, which TestChild is.
const childVariable = "EPROD_TEST_ARCHIVE_CHILD"

// TestChild is no test: it is the process that TestKilled kills.
func TestChild(t *testing.T) {
	raw := os.Getenv(childVariable)
	if raw == "" {
		return // run as a test, there is nothing to do
	}
	var p place
	if err := json.Unmarshal([]byte(raw), &p); err != nil {
		t.Fatal(err)
	}
	if err := carryOut(t.Context(), p); err != nil {
		t.Fatal(err)
	}
}

// carryOut drives the move at a place, and kills this process where it is told to.
func carryOut(ctx context.Context, p place) error {
	meta, shards, err := openPlace(ctx, p)
	if err != nil {
		return err
	}
	keys, err := testKeys()
	if err != nil {
		return err
	}
	folder, err := NewFolder(p.Dir)
	if err != nil {
		return err
	}
	s, err := newTestService(p, meta, shards, keys, folder)
	if err != nil {
		return err
	}
	times := 0
	s.hook = func(at string) error {
		if at != p.Kill {
			return nil
		}
		if times++; times > p.After {
			_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
			select {}
		}
		return nil
	}
	if _, err := s.Start(ctx, ours, p.Way, Actor{Kind: "system", Source: "test"}, "the trial is over"); err != nil {
		return err
	}
	return s.Drive(ctx, ours)
}

func openPlace(ctx context.Context, p place) (*db.DB, *db.Shards, error) {
	log := slog.New(slog.DiscardHandler)
	open := func(name, source string) (*db.DB, error) {
		if p.Dialect == "sqlite" {
			return db.OpenSQLite(ctx, name, source, db.DefaultConfig(), log)
		}
		return db.OpenMySQL(ctx, name, source, db.DefaultConfig(), log)
	}
	meta, err := open("meta", p.Meta)
	if err != nil {
		return nil, nil, err
	}
	var all []*db.DB
	for i, source := range p.Shards {
		d, err := open(fmt.Sprintf("shard%d", i), source)
		if err != nil {
			return nil, nil, err
		}
		all = append(all, d)
	}
	shards, err := db.NewShards(all, []db.BucketRange{{First: 0, Last: 127}, {First: 128, Last: 255}})
	return meta, shards, err
}

// child runs a process that moves the study and reports whether it was killed.
func child(t *testing.T, p place) (killed bool) {
	t.Helper()
	raw, err := json.Marshal(p)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestChild$", "-test.timeout=20m")
	cmd.Env = append(os.Environ(), childVariable+"="+string(raw))
	output, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		if status, ok := exit.Sys().(syscall.WaitStatus); ok && status.Signaled() && status.Signal() == syscall.SIGKILL {
			return true
		}
	}
	if err != nil {
		t.Fatalf("killed at %s %d: %v\n%s", p.Kill, p.After, err, output)
	}
	return false
}

// TestKilled archives and restores a study while the process is killed at least five times on each way, at different steps. Every row that was
// there leaves and comes back, counted and hashed past the product. What came from the real MySQL is read by DuckDB, and in the long
// variant by PySpark and by ClickHouse's engine, which has loaded it on the way.
func TestKilled(t *testing.T) {
	participants, responses, long := 100, 20, testenv.Long()
	if long {
		participants, responses = 2000, 100
	}
	dialect := "sqlite"
	if os.Getenv("EPROD_TEST_MYSQL_DSN") != "" || os.Getenv("CI") == "true" {
		dialect = "mysql"
	} else {
		t.Log("left out: the real MySQL. To have it: make services-up && eval \"$(dev/services env --test)\"")
	}
	r := newRig(t, dialect)
	stops := []stop{{"part", 3}, {"written", 5}, {"verified", 4}, {"step " + string(StepList), 0}, {"block", 7}}
	if long {
		r.place.Config, r.place.Click = DefaultConfig(), front(t, 0)
		stops = slices.Insert(stops, 3, stop{"sent", 2})
		r.build(t)
	}
	r.fill(t, theirs, 10, 3)
	others := r.raw(t)
	r.fill(t, ours, participants, responses)
	r.close(t, ours)
	before := r.raw(t)

	began := time.Now()
	r.killed(t, Out, stops)
	out := time.Since(began)
	if diff := cmp.Diff(others, r.raw(t)); diff != "" {
		t.Errorf("the shards are not as if the study had never been there: %s", diff)
	}
	m := r.manifest(t)
	onlyListed(t, r, m)
	checkMonths(t, m, int64(participants*responses))
	want := expect(participants, responses)
	t.Run("DuckDB", func(t *testing.T) { checkDuckDB(t, r, want) })
	if long {
		t.Run("PySpark", func(t *testing.T) { checkSpark(t, r, want) })
		t.Run("ClickHouse", func(t *testing.T) { checkClickHouse(t, r, want) })
	}

	began = time.Now()
	r.killed(t, Back, []stop{{"verified", 2}, {"block", 1}, {"block", 9}, {"step " + string(StepCompare), 0}, {"step " + string(StepReopen), 0}})
	if diff := cmp.Diff(before, r.raw(t)); diff != "" {
		t.Errorf("restored: %s", diff)
	}
	t.Logf("%s: %d responses, %d rows, %d files: archived in %v and restored in %v, killed %d and five times", dialect, participants*responses, m.Rows, len(m.Files),
		out.Round(time.Millisecond), time.Since(began).Round(time.Millisecond), len(stops))
}

// stop is where a process is killed: at the time after so many that it gets there.
type stop struct {
	at    string
	after int
}

// killed moves the study in processes that are killed, and in a last one that is not.
func (r *rig) killed(t *testing.T, way Direction, stops []stop) {
	t.Helper()
	for _, s := range stops {
		r.kill(t, way, s)
	}
	p := r.place
	p.Way = way
	if child(t, p) {
		t.Fatal("killed without a reason")
	}
}

// kill moves the study in a process that is killed.
func (r *rig) kill(t *testing.T, way Direction, s stop) {
	t.Helper()
	p := r.place
	p.Way, p.Kill, p.After = way, s.at, s.after
	if !child(t, p) {
		t.Fatalf("%s: the process was to be killed at %s %d and ended", way, s.at, s.after)
	}
	// Its lease is over, as it would be by itself after a while; its fence stays.
	if _, err := r.meta.Pool().ExecContext(t.Context(), "UPDATE lock_lease SET until_at = 0"); err != nil {
		t.Fatal(err)
	}
}

// TestTwoAtOnce: of two processes one works; the other is told who, and finds everything done later.
func TestTwoAtOnce(t *testing.T) {
	r := newRig(t, "sqlite")
	r.fill(t, ours, 10, 5)
	r.close(t, ours)
	if _, err := r.service.Start(t.Context(), ours, Out, Actor{Kind: "staff"}, "why"); err != nil {
		t.Fatal(err)
	}
	second := New(r.service.Config, r.service.Parts)
	second.Locks = lock.NewTable(r.meta, lock.Parts{Config: lock.DefaultConfig(), Holder: "second", Clock: time.Now, Random: rand.Reader, Log: r.service.Log})
	refused := 0
	r.service.hook = func(at string) error {
		if !strings.HasPrefix(at, "step") {
			return nil
		}
		var held *lock.HeldError
		if err := second.Drive(t.Context(), ours); errors.As(err, &held) {
			refused++
			return nil
		}
		return errors.New("two processes work on one study")
	}
	if err := r.service.Drive(t.Context(), ours); err != nil {
		t.Fatal(err)
	}
	if err := second.Drive(t.Context(), ours); err != nil || refused != len(Steps(Out))-1 {
		t.Errorf("%d refusals, %v", refused, err)
	}
	r.empty(t, ours)
}
