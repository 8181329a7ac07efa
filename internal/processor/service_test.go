package processor

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/eprod/eprod/internal/audit"
	"github.com/eprod/eprod/internal/db"
	"github.com/eprod/eprod/internal/errs"
	"github.com/eprod/eprod/internal/kafka"
	"github.com/eprod/eprod/internal/keyring"
	"github.com/eprod/eprod/internal/participant"
	"github.com/eprod/eprod/internal/questionnaire"
	"github.com/eprod/eprod/internal/study"
	"github.com/eprod/eprod/internal/submission"
	"github.com/eprod/eprod/internal/task"
	"github.com/eprod/eprod/internal/testenv"
)

// world is a study with participants in memory and real shards.
type world struct {
	t       *testing.T
	shards  *db.Shards
	ring    *keyring.Keyring
	people  people
	catalog *catalog
	service *Service
	meter   *meter
	log     bytes.Buffer
	next    func() int64
}

type people map[int64]*participant.Profile

func (p people) GetMany(_ context.Context, ids []int64) (map[int64]*participant.Profile, error) {
	out := map[int64]*participant.Profile{}
	for _, id := range ids {
		if profile, ok := p[id]; ok {
			out[id] = profile
		}
	}
	return out, nil
}

type catalog struct {
	status     string
	plan       task.Plan
	definition *questionnaire.Definition
	away       error
}

func (c *catalog) Study(context.Context, int64) (study.Study, error) {
	return study.Study{ID: 3, Status: c.status}, c.away
}
func (c *catalog) Plan(context.Context, int64) (task.Plan, error) { return c.plan, nil }
func (c *catalog) Definition(_ context.Context, _ int64, canonical string) (*questionnaire.Definition, error) {
	if canonical != c.definition.Canonical() {
		return nil, errs.New(errs.Unprocessable, "invalid_response", "unknown")
	}
	return c.definition, nil
}

type meter struct {
	mu                                               sync.Mutex
	stored, quarantined, conflicts, duplicates, late int
}

func (m *meter) Processed(stored, quarantined, conflicts, duplicates, late int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.stored, m.quarantined, m.conflicts, m.duplicates = m.stored+stored, m.quarantined+quarantined, m.conflicts+conflicts, m.duplicates+duplicates
	m.late += late
}
func (*meter) Batch(int, time.Duration) {}

type ids func() int64

func (f ids) NextN(n int) ([]int64, error) {
	out := make([]int64, n)
	for i := range out {
		out[i] = f()
	}
	return out, nil
}

const theQuestionnaire = `{"resourceType":"Questionnaire","url":"https://example.org/q","version":"1","status":"active","item":[{"linkId":"a","type":"integer","required":true}]}`

var received = time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)

func newWorld(t *testing.T, shards *db.Shards) *world {
	t.Helper()
	w := &world{t: t, shards: shards, people: people{}, meter: &meter{}, next: testenv.IDs()}
	var err error
	if w.ring, err = keyring.New([]keyring.MasterKey{{ID: 1, Secret: make([]byte, 32)}}, rand.Reader); err != nil {
		t.Fatal(err)
	}
	definition, findings := questionnaire.Compile([]byte(theQuestionnaire), questionnaire.DefaultLimits())
	if len(findings) > 0 {
		t.Fatal(findings)
	}
	rules := []task.Rule{{ID: "r", Questionnaire: definition.Canonical(), Anchor: "enrolment", Offset: "P0D", Repeat: &task.Repeat{Every: "P1D", Until: "P90D"},
		Windows: []task.Window{{Opens: "00:00", Due: "12:00", Closes: "00:00"}}}}
	schedule, findings := task.NewSchedule(1, task.Design{Rules: rules}, task.Known{})
	if len(findings) > 0 {
		t.Fatal(findings)
	}
	w.catalog = &catalog{status: study.Active, plan: task.Plan{schedule}, definition: definition}
	for id := range int64(60) {
		wrapped, err := w.ring.NewDataKey(id + 1)
		if err != nil {
			t.Fatal(err)
		}
		key, err := w.ring.DataKey(id+1, wrapped)
		if err != nil {
			t.Fatal(err)
		}
		w.people[id+1] = &participant.Profile{ID: id + 1, Study: 3, Site: 5, Status: participant.ActiveStatus, Key: key,
			Person: task.Person{ID: id + 1, Study: 3, Anchors: map[string]task.Date{"enrolment": {Year: 2026, Month: 11, Day: 1}}, Zones: []task.ZoneChange{{Zone: "UTC"}}}}
	}
	w.service = New(DefaultConfig(), Parts{Catalog: w.catalog, People: w.people, Engine: task.NewEngine(), Shards: shards, Intake: w.ring.Intake(),
		IDs: ids(w.next), Now: func() time.Time { return received.Add(time.Second) }, Meter: w.meter, Logger: slog.New(slog.NewTextHandler(&w.log, nil))})
	ctx, stop := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { _ = w.service.Run(ctx) })
	t.Cleanup(func() { stop(); running.Wait() })
	return w
}

