package risk

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"gorm.io/gorm"

	"github.com/eprod/eprod/internal/audit"
	"github.com/eprod/eprod/internal/auth"
	"github.com/eprod/eprod/internal/db"
	"github.com/eprod/eprod/internal/errs"
	"github.com/eprod/eprod/internal/kafka"
	"github.com/eprod/eprod/internal/keyring"
	"github.com/eprod/eprod/internal/limit"
	"github.com/eprod/eprod/internal/outbox"
	"github.com/eprod/eprod/internal/participant"
	"github.com/eprod/eprod/internal/questionnaire"
	"github.com/eprod/eprod/internal/submission"
	"github.com/eprod/eprod/internal/testenv"
)

const secretNumber = "KANARIENVOGEL-0042"

// clinic is a study with participants and stored responses in memory, a real shard for what is kept, and a model behind HTTP that can
// hang and fail.
type clinic struct {
	t          *testing.T
	store      *Store
	key        *keyring.DataKey
	definition *questionnaire.Definition
	responses  map[int64]submission.Response
	next       func() int64

	hanging atomic.Bool
	changed atomic.Bool // the model is of another version than the settings say
	mu      sync.Mutex
	calls   []time.Time
	bodies  strings.Builder
	handed  []kafka.Message // the log of HTTPTopic
	reads   int             // of participants
}

// ruled is a study of the clinic that is assessed by the built-in model; the one of stored is assessed behind HTTP.
const ruled = 4

func (c *clinic) Definition(context.Context, int64, string) (*questionnaire.Definition, error) {
	return c.definition, nil
}
func (c *clinic) Versions(context.Context, int64, string) ([]*questionnaire.Definition, error) {
	return []*questionnaire.Definition{c.definition}, nil
}
func (c *clinic) Get(_ context.Context, id int64) (*participant.Profile, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.reads++
	return c.profile(id), nil
}
func (c *clinic) GetMany(_ context.Context, ids []int64) (map[int64]*participant.Profile, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.reads++
	out := make(map[int64]*participant.Profile, len(ids))
	for _, id := range ids {
		out[id] = c.profile(id)
	}
	return out, nil
}
func (c *clinic) profile(id int64) *participant.Profile {
	return &participant.Profile{ID: id, Study: c.studyOf(id), Site: 5, Number: secretNumber, Key: c.key}
}
func (c *clinic) studyOf(participant int64) int64 {
	if participant >= 5000 {
		return ruled
	}
	return 3
}
func (c *clinic) Publish(_ context.Context, messages []kafka.Message) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.handed = append(c.handed, messages...)
	return nil
}
func (c *clinic) ResponseOf(_ context.Context, _, id int64) (submission.Response, error) {
	r, ok := c.responses[id]
	if !ok {
		return r, errs.Absent("response")
	}
	return r, nil
}
func (c *clinic) Earlier(context.Context, int64, string, int64, int) ([]submission.Response, error) {
	return nil, nil
}
func (c *clinic) Assessment(string) {}
func (c *clinic) Index(_ string, value []byte) (sum [32]byte) {
	copy(sum[:], fmt.Sprintf("%x", len(value)))
	return sum
}
func (c *clinic) NextN(n int) ([]int64, error) {
	out := make([]int64, n)
	for i := range out {
		out[i] = c.next()
	}
	return out, nil
}

