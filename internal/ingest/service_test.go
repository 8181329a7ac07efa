package ingest

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/eprod/eprod/internal/auth"
	"github.com/eprod/eprod/internal/errs"
	"github.com/eprod/eprod/internal/kafka"
	"github.com/eprod/eprod/internal/keyring"
	"github.com/eprod/eprod/internal/limit"
	"github.com/eprod/eprod/internal/participant"
	"github.com/eprod/eprod/internal/questionnaire"
	"github.com/eprod/eprod/internal/study"
	"github.com/eprod/eprod/internal/submission"
	"github.com/eprod/eprod/internal/task"
	"github.com/eprod/eprod/internal/testenv"
	"github.com/eprod/eprod/internal/web"
)

// fakes stand for everything behind the door; each may be away.
type fakes struct {
	mu         sync.Mutex
	definition *questionnaire.Definition
	plan       task.Plan
	status     string
	profile    *participant.Profile
	warm       bool // the profile is in memory
	shardAway  error
	logAway    error
	spoolAway  error
	sent       []submission.Record
	spooled    []submission.Record
	receipts   map[uuid.UUID]submission.Receipt
	remembered []submission.Receipt
	accepted   int
	refused    map[string]int
	lookups    int
}

func (f *fakes) Study(context.Context, int64) (study.Study, error) {
	return study.Study{ID: 3, Status: f.status}, nil
}
func (f *fakes) Plan(context.Context, int64) (task.Plan, error) { return f.plan, nil }
func (f *fakes) Definition(_ context.Context, _ int64, canonical string) (*questionnaire.Definition, error) {
	if canonical != f.definition.Canonical() {
		return nil, errs.New(errs.Unprocessable, "invalid_response", "unknown questionnaire")
	}
	return f.definition, nil
}
func (f *fakes) Remembered(int64) (*participant.Profile, bool) { return f.profile, f.warm }
func (f *fakes) Get(context.Context, int64) (*participant.Profile, error) {
	if f.shardAway != nil {
		return nil, f.shardAway
	}
	return f.profile, nil
}
func (f *fakes) Send(_ context.Context, m kafka.Message) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.logAway != nil {
		return f.logAway
	}
	r, err := submission.FromMessage(m)
	f.sent = append(f.sent, r)
	return err
}
func (f *fakes) Add(_ context.Context, r *submission.Record) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.spoolAway == nil {
		f.spooled = append(f.spooled, *r)
	}
	return f.spoolAway
}
func (f *fakes) Accepted(bool) { f.mu.Lock(); defer f.mu.Unlock(); f.accepted++ }
func (f *fakes) Refused(code string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.refused[code]++
}
func (f *fakes) Remember(r submission.Receipt) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.remembered = append(f.remembered, r)
}

// records is the shards' memory of earlier submissions.
type records struct{ *fakes }

func (r records) Receipt(_ context.Context, _ int64, id uuid.UUID) (submission.Receipt, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.lookups++
	if receipt, ok := r.receipts[id]; ok {
		return receipt, nil
	}
	return submission.Receipt{}, errs.Absent("submission")
}

// memory forgets everything.
type memory struct{ *fakes }

func (memory) Receipt(context.Context, int64, uuid.UUID) (submission.Receipt, bool) {
	return submission.Receipt{}, false
}

type counter func() int64

func (c counter) Next() (int64, error) { return c(), nil }

var now = time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)

const asked = `{"resourceType":"Questionnaire","url":"https://example.org/q","version":"1","status":"active","item":[{"linkId":"a","type":"integer","required":true}]}`

