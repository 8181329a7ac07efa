package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/eprod/eprod/internal/db"
)

// TestArchiveCommands: `eprod archive`, `archive status` and `archive restore` move a locked study out of the real MySQL and back, with
// the real locks, each command killed half-way once and then repeated. Rows are counted and compared past the product.
func TestArchiveCommands(t *testing.T) {
	d := newDeployment(t)
	d.env = append(d.env, "EPROD_CATALOG__TTL=300ms", "EPROD_STUDY_LOCK__SETTLE=700ms", "EPROD_STUDY_LOCK__INTERVAL=50ms", "EPROD_LOCKS__BACKEND=etcd", "EPROD_ARCHIVE__LEASE_TTL=1s")
	api := d.start("api")
	d.start("processor") // without archive.dir: the commands do the work
	l := &locking{d: d, tr: newTrial(t, d, 60, []string{"one", "two"}, api.api)}
	l.v = newVerifier(t, d, l.tr)
	for _, rule := range []string{"one", "two"} {
		r := newRound(l.tr, rule)
		l.tr.each(t, func(ctx context.Context, i int, p *person) error { return r.submit(ctx, l.tr, i, p) })
		l.v.storedExactly(t, r)
	}
	var about struct{ ID, Protocol string }
	if err := json.Unmarshal(l.tr.staff.must(t, 200, "GET", l.path(""), nil).Raw, &about); err != nil {
		t.Fatal(err)
	}
	c := &mover{locking: l, dir: t.TempDir(), study: about.ID}
	if said := c.fails(t, "archive", "--study", about.Protocol, "--reason", "over"); !strings.Contains(said, "only a locked study can be archived") {
		t.Errorf("an active study: %s", said)
	}
	l.tr.staff.must(t, 202, "POST", l.path("/lock"), map[string]string{"password": edgePassword, "reason": "over"})
	l.locked(t)
	before := l.checksums(t)
	people := c.people(t)

	c.killed(t, func(responses int) bool { return responses < 2*60 }, "archive", "--study", about.ID, "--reason", "over")
	out := string(c.run(t, "archive", "--study", about.Protocol, "--reason", "over"))
	if left := c.left(t, people); left != "" {
		t.Errorf("archived, and there is still %s", left)
	}
	c.tells(t, out, "archive", before)
	c.tells(t, string(c.run(t, "archive", "status", "--study", about.Protocol)), "archive", before)
	eventually(t, 10*time.Second, func() string {
		a, err := l.tr.staff.do(t.Context(), 0, "GET", l.path("/responses"), l.tr.staff.token, nil)
		if err != nil || a.Status != http.StatusConflict || a.text("code") != "study_archived" {
			return fmt.Sprintf("%d %s %v", a.Status, a.Raw, err)
		}
		return ""
	})

	c.killed(t, func(responses int) bool { return responses > 0 }, "archive", "restore", "--study", about.ID, "--reason", "inspection")
	out = string(c.run(t, "archive", "restore", "--study", about.ID, "--reason", "inspection"))
	if diff := cmp.Diff(before, l.checksums(t)); diff != "" {
		t.Errorf("restored: %s", diff)
	}
	c.tells(t, out, "restore", before)
	eventually(t, 10*time.Second, func() string {
		if a, err := l.tr.staff.do(t.Context(), 0, "GET", l.path("/responses"), l.tr.staff.token, nil); err != nil || a.Status != http.StatusOK {
			return fmt.Sprintf("%d %s %v", a.Status, a.Raw, err)
		}
		return ""
	})
	if said := c.fails(t, "archive", "restore", "--study", about.ID, "--reason", "once more"); !strings.Contains(said, "only an archived study can be restored") {
		t.Errorf("a study that was restored: %s", said)
	}
}

// mover runs the commands, which know the folder.
type mover struct {
	*locking
	dir, study string
}

func (c *mover) command(t *testing.T, env []string, args ...string) (*exec.Cmd, *bytes.Buffer) {
	cmd := exec.CommandContext(t.Context(), c.d.binary, args...)
	cmd.Env, cmd.Dir = slices.Concat(c.d.env, env, []string{"EPROD_ARCHIVE__DIR=" + c.dir}), t.TempDir()
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	return cmd, &stderr
}