func newClinic(t *testing.T, shards *db.Shards) *clinic {
	c := &clinic{t: t, responses: make(map[int64]submission.Response), next: testenv.IDs()}
	meta := testenv.Databases(t, "meta")["sqlite"]
	c.store = &Store{Meta: meta, Shards: shards, Mutable: func(*gorm.DB, int64) error { return nil }}
	ring, err := keyring.New([]keyring.MasterKey{{ID: 1, Secret: make([]byte, 32)}}, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c.key = ring.Intake()
	score := `{"url":"https://eprod.org/fhir/StructureDefinition/questionnaire-score","extension":[{"url":"name","valueString":"total"},{"url":"item","valueString":"a"}]}`
	var findings []errs.Finding
	c.definition, findings = questionnaire.Compile(fmt.Appendf(nil, `{"resourceType":"Questionnaire","url":%q,"version":"1","status":"active","extension":[%s],"item":[{"linkId":"a","type":"integer"}]}`, phq, score), questionnaire.DefaultLimits())
	if len(findings) > 0 {
		t.Fatal(findings)
	}
	err = c.store.PutSetting(t.Context(), 3, 0, Setting{Enabled: true, Model: ModelHTTP}, audit.Entry{ID: c.next(), At: time.Now()})
	if err != nil {
		t.Fatal(err)
	}
	err = c.store.PutSetting(t.Context(), ruled, 0, byRules, audit.Entry{ID: c.next(), At: time.Now()})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

var byRules = Setting{Enabled: true, Model: ModelRules, Instruments: []Instrument{{Questionnaire: phq, Score: "total", Name: "phq-9"}}}

// consumer returns one at a rate; remote is nil in a process in which no model is set up.
func (c *clinic) consumer(rate float64, burst int, remote *Remote) *Consumer {
	models := map[string]Assessor{ModelRules: RuleModel{}}
	if remote != nil {
		models[ModelHTTP] = remote
	}
	return NewConsumer(DefaultConfig(), Parts{Store: c.store, Catalog: c, People: c, Responses: c, Models: models, Rate: limit.NewBuckets(rate, burst, 16, time.Now),
		Log: c, Index: c, Intake: c.key, IDs: c, Now: time.Now, Meter: c, Logger: slog.New(slog.DiscardHandler)})
}

// remote is a model at an address, with little patience.
func (c *clinic) remote(url string) *Remote {
	breaker := limit.DefaultBreakerConfig()
	breaker.CallTimeout, breaker.OpenFor = 150*time.Millisecond, 50*time.Millisecond
	return &Remote{URL: url, Name: Model{"m", "1"}, Client: http.DefaultClient, Timeout: 150 * time.Millisecond,
		Breaker: limit.NewBreaker("the model", breaker, nil)}
}

// assessments of a study, by submission.
func (c *clinic) assessments(study int64) map[[16]byte]Assessment {
	c.t.Helper()
	list, err := c.store.List(c.t.Context(), Filter{Study: study, Limit: 1000})
	seen := make(map[[16]byte]Assessment)
	for _, a := range list {
		seen[a.Submission] = a
	}
	if err != nil || len(seen) != len(list) {
		c.t.Fatalf("%d assessments of %d submissions, %v", len(list), len(seen), err)
	}
	return seen
}

// stored adds a response and returns its event.
func (c *clinic) stored(i int) kafka.Message { return c.storedOf(int64(1000+i), i) }

func (c *clinic) storedOf(participant int64, i int) kafka.Message {
	c.t.Helper()
	body := fmt.Appendf(nil, `{"resourceType":"QuestionnaireResponse","item":[{"linkId":"a","answer":[{"valueInteger":%d}]}]}`, i%20)
	r := submission.Response{Record: submission.Record{ID: c.next(), Participant: participant, Study: c.studyOf(participant), Submission: uuid.New(), ReceivedAt: time.Now(), Key: submission.KeyParticipant},
		Questionnaire: phq, Version: "1"}
	if err := r.Seal(c.key, body); err != nil {
		c.t.Fatal(err)
	}
	c.responses[r.ID] = r
	payload := fmt.Appendf(nil, `{"id":"%d","study":"%d","participant":"%d","submission":%q,"questionnaire":%q,"version":"1"}`, r.ID, r.Study, r.Participant, r.Submission, phq)
	return kafka.Message{Topic: submission.Events, Headers: []kafka.Header{{Key: outbox.HeaderType, Value: []byte("response.store")}}, Value: payload}
}

func (c *clinic) serve(w http.ResponseWriter, r *http.Request) {
	raw, _ := io.ReadAll(r.Body)
	c.mu.Lock()
	c.calls = append(c.calls, time.Now())
	c.bodies.Write(raw)
	c.mu.Unlock()
	if c.hanging.Load() {
		<-r.Context().Done()
		return
	}
	version := "1"
	if c.changed.Load() {
		version = "2"
	}
	_, _ = fmt.Fprintf(w, `{"model":"m","version":%q,"level":"low","probability":0.1,"reasons":[]}`, version)
}

// TestHungModel: while the model hangs, and while it answers as another version, nothing is assessed and nothing is lost; afterwards
// everything is assessed, once, never above the rate, by two consumers that die and come back; and the model never sees who it is about.
func TestHungModel(t *testing.T) {
	const rate, burst, events = 60, 5, 150
	for dialect, shards := range testenv.Shards(t) {
		t.Run(dialect, func(t *testing.T) {
			c := newClinic(t, shards)
			server := httptest.NewServer(http.HandlerFunc(c.serve))
			defer server.Close()
			consumer := c.consumer(rate, burst, c.remote(server.URL))
			var batch []kafka.Message
			for i := range events {
				batch = append(batch, c.stored(i))
			}
			c.hanging.Store(true)
			ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
			if err := consumer.Handle(ctx, batch); err != nil || len(c.handed) != events {
				t.Fatalf("%d events were handed on, want %d; %v", len(c.handed), events, err)
			}
			batch = c.handed
			if err := consumer.HandleHTTP(ctx, batch); errs.KindOf(err) != errs.Unavailable {
				t.Errorf("a hung model: %v", err)
			}
			cancel()
			c.changed.Store(true)
			c.hanging.Store(false)
			ctx, cancel = context.WithTimeout(t.Context(), time.Second)
			if err := consumer.HandleHTTP(ctx, batch); errs.KindOf(err) != errs.Unavailable || len(c.assessments(3)) != 0 {
				t.Errorf("a model of another version: %v, %d assessments", err, len(c.assessments(3)))
			}
			cancel()
			c.changed.Store(false)
			began := time.Now()
			var two sync.WaitGroup
			for half := range 2 {
				two.Go(func() { c.consume(consumer, batch[half*events/2:(half+1)*events/2]) })
			}
			two.Wait()
			took := time.Since(began)
			c.hold(rate, burst)
			if n := len(c.assessments(3)); n != events {
				t.Errorf("%d assessments, want %d", n, events)
			}
			if strings.Contains(c.bodies.String(), secretNumber) || strings.Contains(c.bodies.String(), "1000") || strings.Contains(c.bodies.String(), time.Now().Format("2006-01-02")) {
				t.Error("the model was told a number, an id or a date")
			}
			t.Logf("%d assessments in %v after the model came back", events, took.Round(time.Millisecond))
		})
	}
}

// consume hands a batch in until it is done, with a context that dies again and again.
func (c *clinic) consume(consumer *Consumer, batch []kafka.Message) {
	deadline := time.Now().Add(time.Minute)
	for {
		ctx, cancel := context.WithTimeout(c.t.Context(), 300*time.Millisecond)
		err := consumer.HandleHTTP(ctx, batch)
		cancel()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			c.t.Error(err)
			return
		}
	}
}

// hold holds the calls against the rate: over any stretch of time no more than burst + rate·t.
func (c *clinic) hold(rate, burst float64) {
	c.t.Helper()
	c.mu.Lock()
	defer c.mu.Unlock()
	const slack = 50 * time.Millisecond // between the grant and the call
	for i := range c.calls {
		for j := i + 1; j < len(c.calls); j++ {
			if most := burst + rate*(c.calls[j].Sub(c.calls[i])+slack).Seconds() + 1; float64(j-i+1) > most {
				c.t.Fatalf("%d calls in %v: more than the rate allows (%.0f)", j-i+1, c.calls[j].Sub(c.calls[i]), most)
			}
		}
	}
}

// TestModelHoldsUpNobodyElse: while the sponsor's model hangs, and in a process in which it is not set up, studies that are assessed by
// the built-in one go on, although their events lie between those that must wait; and what waits is assessed by what its study says when
// its turn comes.
func TestModelHoldsUpNobodyElse(t *testing.T) {
	for dialect, shards := range testenv.Shards(t) {
		t.Run(dialect, func(t *testing.T) {
			c := newClinic(t, shards)
			c.hanging.Store(true)
			server := httptest.NewServer(http.HandlerFunc(c.serve))
			defer server.Close()
			without, with := c.consumer(1000, 100, nil), c.consumer(1000, 100, c.remote(server.URL))
			const each = 10
			for name, one := range map[string]*Consumer{"not set up": without, "hung": with} {
				var batch []kafka.Message
				for i := range each {
					batch = append(batch, c.stored(i), c.storedOf(int64(5000+i), i))
				}
				before, waiting := len(c.assessments(ruled)), len(c.handed)
				if err := one.Handle(t.Context(), batch); err != nil {
					t.Fatalf("%s: %v", name, err)
				}
				if n := len(c.assessments(ruled)) - before; n != each || len(c.handed)-waiting != each {
					t.Errorf("%s: %d of %d assessed by the built-in model, %d handed on", name, n, each, len(c.handed)-waiting)
				}
			}
			handed := c.handed
			if err := with.HandleHTTP(t.Context(), handed); errs.KindOf(err) != errs.Unavailable {
				t.Errorf("a hung model: %v", err)
			}
			for _, m := range handed {
				if m.Topic != HTTPTopic || len(m.Headers) == 0 || len(m.Value) == 0 {
					t.Errorf("handed on: %+v", m)
				}
			}
			if n := len(c.assessments(3)); n != 0 {
				t.Errorf("%d assessments by a model that hangs", n)
			}
			if err := c.store.PutSetting(t.Context(), 3, 1, byRules, audit.Entry{ID: c.next(), At: time.Now()}); err != nil {
				t.Fatal(err)
			}
			later := c.consumer(1000, 100, c.remote(server.URL)) // whose view of the setting is not old
			for range 2 {
				if err := later.HandleHTTP(t.Context(), handed); err != nil {
					t.Fatal(err)
				}
			}
			got := c.assessments(3)
			for _, a := range got {
				if a.Model != (RuleModel{}).Model() {
					t.Errorf("assessed by %v", a.Model)
				}
			}
			if len(got) != 2*each {
				t.Errorf("%d assessments after the study had left its model, want %d", len(got), 2*each)
			}
		})
	}
}

// TestNothingIsHandedOnTwiceForOthers: a batch that comes again because one of it failed has handed on nothing.
func TestNothingIsHandedOnTwiceForOthers(t *testing.T) {
	c := newClinic(t, testenv.Shards(t)["sqlite"])
	gone := c.storedOf(5000, 1)
	consumer := c.consumer(1000, 100, nil)
	ctx, cancel := context.WithCancel(t.Context())
	cancel() // the shard does not answer
	if err := consumer.Handle(ctx, []kafka.Message{c.stored(1), gone}); err == nil || len(c.handed) != 0 {
		t.Errorf("%d handed on; %v", len(c.handed), err)
	}
}

// TestListReadsPeopleAtOnce: however long a page is, its participants are read together.
func TestListReadsPeopleAtOnce(t *testing.T) {
	c := newClinic(t, testenv.Shards(t)["sqlite"])
	var batch []kafka.Message
	for i := range 20 {
		batch = append(batch, c.storedOf(int64(5000+i), i))
	}
	if err := c.consumer(1000, 100, nil).Handle(t.Context(), batch); err != nil {
		t.Fatal(err)
	}
	c.reads = 0
	s := &Service{Store: c.store, People: c}
	views, err := s.List(auth.With(t.Context(), auth.Principal{Kind: auth.KindStaff, Role: auth.Administrator}), Filter{Study: ruled, Limit: 100})
	if err != nil || len(views) != len(batch) || c.reads != 1 {
		t.Errorf("%d assessments with %d reads of participants, %v", len(views), c.reads, err)
	}
}

// TestRefusedInputIsKept: what a model will never assess is evidence, too, and holds nobody up; a locked study takes none.
func TestRefusedInputIsKept(t *testing.T) {
	for dialect, shards := range testenv.Shards(t) {
		t.Run(dialect, func(t *testing.T) {
			c := newClinic(t, shards)
			err := c.store.PutSetting(t.Context(), 3, 1, Setting{Enabled: true, Model: ModelRules, Instruments: []Instrument{{Questionnaire: "x", Score: "total", Name: "phq-9"}}}, audit.Entry{ID: c.next(), At: time.Now()})
			if err != nil {
				t.Fatal(err)
			}
			consumer := c.consumer(1000, 100, nil)
			events := []kafka.Message{c.stored(1), c.stored(2)}
			for range 3 {
				if err := consumer.Handle(t.Context(), events); err != nil {
					t.Fatal(err)
				}
			}
			list, err := c.store.List(t.Context(), Filter{Study: 3, Limit: 10})
			if err != nil || len(list) != 2 || list[0].Outcome != Refused {
				t.Fatalf("%+v, %v", list, err)
			}
			plain, err := c.key.Open(list[0].Sealed, place(list[0].Participant, list[0].ID))
			var r Result
			if err := errors.Join(err, json.Unmarshal(plain, &r)); err != nil || len(r.Reasons) != 1 || r.Reasons[0] != "no_instrument" {
				t.Errorf("%+v, %v", r, err)
			}
			if err := shards.Each(t.Context(), func(ctx context.Context, d *db.DB) error { return d.SetStanding(ctx, 3, db.Closed, 1) }); err != nil {
				t.Fatal(err)
			}
			if err := consumer.Handle(t.Context(), []kafka.Message{c.stored(3)}); err != nil {
				t.Errorf("a locked study: %v", err)
			}
			if list, err := c.store.List(t.Context(), Filter{Study: 3, Limit: 10}); err != nil || len(list) != 2 {
				t.Errorf("a locked study has %d assessments, %v", len(list), err)
			}
		})
	}
}
