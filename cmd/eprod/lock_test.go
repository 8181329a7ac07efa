package main

import (
	"context"
	"crypto/ed25519"
	"database/sql"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"

	"github.com/eprod/eprod/internal/db"
	"github.com/eprod/eprod/internal/kafka"
	"github.com/eprod/eprod/internal/study"
	"github.com/eprod/eprod/internal/submission"
)

// lockSteps are the steps at which the process that locks is killed.
var lockSteps = []string{"doors", "spools", "barrier", "followers", "messages", "close", "report"}

// TestStudyLock locks a study again and again while its participants submit, and kills the processes that lock it at each step. Once it
// is locked, nothing of it changes, whatever is tried, replayed or sent too late; the report tells what is there.
func TestStudyLock(t *testing.T) {
	rounds, crowd := 1, 80
	if os.Getenv("EPROD_TEST_LONG") != "" {
		rounds, crowd = 30, 400
	}
	d := newDeployment(t)
	d.env = append(d.env, "EPROD_CATALOG__TTL=300ms", "EPROD_STUDY_LOCK__SETTLE=700ms", "EPROD_STUDY_LOCK__INTERVAL=50ms", "EPROD_STUDY_LOCK__LEASE=1s", "EPROD_LOCKS__BACKEND=etcd")
	api1, api2 := d.start("api"), d.start("api")
	l := &locking{d: d, processors: []*process{d.start("processor"), d.start("processor")}}
	var rules []string
	for i := range rounds {
		rules = append(rules, fmt.Sprint("round-", i))
	}
	l.tr = newTrialOf(t, d, scoredQuestionnaire(t), crowd, append(rules, "after", "before", "excused"), api1.api, api2.api)
	l.v = newVerifier(t, d, l.tr)
	l.second = l.person(t)
	l.furnish(t)
	for i := range rounds {
		l.round(t, i, rules[i])
	}
	eventually(t, 60*time.Second, func() string {
		var out struct{ Balances []submission.Balance }
		if err := json.Unmarshal(d.run("reconcile", "--json"), &out); err != nil {
			return err.Error()
		}
		for _, b := range out.Balances {
			if fmt.Sprint(b.Study) == l.tr.study && (b.Pending > 0 || b.Missing > 0) {
				return fmt.Sprintf("%+v", b)
			}
		}
		return ""
	})
}

type locking struct {
	d          *deployment
	tr         *trial
	v          *verifier
	second     *client // another person with the right to unlock
	processors []*process
	accepted   map[uuid.UUID]sent
	alert      string // one that is open
	waiting    string // activation code of somebody who has not used it
	pin        string // number of somebody who has a PIN
	monitor    string // user name of somebody who could be given a right
}

const secondPassword = "another horse battery staple"

// person signs a second administrator in.
func (l *locking) person(t *testing.T) *client {
	name := fmt.Sprintf("second-%d", time.Now().UnixNano())
	l.d.runInput(secondPassword+"\n", "user", "add", "--username", name, "--role", "administrator", "--password-stdin")
	l.monitor = name
	c := newClient(4, l.tr.staff.bases...)
	c.token = c.must(t, 200, "POST", "/api/v1/auth/login", map[string]string{"username": name, "password": secondPassword}).text("accessToken")
	return c
}

func (l *locking) path(suffix string) string { return "/api/v1/studies/" + l.tr.study + suffix }

func (l *locking) round(t *testing.T, n int, rule string) {
	step := lockSteps[(n*3+2)%len(lockSteps)]
	began := time.Now()
	l.underLoad(t, rule, func() { l.ask(t, n) }, step)
	report := l.locked(t)
	took := time.Since(began)
	sums := l.checksums(t)
	l.holdReport(t, report, sums)
	l.refusals(t)
	l.replay(t)
	if diff := cmp.Diff(sums, l.checksums(t)); diff != "" {
		t.Fatalf("round %d: a locked study changed: %s", n, diff)
	}
	stored := l.v.load(t)
	for id, s := range l.accepted {
		if stored[id].sha256 != s.sha256 {
			t.Errorf("round %d: submission %s was accepted and is not stored as it was", n, id)
		}
	}
	t.Logf("round %d: killed at %s; %d accepted so far; locked after %v", n, step, len(l.accepted), took.Round(time.Millisecond))
	l.unlock(t)
}

