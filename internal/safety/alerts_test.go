package safety

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"
	sdk "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"gorm.io/gorm"

	"github.com/eprod/eprod/internal/audit"
	"github.com/eprod/eprod/internal/auth"
	"github.com/eprod/eprod/internal/db"
	"github.com/eprod/eprod/internal/errs"
	"github.com/eprod/eprod/internal/kafka"
	"github.com/eprod/eprod/internal/keyring"
	"github.com/eprod/eprod/internal/outbox"
	"github.com/eprod/eprod/internal/participant"
	"github.com/eprod/eprod/internal/questionnaire"
	"github.com/eprod/eprod/internal/study"
	"github.com/eprod/eprod/internal/submission"
	"github.com/eprod/eprod/internal/testenv"
	"github.com/eprod/eprod/internal/trace"
)

const wardStudy, wardSite = 3, 5

// ward is a study with participants and responses in memory, and real databases for rules and alerts. It is also the log, which may be
// away, and whoever tells people.
type ward struct {
	t          *testing.T
	clock      *testenv.FakeClock
	next       func() int64
	shards     *db.Shards
	store      *Store
	raiser     *Raiser
	book       *Book
	key        *keyring.DataKey
	definition *questionnaire.Definition
	logged     bytes.Buffer
	logger     *slog.Logger

	mu                sync.Mutex
	site              study.Site
	responses         map[int64]submission.Response
	receipts          map[uuid.UUID]submission.State
	broken            error // of receipts
	refused           int
	raised            map[bool]int // by urgent
	unwatched, untold int
	gets              int
	logAway           error
	breaker           error
	sent              []kafka.Message
	told              []Told
	purposes          map[string]bool
	deaf              func(Told) error
}

func each(t *testing.T, test func(t *testing.T, w *ward)) {
	metas := testenv.Databases(t, "meta")
	for dialect, shards := range testenv.Shards(t) {
		t.Run(dialect, func(t *testing.T) { test(t, newWard(t, metas[dialect], shards)) })
	}
}

// cases runs a test for each case, on a ward without rules, rota and alerts.
func cases[C any](t *testing.T, list map[string]C, test func(t *testing.T, w *ward, c C)) {
	each(t, func(t *testing.T, w *ward) {
		for name, c := range list {
			t.Run(name, func(t *testing.T) {
				empty := func(d *db.DB, tables ...string) {
					for _, table := range tables {
						if err := d.Tx(t.Context(), func(tx *gorm.DB) error { return tx.Exec("DELETE FROM " + table).Error }); err != nil {
							t.Fatal(err)
						}
					}
				}
				empty(w.store.Meta, "safety_rules", "safety_rota")
				for _, d := range w.shards.All() {
					empty(d, "alert", "audit", "outbox")
				}
				test(t, newWard(t, w.store.Meta, w.shards), c)
			})
		}
	})
}

func newWard(t *testing.T, meta *db.DB, shards *db.Shards) *ward {
	w := &ward{t: t, clock: testenv.Clock(time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)), next: testenv.IDs(), shards: shards, definition: mood(t, "1"),
		site: study.Site{ID: wardSite, Code: "S01"}, responses: make(map[int64]submission.Response), receipts: make(map[uuid.UUID]submission.State), raised: make(map[bool]int), purposes: make(map[string]bool)}
	w.logger = slog.New(slog.NewTextHandler(&w.logged, nil))
	ring, err := keyring.New([]keyring.MasterKey{{ID: 1, Secret: make([]byte, 32)}}, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	w.key = ring.Intake()
	w.store = &Store{Meta: meta, Shards: shards, Mutable: func(*gorm.DB, int64) error { return nil }}
	w.raiser = &Raiser{Store: w.store, Receipts: w, IDs: w, Now: w.clock.Now, Meter: w, Logger: w.logger}
	w.book = NewBook(w.store, time.Second, w.clock.Now)
	return w
}

