package main

import (
	"context"
	"database/sql"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/go-sql-driver/mysql"
	"github.com/google/uuid"
)

// verifier reads the shards past the product and holds what it finds against what the devices know.
type verifier struct {
	d         *deployment
	trial     *trial
	shards    []*sql.DB
	stored    int // responses that must be there so far
	conflicts int // bodies that must be kept aside so far
}

func newVerifier(t *testing.T, d *deployment, tr *trial) *verifier {
	t.Helper()
	v := &verifier{d: d, trial: tr}
	for _, pair := range d.env {
		value, ok := strings.CutPrefix(pair, "EPROD_DATABASE__SHARDS=")
		if !ok {
			continue
		}
		var shards []struct{ DSN string }
		if err := json.Unmarshal([]byte(value), &shards); err != nil {
			t.Fatalf("shards: %v", err)
		}
		for _, s := range shards {
			v.shards = append(v.shards, openShard(t, s.DSN))
		}
	}
	if len(v.shards) < 2 {
		t.Fatalf("%d shards, want 2 or more", len(v.shards))
	}
	return v
}

func openShard(t *testing.T, dsn string) *sql.DB {
	t.Helper()
	config, err := mysql.ParseDSN(dsn)
	if err != nil {
		t.Fatal(err)
	}
	config.Timeout, config.ReadTimeout = 3*time.Second, 30*time.Second
	connector, err := mysql.NewConnector(config)
	if err != nil {
		t.Fatal(err)
	}
	shard := sql.OpenDB(connector)
	t.Cleanup(func() { _ = shard.Close() })
	return shard
}

// rowCounts are the rows of the trial's study over all shards.
type rowCounts struct{ Receipts, Responses, Tasks, Audit, Quarantine, Conflicts, Spool int }

func (v *verifier) rows(t *testing.T) rowCounts {
	t.Helper()
	var c rowCounts
	for _, q := range []struct {
		into *int
		sql  string
	}{
		{&c.Receipts, "SELECT COUNT(*) FROM receipt WHERE study_id = ?"},
		{&c.Responses, "SELECT COUNT(*) FROM response WHERE study_id = ?"},
		{&c.Tasks, "SELECT COUNT(*) FROM task_completion WHERE study_id = ?"},
		{&c.Audit, "SELECT COUNT(*) FROM audit WHERE study_id = ? AND action = 'response.store'"},
		{&c.Quarantine, "SELECT COUNT(*) FROM quarantine WHERE study_id = ?"},
		{&c.Conflicts, "SELECT COUNT(*) FROM conflict WHERE study_id = ?"},
		{&c.Spool, "SELECT COUNT(*) FROM spool WHERE study_id = ?"},
	} {
		for _, shard := range v.shards {
			var n int
			if err := shard.QueryRowContext(t.Context(), q.sql, v.trial.study).Scan(&n); err != nil {
				t.Fatalf("%s: %v", q.sql, err)
			}
			*q.into += n
		}
	}
	return c
}

// storedExactly waits until one more wave is stored and holds receipts, rows, tasks and audit against what was sent.
func (v *verifier) storedExactly(t *testing.T, r *round) {
	t.Helper()
	v.storedWithConflicts(t, r, 0)
}

func (v *verifier) storedWithConflicts(t *testing.T, r *round, conflicts int) {
	t.Helper()
	v.stored += len(r.accepted)
	v.conflicts += conflicts
	want := rowCounts{Receipts: v.stored, Responses: v.stored, Tasks: v.stored, Audit: v.stored, Conflicts: v.conflicts}
	eventually(t, 90*time.Second, func() string {
		if got := v.rows(t); got != want {
			return fmt.Sprintf("rows %+v, want %+v", got, want)
		}
		return ""
	})
	stored := v.load(t)
	for i, s := range r.accepted {
		row, ok := stored[s.uuid]
		if !ok || row.sha256 != s.sha256 || row.task != s.task {
			t.Fatalf("participant %d sent %s with %s for task %s, stored is %+v", i, s.uuid, s.sha256, s.task, row)
		}
	}
	v.receipts(t, r, conflicts)
}

type storedRow struct{ id, sha256, task string }