// taskOf returns the participant's task of the day.
func (w *world) taskOf(id int64) int64 {
	tasks := w.service.Engine.Generate(w.catalog.plan, w.people[id].Person, received, received.Add(time.Second))
	if len(tasks) != 1 {
		w.t.Fatalf("%d open tasks", len(tasks))
	}
	return tasks[0].ID
}

func body(id uuid.UUID, value string) []byte {
	return fmt.Appendf(nil, `{"resourceType":"QuestionnaireResponse","identifier":{"value":"%s"},"questionnaire":"https://example.org/q|1","status":"completed","authored":"2026-11-23T12:00:00Z","item":[{"linkId":"a","answer":[{"valueInteger":%s}]}]}`, id, value)
}

// record seals a body as the door does.
func (w *world) record(participant int64, id uuid.UUID, response []byte, key submission.Key) submission.Record {
	w.t.Helper()
	r := submission.Record{ID: w.next(), Participant: participant, Study: 3, Submission: id, ReceivedAt: received, SHA256: sha256.Sum256(response), Key: key, Source: "test"}
	if w.people[participant] != nil {
		r.Task = w.taskOf(participant)
	}
	sealer := w.ring.Intake()
	if key == submission.KeyParticipant {
		sealer = w.people[participant].Key
	}
	var err error
	if err = r.Seal(sealer, response); err != nil {
		w.t.Fatal(err)
	}
	return r
}

func (w *world) handle(records ...submission.Record) error {
	batch := make([]kafka.Message, len(records))
	for i := range records {
		batch[i] = records[i].Message(0)
		batch[i].Offset = int64(i)
	}
	return w.service.Handle(w.t.Context(), batch)
}

// count returns the rows of a table over all shards.
func (w *world) count(table string) int {
	w.t.Helper()
	total := 0
	for _, shard := range w.shards.All() {
		var n int64
		what := "COUNT(*)"
		if table == "outbox" {
			what = "COALESCE(SUM(events), 0)" // events share rows
		}
		if err := shard.Read(w.t.Context()).Table(table).Select(what).Scan(&n).Error; err != nil {
			w.t.Fatal(err)
		}
		total += int(n)
	}
	return total
}

func (w *world) want(table string, n int) {
	w.t.Helper()
	if got := w.count(table); got != n {
		w.t.Errorf("%d rows in %s, want %d", got, table, n)
	}
}

func eachWorld(t *testing.T, test func(t *testing.T, w *world)) {
	for dialect, shards := range testenv.Shards(t) {
		t.Run(dialect, func(t *testing.T) { test(t, newWorld(t, shards)) })
	}
}

// TestStoredOnceHoweverOften: the same batch, whole and in parts, leaves each submission once with its task, audit and
// outbox rows.
func TestStoredOnceHoweverOften(t *testing.T) {
	eachWorld(t, func(t *testing.T, w *world) {
		var batch []submission.Record
		for id := range int64(50) {
			u := uuid.New()
			batch = append(batch, w.record(id+1, u, body(u, "1"), submission.KeyParticipant))
		}
		for _, part := range [][]submission.Record{batch[:20], batch, batch[10:40], batch} {
			if err := w.handle(part...); err != nil {
				t.Fatal(err)
			}
		}
		for _, table := range []string{"receipt", "response", "task_completion", "audit", "outbox"} {
			w.want(table, 50)
		}
		if w.meter.stored != 50 || w.meter.duplicates != 20+30+50 {
			t.Errorf("counted %d stored and %d duplicates", w.meter.stored, w.meter.duplicates)
		}
	})
}

// TestPartitionsTogether: batches of many partitions at once, some of them twice, leave each submission once.
func TestPartitionsTogether(t *testing.T) {
	eachWorld(t, func(t *testing.T, w *world) {
		var partitions sync.WaitGroup
		for p := range int64(10) {
			var batch []submission.Record
			for id := p*6 + 1; id <= p*6+6; id++ {
				u := uuid.New()
				batch = append(batch, w.record(id, u, body(u, "1"), submission.KeyParticipant))
			}
			for range 1 + p%2 {
				partitions.Go(func() {
					if err := w.handle(batch...); err != nil {
						t.Error(err)
					}
				})
			}
		}
		partitions.Wait()
		for _, table := range []string{"receipt", "response", "task_completion", "audit", "outbox"} {
			w.want(table, 60)
		}
	})
}