func (w *ward) NextN(n int) ([]int64, error) {
	out := make([]int64, n)
	for i := range out {
		out[i] = w.next()
	}
	return out, nil
}
func (w *ward) Study(context.Context, int64) (study.Study, error) {
	return study.Study{ID: wardStudy, Protocol: "EP-1", Zone: "UTC", Languages: []string{"en"}}, nil
}
func (w *ward) Site(context.Context, int64, string) (study.Site, error)    { return w.site, nil }
func (w *ward) SiteByID(context.Context, int64, int64) (study.Site, error) { return w.site, nil }
func (w *ward) Definition(context.Context, int64, string) (*questionnaire.Definition, error) {
	return w.definition, nil
}
func (w *ward) Versions(context.Context, int64, string) ([]*questionnaire.Definition, error) {
	return []*questionnaire.Definition{w.definition}, nil
}
func (w *ward) profile(id int64) *participant.Profile {
	return &participant.Profile{ID: id, Study: wardStudy, Site: wardSite, Number: fmt.Sprint("P-", id), Key: w.key}
}
func (w *ward) Get(_ context.Context, id int64) (*participant.Profile, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.gets++
	return w.profile(id), nil
}
func (w *ward) GetMany(_ context.Context, ids []int64) (map[int64]*participant.Profile, error) {
	out := make(map[int64]*participant.Profile)
	for _, id := range ids {
		out[id] = w.profile(id)
	}
	return out, nil
}
func (w *ward) ResponseOf(_ context.Context, _, id int64) (submission.Response, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.responses[id], nil
}
func (w *ward) Earlier(context.Context, int64, string, int64, int) ([]submission.Response, error) {
	return nil, nil
}
func (w *ward) Receipt(_ context.Context, _ int64, id uuid.UUID) (submission.Receipt, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.broken != nil {
		return submission.Receipt{}, w.broken
	}
	state, ok := w.receipts[id]
	if !ok {
		return submission.Receipt{}, errs.Absent("submission")
	}
	return submission.Receipt{State: state}, nil
}
func (w *ward) Alerts(n int, urgent bool) { w.count(func() { w.raised[urgent] += n }) }
func (w *ward) Refused(n int)             { w.count(func() { w.refused += n }) }
func (w *ward) Unwatched()                { w.count(func() { w.unwatched++ }) }
func (w *ward) Untold()                   { w.count(func() { w.untold++ }) }
func (w *ward) count(what func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	what()
}
func (w *ward) Send(_ context.Context, m kafka.Message) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.logAway != nil {
		return w.logAway
	}
	w.sent = append(w.sent, m)
	return nil
}
func (w *ward) Do(ctx context.Context, call func(ctx context.Context) error) error {
	if w.breaker != nil {
		return w.breaker
	}
	return call(ctx)
}

// Tell keeps what people are told; the same purpose again sends nothing.
func (w *ward) Tell(_ context.Context, t Told) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.deaf != nil {
		if err := w.deaf(t); err != nil {
			return err
		}
	}
	if !w.purposes[t.Purpose] {
		w.purposes[t.Purpose], w.told = true, append(w.told, t)
	}
	return nil
}

func (w *ward) consumer() *Consumer {
	return &Consumer{Book: w.book, Catalog: w, People: w, Responses: w, Raiser: w.raiser, Intake: w.key, Logger: w.logger}
}

func (w *ward) watch() *Watch {
	return NewWatch(DefaultConfig(), Parts{Book: w.book, People: w, Log: w, Breaker: w, Raiser: w.raiser, Partitions: 4, Meter: w, Logger: w.logger})
}

// publish makes the next version of the rules, from now on.
func (w *ward) publish(rules ...Rule) {
	w.t.Helper()
	w.clock.Advance(time.Second)
	was, err := w.store.Rules(w.t.Context(), wardStudy, 0)
	if err != nil && errs.KindOf(err) != errs.NotFound {
		w.t.Fatal(err)
	}
	is := Rules{Version: was.Version + 1, Rules: rules, At: w.clock.Now()}
	if err := w.store.PutRules(w.t.Context(), wardStudy, is, audit.Entry{ID: w.next(), At: is.At}); err != nil {
		w.t.Fatal(err)
	}
	w.clock.Advance(2 * time.Second) // until the book has seen it
}

// harm is a rule about the weight of an answer.
func harm(id string, above float64, urgent bool, steps ...Escalation) Rule {
	return Rule{ID: id, Questionnaire: moodURL, Severity: High, Urgent: urgent, Escalation: steps, When: Condition{Answer: &AnswerIs{LinkID: "harm", Operator: ">", Number: &above}}}
}