// load reads every response of the study; a UUID that is there twice fails the test.
func (v *verifier) load(t *testing.T) map[uuid.UUID]storedRow {
	t.Helper()
	stored := make(map[uuid.UUID]storedRow, v.stored)
	for _, shard := range v.shards {
		rows, err := shard.QueryContext(t.Context(), "SELECT id, submission, sha256, task_id FROM response WHERE study_id = ?", v.trial.study)
		if err != nil {
			t.Fatal(err)
		}
		for rows.Next() {
			var id, task int64
			var submission, sum []byte
			if err := rows.Scan(&id, &submission, &sum, &task); err != nil {
				t.Fatal(err)
			}
			key := uuid.UUID(submission)
			if _, twice := stored[key]; twice {
				t.Fatalf("submission %s is stored twice", key)
			}
			stored[key] = storedRow{strconv.FormatInt(id, 10), hex.EncodeToString(sum), strconv.FormatInt(task, 10)}
		}
		if err := rows.Err(); err != nil {
			t.Fatal(err)
		}
		_ = rows.Close()
	}
	return stored
}

// receipts asks the API for every receipt of a wave, as the devices would.
func (v *verifier) receipts(t *testing.T, r *round, conflicts int) {
	t.Helper()
	states := make(chan string, len(r.accepted))
	v.trial.each(t, func(ctx context.Context, i int, p *person) error {
		if err := v.trial.fresh(ctx, i, p); err != nil {
			return err
		}
		s := r.accepted[i]
		var a answer
		var err error
		for try := range 3 { // one of the processes may be stopped by the test
			if a, err = v.trial.staff.do(ctx, i+try, "GET", "/api/v1/submissions/"+s.uuid.String(), p.token, nil); err == nil {
				break
			}
		}
		if err != nil || a.Status != 200 || a.text("sha256") != s.sha256 {
			return fmt.Errorf("receipt: %d %s %w", a.Status, a.Raw, err)
		}
		states <- a.text("state")
		return nil
	})
	close(states)
	count := map[string]int{}
	for s := range states {
		count[s]++
	}
	if count["stored"] != len(r.accepted)-conflicts || count["conflict"] != conflicts {
		t.Fatalf("receipts say %v, want %d stored and %d conflict", count, len(r.accepted)-conflicts, conflicts)
	}
}

// spooledSome fails unless a relay reports that it handed spooled records to the log.
func (v *verifier) spooledSome(t *testing.T, apis ...*process) {
	t.Helper()
	for _, p := range apis {
		if strings.Contains(p.tail(1<<30), `"spool relayed"`) {
			return
		}
	}
	t.Error("no relay reports a spooled record: the spool was not used, or the log was never away")
}

// balanced checks that the staff's list and the reconciliation agree with the rows.
func (v *verifier) balanced(t *testing.T) {
	t.Helper()
	listed, cursor := 0, ""
	for {
		a := v.trial.staff.mustOn(t, 1, 200, "GET", "/api/v1/studies/"+v.trial.study+"/responses?limit=500&cursor="+cursor, nil)
		items, _ := a.Body["items"].([]any)
		listed += len(items)
		if cursor = a.text("nextCursor"); cursor == "" {
			break
		}
	}
	if listed != v.stored {
		t.Errorf("the staff's list has %d responses, want %d", listed, v.stored)
	}
	var report struct {
		Balances []struct {
			Study                                                                string
			Accepted, Stored, Quarantined, Conflict, Duplicate, Pending, Missing int
		} `json:"balances"`
	}
	out := v.d.run("reconcile", "--json")
	if err := json.Unmarshal(out, &report); err != nil {
		t.Fatalf("reconcile: %v\n%s", err, out)
	}
	stored, conflicts := 0, 0
	for _, b := range report.Balances {
		if b.Missing != 0 || b.Pending != 0 || b.Accepted != b.Stored+b.Quarantined+b.Conflict+b.Duplicate {
			t.Errorf("balance does not add up: %+v", b)
		}
		stored, conflicts = stored+b.Stored, conflicts+b.Conflict
	}
	if rows := v.rows(t); stored != rows.Responses || conflicts != rows.Conflicts {
		t.Errorf("reconcile finds %d stored and %d conflicts, rows are %+v", stored, conflicts, rows)
	}
	t.Logf("reconcile: %s", out)
}