func TestFates(t *testing.T) {
	eachWorld(t, func(t *testing.T, w *world) {
		first, second := uuid.New(), uuid.New()
		stored := w.record(1, first, body(first, "1"), submission.KeyParticipant)
		invalid := w.record(2, second, body(second, `"x"`), submission.KeyParticipant)
		secondOfTask := w.record(1, second, body(second, "2"), submission.KeyParticipant)
		changed := w.record(1, first, body(first, "9"), submission.KeyParticipant)
		stranger := w.record(900, first, body(first, "1"), submission.KeyIntake)
		tampered := w.record(3, first, body(first, "1"), submission.KeyParticipant)
		tampered.Sealed[20] ^= 1
		otherStudy := w.record(4, first, body(first, "1"), submission.KeyParticipant)
		otherStudy.Study = 99
		unknownTask := w.record(5, first, body(first, "1"), submission.KeyParticipant)
		unknownTask.Task = 12345
		tooLate := w.record(6, first, body(first, "1"), submission.KeyParticipant)
		tooLate.ReceivedAt = received.AddDate(0, 0, 5)
		w.people[7].Status = participant.Withdrawn
		withdrawn := w.record(7, first, body(first, "1"), submission.KeyParticipant)
		all := []submission.Record{stored, invalid, secondOfTask, changed, stranger, tampered, otherStudy, unknownTask, tooLate, withdrawn}
		for range 2 {
			if err := w.handle(all...); err != nil {
				t.Fatal(err)
			}
		}
		w.want("response", 1)
		w.want("conflict", 1)
		w.want("quarantine", 8)
		w.want("task_completion", 1)
		w.want("audit", 10)
		w.want("outbox", 18) // one event each, and a dead letter for each quarantined
		reasons := map[int64]string{}
		for _, shard := range w.shards.All() {
			var rows []struct {
				ID     int64
				Reason string
			}
			if err := shard.Read(t.Context()).Table("quarantine").Select("id", "reason").Find(&rows).Error; err != nil {
				t.Fatal(err)
			}
			for _, r := range rows {
				reasons[r.ID] = r.Reason
			}
		}
		for id, want := range map[int64]string{invalid.ID: ReasonInvalid, secondOfTask.ID: ReasonTaskCompleted, stranger.ID: ReasonUnknownParticipant, tampered.ID: ReasonSealed,
			otherStudy.ID: ReasonUnknownParticipant, unknownTask.ID: ReasonUnknownTask, tooLate.ID: ReasonTaskWindow, withdrawn.ID: ReasonWithdrawn} {
			if reasons[id] != want {
				t.Errorf("record %d is quarantined for %q, want %q", id, reasons[id], want)
			}
		}
	})
}

// TestLockedStudy: once a study is closed on the shards, nothing changes any more, however often its records come again; what the shards
// have never seen is kept aside. While it closes, what was accepted before still comes in.
func TestLockedStudy(t *testing.T) {
	eachWorld(t, func(t *testing.T, w *world) {
		stand := func(standing db.Standing) {
			t.Helper()
			if err := w.shards.Each(t.Context(), func(ctx context.Context, d *db.DB) error { return d.SetStanding(ctx, 3, standing, 1) }); err != nil {
				t.Fatal(err)
			}
		}
		ids := []uuid.UUID{uuid.New(), uuid.New(), uuid.New()}
		before := w.record(1, ids[0], body(ids[0], "1"), submission.KeyParticipant)
		during := w.record(2, ids[1], body(ids[1], "1"), submission.KeyParticipant)
		after := w.record(3, ids[2], body(ids[2], "1"), submission.KeyParticipant)
		changed := w.record(1, ids[0], body(ids[0], "9"), submission.KeyParticipant)
		another := w.record(1, ids[1], body(ids[1], "4"), submission.KeyParticipant)
		if err := w.handle(before); err != nil {
			t.Fatal(err)
		}
		stand(db.Closing)
		if err := w.handle(during, before); err != nil {
			t.Fatal(err)
		}
		stand(db.Closed)
		for range 3 {
			if err := w.handle(before, during, after, changed, another); err != nil {
				t.Fatal(err)
			}
		}
		for table, n := range map[string]int{"response": 2, "receipt": 2, "audit": 2, "outbox": 2, "conflict": 0, "quarantine": 0, "task_completion": 2, "late_record": 3} {
			w.want(table, n)
		}
		if w.meter.stored != 2 || w.meter.late != 9 {
			t.Errorf("counted %d stored, %d late", w.meter.stored, w.meter.late)
		}
		store := &submission.Store{Shards: w.shards}
		r, err := store.Receipt(t.Context(), 3, ids[2])
		if err != nil || r.State != submission.Quarantined || len(r.Findings) != 1 || r.Findings[0].Code != submission.ReasonLocked || r.SHA256 != after.SHA256 {
			t.Errorf("receipt of a late submission: %+v, %v", r, err)
		}
		if r, err := store.Receipt(t.Context(), 1, ids[0]); err != nil || r.State != submission.Stored || r.SHA256 != before.SHA256 {
			t.Errorf("receipt of a stored submission that came again with another body: %+v, %v", r, err)
		}
		stand(db.Open)
		if err := w.handle(after); err != nil {
			t.Fatal(err)
		}
		w.want("response", 3)
	})
}