const daily = `{"resourceType":"QuestionnaireResponse","authored":"2026-11-23T12:00:00Z","item":[{"linkId":"harm","answer":[{"valueCoding":{"system":"s","code":"daily"}}]}]}`

// submitted is a daily thought of harm, received now.
func (w *ward) submitted(participant int64) submission.Response {
	w.t.Helper()
	r := submission.Response{Record: submission.Record{ID: w.next(), Participant: participant, Study: wardStudy, Submission: uuid.New(), ReceivedAt: w.clock.Now(), Key: submission.KeyParticipant},
		Questionnaire: moodURL, Version: "1"}
	if err := r.Seal(w.key, []byte(daily)); err != nil {
		w.t.Fatal(err)
	}
	w.responses[r.ID] = r
	return r
}

// event is what the processor tells of a submission, in a trace where one is given.
func (w *ward) event(r *submission.Response, kind, traceparent string) kafka.Message {
	payload := fmt.Appendf(nil, `{"id":"%d","study":"%d","participant":"%d","submission":%q,"receivedAt":%q,"questionnaire":%q,"version":"1"}`,
		r.ID, wardStudy, r.Participant, r.Submission, submission.Timestamp(r.ReceivedAt), moodURL)
	m := kafka.Message{Topic: submission.Events, Headers: []kafka.Header{{Key: outbox.HeaderType, Value: []byte(kind)}}, Value: payload}
	if traceparent != "" {
		m.Headers = append(m.Headers, kafka.Header{Key: trace.HeaderName, Value: []byte(traceparent)})
	}
	return m
}

// handle hands a batch in.
func (w *ward) handle(handle kafka.Handler, batch ...kafka.Message) {
	w.t.Helper()
	if err := handle(w.t.Context(), batch); err != nil {
		w.t.Fatal(err)
	}
}

// look lets the watch see a submission at the door.
func (w *ward) look(watch *Watch, r *submission.Response, traceparent string) {
	w.t.Helper()
	response, err := questionnaire.ParseResponse([]byte(daily))
	if err != nil {
		w.t.Fatal(err)
	}
	record := r.Record
	record.Trace = traceparent
	ctx, stop := context.WithCancel(w.t.Context())
	watch.Accepted(&record, w.definition, response)
	stop()
	if err := watch.Run(ctx); err != nil {
		w.t.Fatal(err)
	}
}

// alertsOf returns the alerts of a submission as "rule state", oldest first.
func (w *ward) alertsOf(r *submission.Response) []string {
	w.t.Helper()
	list, err := w.store.Alerts(w.t.Context(), AlertFilter{Study: wardStudy, Limit: 1000})
	if err != nil {
		w.t.Fatal(err)
	}
	out := []string{}
	for _, a := range slices.Backward(list) {
		if a.Submission == r.Submission {
			out = append(out, a.Rule+" "+a.SubmissionState)
		}
	}
	return out
}

// only returns the only alert of the study.
func (w *ward) only() Alert {
	w.t.Helper()
	list, err := w.store.Alerts(w.t.Context(), AlertFilter{Study: wardStudy, Limit: 10})
	if err != nil || len(list) != 1 {
		w.t.Fatalf("%d alerts, %v", len(list), err)
	}
	return list[0]
}

// entries returns the audit trail of the study as "action old new", oldest first.
func (w *ward) entries() []string {
	w.t.Helper()
	type row struct {
		ID                 int64
		Action             string
		OldValue, NewValue []byte
	}
	var all []row
	for _, d := range w.shards.All() {
		var some []row
		if err := d.Read(w.t.Context()).Table("audit").Where("study_id = ?", wardStudy).Find(&some).Error; err != nil {
			w.t.Fatal(err)
		}
		all = append(all, some...)
	}
	slices.SortFunc(all, func(a, b row) int { return int(a.ID - b.ID) })
	out := make([]string, len(all))
	for i, r := range all {
		out[i] = strings.Join(strings.Fields(r.Action+" "+string(r.OldValue)+" "+string(r.NewValue)), " ")
	}
	return out
}