func newDoor(t testing.TB) (*Service, *fakes, int64) {
	t.Helper()
	definition, findings := questionnaire.Compile([]byte(asked), questionnaire.DefaultLimits())
	if len(findings) > 0 {
		t.Fatal(findings)
	}
	schedule, findings := task.NewSchedule(1, task.Design{Rules: []task.Rule{{ID: "r", Questionnaire: definition.Canonical(), Anchor: "enrolment", Offset: "P0D", Repeat: &task.Repeat{Every: "P1D", Until: "P90D"},
		Windows: []task.Window{{Opens: "08:00", Due: "12:00", Closes: "20:00"}}}}}, task.Known{})
	if len(findings) > 0 {
		t.Fatal(findings)
	}
	ring, err := keyring.New([]keyring.MasterKey{{ID: 1, Secret: make([]byte, 32)}}, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	wrapped, err := ring.NewDataKey(7)
	if err != nil {
		t.Fatal(err)
	}
	key, err := ring.DataKey(7, wrapped)
	if err != nil {
		t.Fatal(err)
	}
	f := &fakes{definition: definition, plan: task.Plan{schedule}, status: study.Active, receipts: map[uuid.UUID]submission.Receipt{}, refused: map[string]int{}}
	f.profile = &participant.Profile{ID: 7, Study: 3, Status: participant.ActiveStatus, Key: key, Person: task.Person{ID: 7, Study: 3,
		Anchors: map[string]task.Date{"enrolment": {Year: 2026, Month: 11, Day: 1}}, Zones: []task.ZoneChange{{Zone: "UTC"}}}}
	engine := task.NewEngine()
	config := DefaultConfig()
	s, err := New(config, Parts{Catalog: f, People: f, Engine: engine, Log: f, Breaker: limit.NewBreaker("the log", config.Breaker, nil), Spool: f, Records: records{f},
		IDs: counter(testenv.IDs()), Memory: memory{f}, Intake: ring.Intake(), Partitions: 4, Now: func() time.Time { return now }, Meter: f, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	tasks := engine.Generate(task.Plan{schedule}, f.profile.Person, now, now.Add(time.Second))
	return s, f, tasks[0].ID
}

func signedIn(t *testing.T) context.Context {
	return auth.With(t.Context(), auth.Principal{Kind: auth.KindParticipant, ID: 7, Study: 3})
}

func request(taskID int64, id uuid.UUID, value, authored string) []byte {
	return fmt.Appendf(nil, `{"task":"%d","response":{"resourceType":"QuestionnaireResponse","identifier":{"value":"%s"},"questionnaire":"https://example.org/q|1","status":"completed","authored":"%s","item":[{"linkId":"a","answer":[{"valueInteger":%s}]}]}}`,
		taskID, id, authored, value)
}

const fresh, old = "2026-11-23T12:00:00Z", "2026-11-23T11:00:00Z"

func TestAcceptIsDurableFirst(t *testing.T) {
	s, f, taskID := newDoor(t)
	id := uuid.New()
	receipt, err := s.Accept(signedIn(t), request(taskID, id, "1", fresh), "request")
	if err != nil {
		t.Fatal(err)
	}
	if len(f.sent) != 1 || f.sent[0].ID != receipt.ID || f.sent[0].Submission != id || f.sent[0].Task != taskID || receipt.State != submission.Received {
		t.Fatalf("sent %+v for %+v", f.sent, receipt)
	}
	body, err := f.sent[0].Open(f.profile.Key)
	if err != nil || !json.Valid(body) || bytes.Contains(f.sent[0].Sealed, []byte("valueInteger")) {
		t.Errorf("the body does not travel sealed with the participant's key: %v", err)
	}
	again, err := s.Accept(signedIn(t), request(taskID, id, "1", fresh), "request")
	if err != nil || again.ID != receipt.ID || len(f.sent) != 1 {
		t.Errorf("the same again: %+v %v", again, err)
	}
	if len(f.remembered) != 1 || f.lookups != 0 {
		t.Errorf("%d receipts shared, %d lookups of a fresh answer", len(f.remembered), f.lookups)
	}
}

func TestWhenThingsAreAway(t *testing.T) {
	away := errs.Away("it", errors.New("down"))
	for _, c := range []struct {
		name                 string
		log, spool, shard    error
		sent, spooled, state int
		key                  submission.Key
	}{
		{"Nothing", nil, nil, nil, 1, 0, 202, submission.KeyParticipant},
		{"Log", away, nil, nil, 0, 1, 202, submission.KeyParticipant},
		{"LogAndSpool", away, away, nil, 0, 0, 503, 0},
		{"Shard", nil, away, away, 1, 0, 202, submission.KeyIntake},
		{"Everything", away, away, away, 0, 0, 503, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			s, f, taskID := newDoor(t)
			f.logAway, f.spoolAway, f.shardAway = c.log, c.spool, c.shard
			id := uuid.New()
			_, err := s.Accept(signedIn(t), request(taskID, id, "1", fresh), "request")
			status := 202
			if err != nil {
				status = errs.Status(errs.KindOf(err))
			}
			if status != c.state || len(f.sent) != c.sent || len(f.spooled) != c.spooled {
				t.Fatalf("status %d, %d sent, %d spooled: %v", status, len(f.sent), len(f.spooled), err)
			}
			for _, r := range append(f.sent, f.spooled...) {
				if r.Key != c.key {
					t.Errorf("sealed with key %d, want %d", r.Key, c.key)
				}
			}
			if status == 503 { // nothing half done: the same body is free to come again
				f.logAway, f.spoolAway = nil, nil
				if _, err := s.Accept(signedIn(t), request(taskID, id, "1", fresh), "request"); err != nil {
					t.Errorf("after the outage: %v", err)
				}
			}
		})
	}
}

func TestRefusals(t *testing.T) {
	s, f, taskID := newDoor(t)
	first := uuid.New()
	if _, err := s.Accept(signedIn(t), request(taskID, first, "1", fresh), ""); err != nil {
		t.Fatal(err)
	}
	known := uuid.New()
	f.receipts[known] = submission.Receipt{ID: 99, Submission: known, SHA256: [32]byte{1}, State: submission.Stored}
	yesterday := s.Engine.Generate(f.plan, f.profile.Person, now.AddDate(0, 0, -1), now.AddDate(0, 0, -1).Add(time.Second))[0].ID
	tomorrow := s.Engine.Generate(f.plan, f.profile.Person, now.AddDate(0, 0, 1), now.AddDate(0, 0, 1).Add(time.Second))[0].ID
	otherVersion := bytes.Replace(request(taskID, uuid.New(), "1", fresh), []byte("q|1"), []byte("q|2"), 1)
	for _, c := range []struct {
		name string
		ctx  context.Context
		body []byte
		code string
	}{
		{"Nobody", t.Context(), request(taskID, uuid.New(), "1", fresh), "unauthenticated"},
		{"Staff", auth.With(t.Context(), auth.Principal{Kind: auth.KindStaff, ID: 1}), request(taskID, uuid.New(), "1", fresh), "forbidden"},
		{"ChangedBody", signedIn(t), request(taskID, first, "2", fresh), "submission_conflict"},
		{"ChangedBodyOfLongAgo", signedIn(t), request(taskID, known, "2", old), "submission_conflict"},
		{"TaskAnswered", signedIn(t), request(taskID, uuid.New(), "1", fresh), "task_completed"},
		{"UnknownTask", signedIn(t), request(12345, uuid.New(), "1", fresh), "not_found"},
		{"Closed", signedIn(t), request(yesterday, uuid.New(), "1", fresh), "task_closed"},
		{"NotOpen", signedIn(t), request(tomorrow, uuid.New(), "1", fresh), "task_not_open"},
		{"OtherVersion", signedIn(t), otherVersion, "invalid_response"},
		{"WrongType", signedIn(t), request(taskID, uuid.New(), `"x"`, fresh), "invalid_response"},
	} {
		t.Run(c.name, func(t *testing.T) {
			before := len(f.sent)
			_, err := s.Accept(c.ctx, c.body, "")
			if refusal, ok := errs.As(err); !ok || refusal.Code != c.code {
				t.Fatalf("got %v, want %s", err, c.code)
			}
			if len(f.sent) != before || len(f.spooled) != 0 {
				t.Error("a refused submission went on")
			}
		})
	}
	f.status = study.Locked
	if _, err := s.Accept(signedIn(t), request(taskID, uuid.New(), "1", fresh), ""); !strings.Contains(fmt.Sprint(err), "study_locked") {
		t.Errorf("locked study: %v", err)
	}
	f.status, f.profile = study.Active, &participant.Profile{ID: 7, Study: 3, Status: participant.Withdrawn}
	if _, err := s.Accept(signedIn(t), request(taskID, uuid.New(), "1", fresh), ""); errs.KindOf(err) != errs.Forbidden {
		t.Errorf("withdrawn participant: %v", err)
	}
}

// TestRetryThroughAnotherProcess: what a shard knows already keeps its receipt when it comes again later.
func TestRetryThroughAnotherProcess(t *testing.T) {
	s, f, taskID := newDoor(t)
	id := uuid.New()
	body := request(taskID, id, "1", old)
	e, err := decode(body)
	if err != nil {
		t.Fatal(err)
	}
	f.receipts[id] = submission.Receipt{ID: 99, Submission: id, SHA256: e.sum, State: submission.Stored}
	receipt, err := s.Accept(signedIn(t), body, "")
	if err != nil || receipt.ID != 99 || receipt.State != submission.Stored || len(f.sent) != 0 {
		t.Errorf("%+v %v, %d sent", receipt, err, len(f.sent))
	}
}

// TestDoorHTTP: what is refused before the body is read, and the shape of the answer.
func TestDoorHTTP(t *testing.T) {
	s, f, taskID := newDoor(t)
	server, err := web.New(web.DefaultConfig(), web.Deps{})
	if err != nil {
		t.Fatal(err)
	}
	slots := limit.NewInFlight(1)
	(&Door{Service: s, Slots: slots}).Routes(server.Gin(), server.API())
	post := func(kind string, body []byte) *httptest.ResponseRecorder {
		req := httptest.NewRequest(http.MethodPost, "/api/v1/submissions", bytes.NewReader(body)).WithContext(signedIn(t))
		req.Header.Set("Content-Type", kind)
		w := httptest.NewRecorder()
		server.Handler().ServeHTTP(w, req)
		return w
	}
	good := request(taskID, uuid.New(), "1", fresh)
	if w := post("text/plain", good); w.Code != 415 {
		t.Errorf("text/plain: %d", w.Code)
	}
	if w := post("application/json", make([]byte, 300<<10)); w.Code != 413 {
		t.Errorf("300 KiB: %d", w.Code)
	}
	release, _ := slots.TryAcquire()
	if w := post("application/json", good); w.Code != 503 || w.Header().Get("Retry-After") == "" {
		t.Errorf("full: %d, Retry-After %q", w.Code, w.Header().Get("Retry-After"))
	}
	release()
	w := post("application/json; charset=utf-8", good)
	var answer submission.ReceiptBody
	if err := json.Unmarshal(w.Body.Bytes(), &answer); err != nil || w.Code != 202 || answer.State != "received" || len(answer.SHA256) != 64 {
		t.Errorf("%d %s %v", w.Code, w.Body, err)
	}
	if f.refused["overloaded"] != 1 || f.accepted != 1 {
		t.Errorf("counted %v, %d accepted", f.refused, f.accepted)
	}
}