// underLoad submits for everybody until the study is closed to them; after a third of them act is called, and whoever begins the step
// is killed, both processors with it.
func (l *locking) underLoad(t *testing.T, rule string, act func(), step string) {
	t.Helper()
	var mu sync.Mutex
	var done, refused atomic.Int64
	acting := make(chan struct{})
	var after sync.WaitGroup
	after.Go(func() {
		<-acting
		act()
		l.killAt(t, step)
	})
	begin := sync.OnceFunc(func() { close(acting) })
	l.tr.over(t, 40, l.tr.people, func(ctx context.Context, i int, p *person) error {
		if done.Add(1) > int64(len(l.tr.people)/3) {
			begin()
		}
		if err := l.tr.fresh(ctx, i, p); err != nil {
			return err
		}
		id := uuid.New()
		body := burstResponse(id, "1.0.0", time.Now().Format(time.RFC3339), "")
		a, _, err := l.tr.submit(ctx, i, p, envelopeOf(p.tasks[rule], body))
		switch {
		case err != nil:
			return err
		case a.Status == 202:
			mu.Lock()
			l.accepted[id] = sent{uuid: id, sha256: a.text("sha256"), task: p.tasks[rule], body: body}
			mu.Unlock()
		case a.Status == 409 && a.text("code") == "study_locked":
			refused.Add(1)
		default:
			return fmt.Errorf("%d %s", a.Status, a.Raw)
		}
		return pause(ctx, 20*time.Millisecond)
	})
	after.Wait()
}

// ask lets two people ask for the lock at once: one of them begins it.
func (l *locking) ask(t *testing.T, n int) {
	var asking sync.WaitGroup
	var codes [2]string
	for i, who := range []struct {
		c        *client
		password string
	}{{l.tr.staff, "correct horse battery staple"}, {l.second, secondPassword}} {
		asking.Go(func() {
			body, _ := json.Marshal(map[string]string{"password": who.password, "reason": fmt.Sprintf("analysis %d", n)})
			a, err := who.c.do(t.Context(), i, "POST", l.path("/lock"), who.c.token, body)
			if err != nil {
				t.Error(err)
			}
			codes[i] = fmt.Sprint(a.Status, " ", a.text("code"), a.text("state"))
		})
	}
	asking.Wait()
	slices.Sort(codes[:])
	if codes != [2]string{"202 locking", "409 study_locked"} {
		t.Errorf("two people locked at once and were told %q", codes)
	}
}

// killAt kills both processors as soon as one of them says that it begins a step, and starts others.
func (l *locking) killAt(t *testing.T, step string) {
	eventually(t, 60*time.Second, func() string {
		for _, p := range l.processors {
			if strings.Contains(p.tail(1<<20), fmt.Sprintf(`step":%q`, step)) || step == "doors" {
				return ""
			}
		}
		return "nobody has come to the step " + step + ": " + string(l.tr.staff.must(t, 200, "GET", l.path("/lock"), nil).Raw)
	})
	for i, p := range l.processors {
		_ = p.cmd.Process.Kill()
		<-p.exited
		l.processors[i] = l.d.start("processor")
	}
}

// locked waits until the study is locked and returns the report, whose signature it checks.
func (l *locking) locked(t *testing.T) study.Report {
	t.Helper()
	var view struct {
		State, Signature string
		Report           json.RawMessage
	}
	eventually(t, 2*time.Minute, func() string {
		a := l.tr.staff.must(t, 200, "GET", l.path("/lock"), nil)
		if err := json.Unmarshal(a.Raw, &view); err != nil {
			return err.Error()
		}
		if view.State != "locked" {
			return string(a.Raw)
		}
		return ""
	})
	var keys struct{ Keys []struct{ X string } }
	if err := json.Unmarshal(l.tr.staff.must(t, 200, "GET", "/.well-known/jwks.json", nil).Raw, &keys); err != nil {
		t.Fatal(err)
	}
	key, err := base64.RawURLEncoding.DecodeString(keys.Keys[0].X)
	if err != nil {
		t.Fatal(err)
	}
	signed, signature, _ := strings.Cut(view.Signature[strings.Index(view.Signature, ".")+1:], ".")
	raw, err := base64.RawURLEncoding.DecodeString(signature)
	if err != nil || !ed25519.Verify(key, []byte(view.Signature[:strings.LastIndex(view.Signature, ".")]), raw) {
		t.Fatalf("the report's signature does not hold: %v", err)
	}
	payload, err := base64.RawURLEncoding.DecodeString(signed)
	if err != nil || string(payload) != string(view.Report) {
		t.Fatalf("the signature is of another report: %v", err)
	}
	var r study.Report
	if err := json.Unmarshal(view.Report, &r); err != nil {
		t.Fatal(err)
	}
	return r
}