func (w *ward) stand(standing db.Standing, fence int64) {
	w.t.Helper()
	if err := w.shards.Each(w.t.Context(), func(ctx context.Context, d *db.DB) error { return d.SetStanding(ctx, wardStudy, standing, fence) }); err != nil {
		w.t.Fatal(err)
	}
}

// TestSubmissionState: an alert that the door has raised follows what becomes of its submission, in whatever order and however often that is
// told, never goes back, and each change is in the audit trail.
func TestSubmissionState(t *testing.T) {
	type told struct {
		told []string
		want []string // after each
	}
	cases(t, map[string]told{
		"Stored":      {[]string{"response.store", "response.store"}, []string{"stored", "stored"}},
		"Quarantined": {[]string{"submission.quarantine", "submission.quarantine"}, []string{"quarantined", "quarantined"}},
		"Redriven":    {[]string{"submission.quarantine", "response.store", "submission.quarantine"}, []string{"quarantined", "stored", "stored"}},
		"Conflict":    {[]string{"response.store", "submission.conflict", "response.store"}, []string{"stored", "conflict", "conflict"}},
		"TooEarly":    {[]string{"submission.conflict", "response.store"}, []string{"conflict", "conflict"}},
	}, func(t *testing.T, w *ward, c told) {
		w.publish(harm("grave", 0, true))
		r := w.submitted(1001)
		w.look(w.watch(), &r, "")
		urgent := &UrgentConsumer{People: w, Raiser: w.raiser, Logger: w.logger}
		w.handle(urgent.Handle, w.sent...)
		if got := w.alertsOf(&r); !cmp.Equal(got, []string{"grave received"}) {
			t.Fatalf("at the door: %v", got)
		}
		trail := []string{fmt.Sprintf(`alert.raise {"rule":"grave","version":1,"severity":"high","submission":%q,"urgent":true}`, r.Submission)}
		was := "received"
		for i, kind := range c.told {
			w.handle(w.consumer().Handle, w.event(&r, kind, ""))
			w.handle(urgent.Handle, w.sent...) // once more, late
			if got := w.alertsOf(&r); !cmp.Equal(got, []string{"grave " + c.want[i]}) {
				t.Fatalf("after %v: %v", c.told[:i+1], got)
			}
			if c.want[i] != was {
				trail = append(trail, fmt.Sprintf(`alert.submission {"submissionState":%q} {"submissionState":%q}`, was, c.want[i]))
				was = c.want[i]
			}
		}
		if diff := cmp.Diff(trail, w.entries()); diff != "" {
			t.Error(diff)
		}
		if w.raised[true] != 1 || w.raised[false] != 0 {
			t.Errorf("counted %v", w.raised)
		}
	})
}

// TestLogAway: while the log does not take urgent findings, or its breaker is open, the alert is written directly; that of a submission whose
// fate was told before says so.
func TestLogAway(t *testing.T) {
	cases(t, map[string]func(w *ward){
		"Log":     func(w *ward) { w.logAway = errs.Away("the log", errors.New("hangs")) },
		"Breaker": func(w *ward) { w.breaker = errs.Away("the log", errors.New("open")) },
	}, func(t *testing.T, w *ward, away func(w *ward)) {
		w.publish(harm("grave", 0, true))
		away(w)
		first, second := w.submitted(1001), w.submitted(1200)
		w.receipts[second.Submission] = submission.Conflict
		watch := w.watch()
		w.look(watch, &first, "")
		w.look(watch, &second, "")
		if got := w.alertsOf(&first); !cmp.Equal(got, []string{"grave received"}) {
			t.Errorf("%v", got)
		}
		if got := w.alertsOf(&second); !cmp.Equal(got, []string{"grave conflict"}) {
			t.Errorf("the events of the submission had passed: %v", got)
		}
		if len(w.sent) > 0 || w.unwatched > 0 || w.raised[true] != 2 {
			t.Errorf("%d sent, %d unwatched, %v", len(w.sent), w.unwatched, w.raised)
		}
	})
}