func (c *mover) run(t *testing.T, args ...string) []byte {
	t.Helper()
	cmd, stderr := c.command(t, nil, args...)
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("eprod %v: %v\n%s%s", args, err, out, stderr)
	}
	return out
}

// fails runs a command that must not succeed and returns what it says.
func (c *mover) fails(t *testing.T, args ...string) string {
	t.Helper()
	cmd, stderr := c.command(t, nil, args...)
	var exit *exec.ExitError
	if out, err := cmd.Output(); !errors.As(err, &exit) || exit.ExitCode() < 1 {
		t.Errorf("eprod %v: %v, want a failure\n%s", args, err, out)
	}
	return stderr.String()
}

// killed runs a command that takes its time, and kills it as soon as the number of responses on the shards says that it is half-way.
func (c *mover) killed(t *testing.T, halfway func(responses int) bool, args ...string) {
	t.Helper()
	cmd, stderr := c.command(t, []string{"EPROD_ARCHIVE__BLOCK_ROWS=10", "EPROD_ARCHIVE__PAUSE=300ms"}, args...)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	eventually(t, time.Minute, func() string {
		select {
		case err := <-ended:
			t.Fatalf("eprod %v ended before it was killed: %v\n%s", args, err, stderr)
		default:
		}
		if n := c.v.count(t, "response"); !halfway(n) {
			return fmt.Sprintf("%d responses", n)
		}
		return ""
	})
	_ = cmd.Process.Kill()
	<-ended
	if n := c.v.count(t, "response"); n == 0 || n == 2*60 {
		t.Errorf("killed with %d responses on the shards: not half-way", n)
	}
}

// tells holds what a command prints against the folder and the rows that there were.
func (c *mover) tells(t *testing.T, said, direction string, before map[string]string) {
	t.Helper()
	rows := 0
	for _, sum := range before {
		var n int
		if _, err := fmt.Sscanf(sum, "%d rows", &n); err != nil {
			t.Fatal(err)
		}
		rows += n
	}
	if !strings.Contains(said, fmt.Sprintf("study %s: %s, step done\n", c.study, direction)) || !strings.Contains(said, fmt.Sprintf("\nrows: %d, digest ", rows)) {
		t.Errorf("of a study with %d rows the command says %s", rows, said)
	}
	found := regexp.MustCompile(`(?m)^manifest: (.*)\nsha256: ([0-9a-f]{64})$`).FindStringSubmatch(said)
	if found == nil {
		t.Fatalf("no manifest in %s", said)
	}
	raw, err := os.ReadFile(found[1])
	if err != nil {
		t.Fatal(err)
	}
	if sum := fmt.Sprintf("%x", sha256.Sum256(raw)); sum != found[2] || !strings.HasPrefix(found[1], c.dir+"/") {
		t.Errorf("the manifest %s has the hash %s; %s", found[1], sum, said)
	}
}

// people returns the study's participants as a list for a statement.
func (c *mover) people(t *testing.T) string {
	t.Helper()
	var ids []string
	for _, shard := range c.v.shards {
		rows, err := shard.QueryContext(t.Context(), "SELECT id FROM participant WHERE study_id = ?", c.study)
		if err != nil {
			t.Fatal(err)
		}
		for rows.Next() {
			var id string
			if err := rows.Scan(&id); err != nil {
				t.Fatal(err)
			}
			ids = append(ids, id)
		}
		if err := errors.Join(rows.Err(), rows.Close()); err != nil {
			t.Fatal(err)
		}
	}
	return strings.Join(ids, ", ")
}

// left names rows of the study or of its participants that are still on a shard.
func (c *mover) left(t *testing.T, people string) string {
	t.Helper()
	for i, shard := range c.v.shards {
		for _, table := range db.ShardTables() {
			if table.Kind != db.StudyData {
				continue
			}
			query := fmt.Sprintf("SELECT COUNT(*) FROM %s WHERE %s IN (%s)", table.Name, table.Participant, people)
			if table.Study != "" {
				query += " OR " + table.Study + " = " + c.study
			}
			var n int
			if err := shard.QueryRowContext(t.Context(), query).Scan(&n); err != nil {
				t.Fatalf("%s: %v", query, err)
			}
			if n > 0 {
				return fmt.Sprintf("%d rows of %s on shard %d", n, table.Name, i)
			}
		}
	}
	return ""
}