// checksums returns rows and a checksum per shard and table of everything that belongs to the study, by other means than the product's.
func (l *locking) checksums(t *testing.T) map[string]string {
	t.Helper()
	out := make(map[string]string)
	for i, shard := range l.v.shards {
		for _, table := range db.ShardTables() {
			if table.Kind != db.StudyData {
				continue
			}
			where := "study_id = " + l.tr.study
			if table.Study == "" {
				where = table.Participant + " IN (SELECT id FROM participant WHERE study_id = " + l.tr.study + ")"
			}
			var rows, sum int64
			query := fmt.Sprintf("SELECT COUNT(*), COALESCE(BIT_XOR(CRC32(CONCAT_WS('|', %s))), 0) FROM %s WHERE %s", strings.Join(columnsOf(t, shard, table.Name), ", "), table.Name, where)
			if err := shard.QueryRowContext(t.Context(), query).Scan(&rows, &sum); err != nil {
				t.Fatalf("%s: %v", query, err)
			}
			out[fmt.Sprintf("%d/%s", i, table.Name)] = fmt.Sprintf("%d rows, %08x", rows, sum)
		}
	}
	return out
}

func columnsOf(t *testing.T, shard *sql.DB, table string) []string {
	t.Helper()
	rows, err := shard.QueryContext(t.Context(), "SELECT CONCAT('HEX(IFNULL(', COLUMN_NAME, ', 0x00))') FROM information_schema.COLUMNS WHERE TABLE_SCHEMA = DATABASE() AND TABLE_NAME = ? ORDER BY ORDINAL_POSITION", table)
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	var out []string
	for rows.Next() {
		var c string
		if err := rows.Scan(&c); err != nil {
			t.Fatal(err)
		}
		out = append(out, c)
	}
	return out
}

// holdReport compares the report's counts with the rows.
func (l *locking) holdReport(t *testing.T, r study.Report, sums map[string]string) {
	t.Helper()
	for i, shard := range r.Shards {
		total := int64(0)
		for table, n := range shard.Tables {
			total += n
			if got := sums[fmt.Sprintf("%d/%s", i, table)]; !strings.HasPrefix(got, fmt.Sprintf("%d rows,", n)) {
				t.Errorf("the report has %d rows of %s on %s, there are %s", n, table, shard.Name, got)
			}
		}
		if total != shard.Rows {
			t.Errorf("shard %s: %d rows in all, %d in its tables", shard.Name, shard.Rows, total)
		}
		if again := l.digest(t, i); again != shard.SHA256 {
			t.Errorf("shard %s: the report has the hash %s; computed as docs/studylock.md says it is %s", shard.Name, shard.SHA256, again)
		}
	}
	for _, table := range []string{"response", "quarantine", "conflict", "message", "alert", "assessment"} {
		if r.Shards[0].Tables[table]+r.Shards[1].Tables[table] == 0 {
			t.Errorf("the study has no rows of %s, so nothing is said of how they are locked", table)
		}
	}
	c := l.v.rows(t)
	if r.Responses != int64(c.Responses) || r.Quarantined != int64(c.Quarantine) || r.Conflicts != int64(c.Conflicts) || c.Spool != 0 || r.Tasks["completed"]+r.Tasks["completedLate"] != int64(c.Tasks) {
		t.Errorf("the report says %d responses, %d quarantined, %d conflicts, tasks %v; there are %+v", r.Responses, r.Quarantined, r.Conflicts, r.Tasks, c)
	}
	versions, reasons := make(map[string]int64), make(map[string]int64)
	for _, q := range r.Questionnaires {
		for status, n := range q.Status {
			versions[q.Questionnaire+"|"+q.Version+" "+status] += n
		}
	}
	for reason, n := range r.Quarantine {
		reasons[reason] += n
	}
	l.holdGroups(t, "response", "CONCAT(questionnaire, '|', version, ' ', status)", versions)
	l.holdGroups(t, "quarantine", "reason", reasons)
}

// holdGroups compares counts by a word with the rows of both shards.
func (l *locking) holdGroups(t *testing.T, table, word string, counted map[string]int64) {
	t.Helper()
	there := make(map[string]int64)
	for _, shard := range l.v.shards {
		rows, err := shard.QueryContext(t.Context(), "SELECT "+word+", COUNT(*) FROM "+table+" WHERE study_id = ? GROUP BY 1", l.tr.study)
		if err != nil {
			t.Fatal(err)
		}
		for rows.Next() {
			var group string
			var n int64
			if err := rows.Scan(&group, &n); err != nil {
				t.Fatal(err)
			}
			there[group] += n
		}
		if err := errors.Join(rows.Err(), rows.Close()); err != nil {
			t.Fatal(err)
		}
	}
	if diff := cmp.Diff(there, counted); diff != "" {
		t.Errorf("the report's counts of %s are not those of the rows: %s", table, diff)
	}
}