// TestUrgentFindingsComeAgain: what may pass stops the partition; what can never be read is passed over.
func TestUrgentFindingsComeAgain(t *testing.T) {
	each(t, func(t *testing.T, w *ward) {
		w.publish(harm("grave", 0, true))
		r := w.submitted(1001)
		w.look(w.watch(), &r, "")
		urgent := &UrgentConsumer{People: w, Raiser: w.raiser, Logger: w.logger}
		w.broken = errors.New("a fault of ours")
		if err := urgent.Handle(t.Context(), w.sent); err == nil {
			t.Error("an internal failure passes for success")
		}
		w.broken = nil
		var one carried
		if err := json.Unmarshal(w.sent[0].Value, &one); err != nil {
			t.Fatal(err)
		}
		one.Response++
		moved, err := json.Marshal(one)
		if err != nil {
			t.Fatal(err)
		}
		w.handle(urgent.Handle, kafka.Message{Value: []byte(`{`)}, kafka.Message{Value: moved}, kafka.Message{Value: []byte(`{"participant":"1001","sealed":"?"}`)}, w.sent[0])
		if got := w.alertsOf(&r); !cmp.Equal(got, []string{"grave received"}) || strings.Count(w.logged.String(), "level=ERROR") != 3 {
			t.Errorf("%v\n%s", got, w.logged.String())
		}
		damaged := w.submitted(1002)
		damaged.Sealed = damaged.Sealed[1:]
		w.responses[damaged.ID] = damaged
		w.handle(w.consumer().Handle, w.event(&damaged, "response.store", ""), w.event(&r, "response.store", ""))
		if got := w.alertsOf(&r); !cmp.Equal(got, []string{"grave stored"}) {
			t.Errorf("behind a damaged response: %v", got)
		}
	})
}

// TestLockedStudyLosesNothingSilently: what is found in a study that is locked already cannot be kept, and is told; a replay of what was found
// before is no loss.
func TestLockedStudyLosesNothingSilently(t *testing.T) {
	each(t, func(t *testing.T, w *ward) {
		w.publish(harm("grave", 0, true), harm("any", -1, false))
		before, late := w.submitted(1001), w.submitted(1200)
		watch, urgent := w.watch(), &UrgentConsumer{People: w, Raiser: w.raiser, Logger: w.logger}
		w.look(watch, &before, "")
		w.look(watch, &late, "")
		w.handle(urgent.Handle, w.sent[0])
		w.handle(w.consumer().Handle, w.event(&before, "response.store", ""))
		w.stand(db.Closing, 1)
		w.handle(w.consumer().Handle, w.event(&before, "response.store", ""))
		w.stand(db.Closed, 1)
		w.handle(urgent.Handle, w.sent[0])
		w.handle(w.consumer().Handle, w.event(&before, "response.store", ""), w.event(&late, "submission.quarantine", ""))
		if w.refused != 0 || strings.Contains(w.logged.String(), "level=ERROR") {
			t.Errorf("%d refused by a replay\n%s", w.refused, w.logged.String())
		}
		w.handle(urgent.Handle, w.sent[1])
		if w.refused != 1 {
			t.Errorf("%d refused, want the urgent one", w.refused)
		}
		w.handle(w.consumer().Handle, w.event(&late, "response.store", ""))
		w.logAway = errors.New("away")
		w.look(watch, &late, "")
		if text := w.logged.String(); w.refused != 1+2+1 || strings.Count(text, "level=ERROR") != 3 || !strings.Contains(text, fmt.Sprint("submission.id=", late.ID)) {
			t.Errorf("%d refused\n%s", w.refused, text)
		}
		if got := w.alertsOf(&before); !cmp.Equal(got, []string{"grave stored", "any stored"}) || len(w.alertsOf(&late)) > 0 {
			t.Errorf("%v, %v", got, w.alertsOf(&late))
		}
	})
}

// TestRulesOfTheirTime: a submission is held against the version that was the newest when it was received, whenever it is stored and however
// often that is told.
func TestRulesOfTheirTime(t *testing.T) {
	each(t, func(t *testing.T, w *ward) {
		never := w.submitted(1001) // before there were rules
		w.clock.Advance(time.Second)
		w.publish(harm("first", 0, false))
		first, again := w.submitted(1002), w.submitted(1003)
		w.publish(harm("second", 0, false))
		second := w.submitted(1004)
		w.publish()
		third := w.submitted(1005)
		c := w.consumer()
		for range 2 {
			for r, want := range map[*submission.Response][]string{&never: {}, &first: {"first stored"}, &second: {"second stored"}, &third: {}, &again: {"first stored"}} {
				w.handle(c.Handle, w.event(r, "response.store", ""))
				if got := w.alertsOf(r); !cmp.Equal(got, want) {
					t.Errorf("%v, want %v", got, want)
				}
			}
		}
	})
}