// TestUnreadableRecordIsKept: even what is no record at all stops nothing and is kept.
func TestUnreadableRecordIsKept(t *testing.T) {
	eachWorld(t, func(t *testing.T, w *world) {
		u := uuid.New()
		good := w.record(1, u, body(u, "1"), submission.KeyParticipant)
		junk := kafka.Message{Topic: submission.Topic, Partition: 1, Offset: 7, Value: []byte("junk")}
		for range 2 {
			if err := w.service.Handle(t.Context(), []kafka.Message{junk, good.Message(0)}); err != nil {
				t.Fatal(err)
			}
		}
		w.want("response", 1)
		w.want("quarantine", 1)
		if strings.Contains(w.log.String(), "junk") {
			t.Error("the log shows a body")
		}
	})
}

// TestIntakeKeyIsReplaced: what the door sealed with its own key is stored under the participant's.
func TestIntakeKeyIsReplaced(t *testing.T) {
	eachWorld(t, func(t *testing.T, w *world) {
		u := uuid.New()
		response := body(u, "1")
		if err := w.handle(w.record(1, u, response, submission.KeyIntake)); err != nil {
			t.Fatal(err)
		}
		list, err := (&submission.Store{Shards: w.shards}).Responses(t.Context(), submission.Filter{Study: 3, Limit: 2})
		if err != nil || len(list) != 1 {
			t.Fatal(list, err)
		}
		r, err := (&submission.Store{Shards: w.shards}).Response(t.Context(), list[0].ID)
		if err != nil || r.Key != submission.KeyParticipant {
			t.Fatalf("%+v %v", r, err)
		}
		opened, err := r.Open(w.people[1].Key)
		if err != nil || !bytes.Equal(opened, response) {
			t.Errorf("%v: the body is not the one received", err)
		}
	})
}

// TestTransientFailureKeepsTheBatch: a store that is away quarantines nothing.
func TestTransientFailureKeepsTheBatch(t *testing.T) {
	eachWorld(t, func(t *testing.T, w *world) {
		u := uuid.New()
		r := w.record(1, u, body(u, "1"), submission.KeyParticipant)
		w.catalog.away = errs.Away("metadata", errors.New("down"))
		if err := w.handle(r); errs.KindOf(err) != errs.Unavailable {
			t.Fatalf("got %v, want Unavailable", err)
		}
		w.want("quarantine", 0)
		w.want("receipt", 0)
		w.catalog.away = nil
		if err := w.handle(r); err != nil {
			t.Fatal(err)
		}
		w.want("response", 1)
	})
}

// TestRefusedRowStopsNothing: one row that the database refuses is found and quarantined; the rest of its batch is stored.
func TestRefusedRowStopsNothing(t *testing.T) {
	for dialect, shards := range testenv.Shards(t) {
		if dialect != "mysql" {
			continue // SQLite takes text of any length
		}
		w := newWorld(t, shards)
		var batch []submission.Record
		for id := range int64(9) {
			u := uuid.New()
			response := body(u, "1")
			if id == 4 { // a time with more digits than its column has room for
				response = bytes.Replace(response, []byte("12:00:00Z"), []byte("12:00:00."+strings.Repeat("0", 30)+"Z"), 1)
			}
			batch = append(batch, w.record(id+1, u, response, submission.KeyParticipant))
		}
		for range 2 {
			if err := w.handle(batch...); err != nil {
				t.Fatal(err)
			}
		}
		w.want("response", 8)
		w.want("quarantine", 1)
		if !strings.Contains(w.log.String(), "the store refuses a record") {
			t.Error("operators are not told")
		}
	}
}

// TestEvidenceHoldsNoAnswer: audit and outbox name a response by its hash only.
func TestEvidenceHoldsNoAnswer(t *testing.T) {
	eachWorld(t, func(t *testing.T, w *world) {
		u := uuid.New()
		if err := w.handle(w.record(1, u, body(u, "1234567"), submission.KeyParticipant)); err != nil {
			t.Fatal(err)
		}
		entries, err := audit.List(t.Context(), w.shards.For(1), audit.Filter{Study: 3})
		if err != nil || len(entries) != 1 {
			t.Fatal(entries, err)
		}
		if strings.Contains(string(entries[0].New), "1234567") || !strings.Contains(string(entries[0].New), "sha256") || entries[0].Actor != 1 || entries[0].Source != "test" {
			t.Errorf("audit entry %+v", entries[0])
		}
	})
}