// replay sends every record of the log once more, and for each participant one that nobody has seen, as a door would that has not
// heard of the lock.
func (l *locking) replay(t *testing.T) {
	t.Helper()
	c := l.kafka()
	ctx, stop := context.WithCancel(context.Background())
	producer := kafka.NewProducer(c, nil, slog.New(slog.DiscardHandler))
	var running sync.WaitGroup
	running.Go(func() { _ = producer.Run(ctx) })
	defer func() { stop(); running.Wait() }()
	sent, late := 0, 0
	err := kafka.Scan(t.Context(), c, nil, submission.Topic, time.Time{}, func(m kafka.Message) error {
		r, err := submission.FromMessage(m)
		if err != nil || fmt.Sprint(r.Study) != l.tr.study {
			return nil
		}
		sent++
		if sent%10 == 0 {
			late++
			unseen := r
			unseen.Submission, unseen.ID = uuid.New(), time.Now().UnixNano()
			if err := producer.Send(t.Context(), unseen.Message(m.Partition)); err != nil {
				return err
			}
		}
		m.Topic = submission.Topic
		return producer.Send(t.Context(), m)
	})
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, 60*time.Second, func() string {
		ends, err := kafka.Ends(t.Context(), c, nil, submission.Topic)
		if err != nil {
			return err.Error()
		}
		done, err := kafka.Committed(t.Context(), c, nil, processorGroup, submission.Topic)
		if err != nil {
			return err.Error()
		}
		for p, end := range ends {
			if done[p] < end {
				return fmt.Sprintf("partition %d: %d of %d", p, done[p], end)
			}
		}
		return ""
	})
	kept := 0
	for _, shard := range l.v.shards {
		var n int
		if err := shard.QueryRowContext(t.Context(), "SELECT COUNT(*) FROM late_record WHERE study_id = ?", l.tr.study).Scan(&n); err != nil {
			t.Fatal(err)
		}
		kept += n
	}
	if kept < late || late == 0 {
		t.Errorf("%d records came too late for the locked study, %d are kept", late, kept)
	}
}

// kafka returns the settings of the processes.
func (l *locking) kafka() kafka.Config {
	c := kafka.DefaultConfig()
	for _, pair := range l.d.env {
		switch name, value, _ := strings.Cut(pair, "="); name {
		case "EPROD_KAFKA__PREFIX":
			c.Prefix = value
		case "EPROD_KAFKA__BROKERS":
			c.Brokers = strings.Split(strings.Trim(strings.ReplaceAll(value, `"`, ""), "[]"), ",")
		}
	}
	return c
}

// unlock needs two people, and the study is active again.
func (l *locking) unlock(t *testing.T) {
	t.Helper()
	mine, theirs := map[string]string{"password": "correct horse battery staple", "reason": "a query"}, map[string]string{"password": secondPassword, "reason": "agreed"}
	for _, wrong := range []struct {
		status int
		body   map[string]string
	}{{403, map[string]string{"password": "wrong", "reason": "x"}}, {422, map[string]string{"password": secondPassword, "reason": " "}}} {
		if a := l.second.must(t, wrong.status, "POST", l.path("/unlock"), wrong.body); a.text("code") == "" {
			t.Errorf("%s", a.Raw)
		}
	}
	if a := l.tr.staff.must(t, 202, "POST", l.path("/unlock"), mine); a.text("state") != "unlock_requested" {
		t.Errorf("%s", a.Raw)
	}
	if a := l.tr.staff.must(t, 409, "POST", l.path("/unlock"), mine); a.text("code") != "second_person_needed" {
		t.Errorf("%s", a.Raw)
	}
	body, _ := json.Marshal(theirs)
	a, err := l.second.do(t.Context(), 0, "POST", l.path("/unlock"), l.second.token, body)
	if err != nil || a.Status != 200 && a.Status != 202 {
		t.Fatalf("%d %s %v", a.Status, a.Raw, err)
	}
	eventually(t, 30*time.Second, func() string {
		if a := l.tr.staff.must(t, 200, "GET", l.path("/lock"), nil); a.text("state") != "active" {
			return string(a.Raw)
		}
		return ""
	})
	if err := pause(t.Context(), 700*time.Millisecond); err != nil { // until both doors know
		t.Fatal(err)
	}
}