// TestShardAway: an alert can be read although another shard does not answer; a list cannot.
func TestShardAway(t *testing.T) {
	each(t, func(t *testing.T, w *ward) {
		w.publish(harm("grave", 0, false))
		r := w.submitted(1001)
		w.handle(w.consumer().Handle, w.event(&r, "response.store", ""))
		a := w.only()
		for _, d := range w.shards.All() {
			if d != w.shards.For(r.Participant) {
				if err := d.Pool().Close(); err != nil {
					t.Fatal(err)
				}
			}
		}
		if got, err := w.store.Alert(t.Context(), wardStudy, a.ID); err != nil || got.ID != a.ID {
			t.Errorf("%+v, %v", got, err)
		}
		if _, err := w.store.Alert(t.Context(), wardStudy, a.ID+1); err == nil || errs.KindOf(err) == errs.NotFound {
			t.Errorf("an alert that may be on the shard that is away: %v", err)
		}
		if _, err := w.store.Alerts(t.Context(), AlertFilter{Study: wardStudy, Limit: 10}); err == nil {
			t.Error("a list without a shard passes for all")
		}
	})
}

// TestListReadsPeopleAtOnce: a page of alerts asks for its participants once.
func TestListReadsPeopleAtOnce(t *testing.T) {
	each(t, func(t *testing.T, w *ward) {
		w.publish(harm("grave", 0, false))
		for i := range int64(20) {
			r := w.submitted(1001 + i)
			w.handle(w.consumer().Handle, w.event(&r, "response.store", ""))
		}
		w.gets = 0
		s := &Service{Store: w.store, Catalog: w, People: w, Sealer: w.key, IDs: w, Now: w.clock.Now}
		list, err := s.Alerts(auth.With(t.Context(), auth.Principal{Kind: auth.KindStaff, ID: 1, Role: auth.Administrator}), AlertFilter{Study: wardStudy, Limit: 100})
		if err != nil || len(list) != 20 || list[0].Number != fmt.Sprint("P-", list[0].Participant) || w.gets != 0 {
			t.Errorf("%d alerts, %d reads of one participant, %v", len(list), w.gets, err)
		}
	})
}

// traced returns a context of a process with a tracer, and what is recorded there.
func traced(ctx context.Context) (context.Context, *tracetest.SpanRecorder) {
	recorder := tracetest.NewSpanRecorder()
	return trace.With(ctx, trace.New(sdk.NewTracerProvider(sdk.WithSpanProcessor(recorder)).Tracer("test"))), recorder
}

const (
	traceOne = "0af7651916cd43dd8448eb211c80319c"
	traceTwo = "1af7651916cd43dd8448eb211c80319c"
)

func parentOf(id string) string { return "00-" + id + "-b7ad6b7169203331-01" }

// names returns the names of what was recorded in a trace.
func names(recorder *tracetest.SpanRecorder, id string) map[string]int {
	out := make(map[string]int)
	for _, s := range recorder.Ended() {
		if s.SpanContext().TraceID().String() == id {
			name := s.Name()
			if strings.HasPrefix(name, "transaction ") {
				name = "transaction"
			}
			out[name]++
		}
	}
	return out
}

// TestTraces: an alert and its event are in the trace of their own submission, however many others are in the batch, followed or not; what is
// told of it is, too.
func TestTraces(t *testing.T) {
	each(t, func(t *testing.T, w *ward) {
		w.publish(harm("grave", 0, true))
		ctx, recorder := traced(t.Context())
		one, two, untraced := w.submitted(1001), w.submitted(1002), w.submitted(1003)
		batch := []kafka.Message{w.event(&one, "response.store", parentOf(traceOne)), w.event(&untraced, "response.store", ""), w.event(&two, "response.store", parentOf(traceTwo))}
		for _, some := range [][]kafka.Message{batch[:2], batch} {
			within, span := trace.Continue(ctx, "process", trace.Consumer, some[0].Traceparent(), some[len(some)-1].Traceparent())
			if err := w.consumer().Handle(within, some); err != nil {
				t.Fatal(err)
			}
			span.End(nil)
		}
		list, err := w.store.Alerts(t.Context(), AlertFilter{Study: wardStudy, Limit: 10})
		if err != nil {
			t.Fatal(err)
		}
		got := make(map[int64]string)
		for _, a := range list {
			got[a.Participant] = a.Trace[min(3, len(a.Trace)):min(35, len(a.Trace))]
		}
		if diff := cmp.Diff(map[int64]string{1001: traceOne, 1002: traceTwo, 1003: ""}, got); diff != "" {
			t.Errorf("alerts: %s", diff)
		}
		events := w.events()
		for id, want := range map[int64]string{1001: traceOne, 1002: traceTwo, 1003: ""} {
			if diff := cmp.Diff([]string{want}, events[id]); diff != "" {
				t.Errorf("events of %d: %s", id, diff)
			}
		}
		e := w.escalator()
		if n := e.Once(ctx); n != 3 {
			t.Errorf("%d alerts are told", n)
		}
		for _, id := range []string{traceOne, traceTwo} {
			if got := names(recorder, id); got["escalate"] != 1 || got["transaction"] == 0 {
				t.Errorf("trace %s has %v", id, got)
			}
		}
	})
}

// TestUrgentTrace: what the door finds goes on in the trace of the request, over the log or past it.
func TestUrgentTrace(t *testing.T) {
	each(t, func(t *testing.T, w *ward) {
		w.publish(harm("grave", 0, true))
		ctx, recorder := traced(t.Context())
		watch := w.watch()
		sending := make(map[string]bool)
		watch.Log = logFunc(func(ctx context.Context, m kafka.Message) error {
			sending[trace.Header(ctx)[3:35]] = true
			return w.Send(ctx, m)
		})
		response, err := questionnaire.ParseResponse([]byte(daily))
		if err != nil {
			t.Fatal(err)
		}
		one, two := w.submitted(1001), w.submitted(1002)
		look := func(r *submission.Response, traceparent string) {
			record := r.Record
			record.Trace = traceparent
			watch.look(ctx, &watched{record, w.definition, response})
		}
		look(&one, parentOf(traceOne))
		if !sending[traceOne] || names(recorder, traceOne)["urgent rules"] != 1 {
			t.Errorf("sent in %v; %v", sending, names(recorder, traceOne))
		}
		w.logAway = errors.New("away")
		look(&two, parentOf(traceTwo))
		if a := w.only(); !strings.Contains(a.Trace, traceTwo) {
			t.Errorf("a direct alert has the trace %q", a.Trace)
		}
	})
}

type logFunc func(ctx context.Context, m kafka.Message) error

func (f logFunc) Send(ctx context.Context, m kafka.Message) error { return f(ctx, m) }

// events returns the traces of the events in the outboxes by participant.
func (w *ward) events() map[int64][]string {
	w.t.Helper()
	out := make(map[int64][]string)
	for _, d := range w.shards.All() {
		var payloads [][]byte
		if err := d.Read(w.t.Context()).Table("outbox").Pluck("payload", &payloads).Error; err != nil {
			w.t.Fatal(err)
		}
		for _, payload := range payloads {
			var events []struct {
				Participant int64
				Trace       string
			}
			if err := json.Unmarshal(payload, &events); err != nil {
				w.t.Fatal(err)
			}
			for _, e := range events {
				out[e.Participant] = append(out[e.Participant], e.Trace[min(3, len(e.Trace)):min(35, len(e.Trace))])
			}
		}
	}
	return out
}

// raisedBy makes the audit entries and events of alerts that a test writes itself.
func (w *ward) raisedBy() func(a *Alert) (audit.Entry, outbox.Event) {
	return func(a *Alert) (audit.Entry, outbox.Event) {
		return bySystem(w.next(), w.clock.Now(), "alert.raise", a, []byte(`{}`)), eventOf(w.next(), a, "alert.raise", w.clock.Now())
	}
}
