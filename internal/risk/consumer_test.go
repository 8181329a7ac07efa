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
	mu      sync.Mutex
	calls   []time.Time
	bodies  strings.Builder
}

func (c *clinic) Definition(context.Context, int64, string) (*questionnaire.Definition, error) {
	return c.definition, nil
}
func (c *clinic) Versions(context.Context, int64, string) ([]*questionnaire.Definition, error) {
	return []*questionnaire.Definition{c.definition}, nil
}
func (c *clinic) Get(_ context.Context, id int64) (*participant.Profile, error) {
	return &participant.Profile{ID: id, Study: 3, Site: 5, Number: secretNumber, Key: c.key}, nil
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
	return c
}

// stored adds a response and returns its event.
func (c *clinic) stored(i int) kafka.Message {
	c.t.Helper()
	body := fmt.Appendf(nil, `{"resourceType":"QuestionnaireResponse","item":[{"linkId":"a","answer":[{"valueInteger":%d}]}]}`, i%20)
	r := submission.Response{Record: submission.Record{ID: c.next(), Participant: int64(1000 + i), Study: 3, Submission: uuid.New(), ReceivedAt: time.Now(), Key: submission.KeyParticipant},
		Questionnaire: phq, Version: "1"}
	if err := r.Seal(c.key, body); err != nil {
		c.t.Fatal(err)
	}
	c.responses[r.ID] = r
	payload := fmt.Appendf(nil, `{"id":"%d","study":"3","participant":"%d","submission":%q,"questionnaire":%q,"version":"1"}`, r.ID, r.Participant, r.Submission, phq)
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
	_, _ = w.Write([]byte(`{"model":"m","version":"1","level":"low","probability":0.1,"reasons":[]}`))
}

// TestHungModel: while the model hangs nothing is assessed and nothing is lost; afterwards everything is assessed, once, never above
// the rate, by two consumers that die and come back; and the model never sees who it is about.
func TestHungModel(t *testing.T) {
	const rate, burst, events = 60, 5, 150
	for dialect, shards := range testenv.Shards(t) {
		t.Run(dialect, func(t *testing.T) {
			c := newClinic(t, shards)
			server := httptest.NewServer(http.HandlerFunc(c.serve))
			defer server.Close()
			breaker := limit.DefaultBreakerConfig()
			breaker.CallTimeout, breaker.OpenFor = 150*time.Millisecond, 50*time.Millisecond
			remote := &Remote{URL: server.URL, Name: Model{"m", "1"}, Client: server.Client(), Timeout: 150 * time.Millisecond}
			consumer := NewConsumer(DefaultConfig(), Parts{Store: c.store, Catalog: c, People: c, Responses: c, Models: map[string]Assessor{ModelHTTP: remote},
				Rate: limit.NewBuckets(rate, burst, 16, time.Now), Breaker: limit.NewBreaker("the model", breaker, nil),
				Index: c, Intake: c.key, IDs: c, Now: time.Now, Meter: c, Logger: slog.New(slog.DiscardHandler)})
			var batch []kafka.Message
			for i := range events {
				batch = append(batch, c.stored(i))
			}
			c.hanging.Store(true)
			ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
			if err := consumer.Handle(ctx, batch); errs.KindOf(err) != errs.Unavailable {
				t.Errorf("a hung model: %v", err)
			}
			cancel()
			c.hanging.Store(false)
			began := time.Now()
			var two sync.WaitGroup
			for half := range 2 {
				two.Go(func() { c.consume(consumer, batch[half*events/2:(half+1)*events/2]) })
			}
			two.Wait()
			took := time.Since(began)
			c.hold(rate, burst)
			list, err := c.store.List(t.Context(), Filter{Study: 3, Limit: 1000})
			seen := make(map[[16]byte]bool)
			for _, a := range list {
				seen[a.Submission] = true
			}
			if err != nil || len(list) != events || len(seen) != events {
				t.Errorf("%d assessments of %d submissions, want %d; %v", len(list), len(seen), events, err)
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
		err := consumer.Handle(ctx, batch)
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

// TestRefusedInputIsKept: what a model will never assess is evidence, too, and holds nobody up; a locked study takes none.
func TestRefusedInputIsKept(t *testing.T) {
	for dialect, shards := range testenv.Shards(t) {
		t.Run(dialect, func(t *testing.T) {
			c := newClinic(t, shards)
			err := c.store.PutSetting(t.Context(), 3, 1, Setting{Enabled: true, Model: ModelRules, Instruments: []Instrument{{Questionnaire: "x", Score: "total", Name: "phq-9"}}}, audit.Entry{ID: c.next(), At: time.Now()})
			if err != nil {
				t.Fatal(err)
			}
			consumer := NewConsumer(DefaultConfig(), Parts{Store: c.store, Catalog: c, People: c, Responses: c, Models: map[string]Assessor{ModelRules: RuleModel{}},
				Rate: limit.NewBuckets(1000, 100, 16, time.Now), Breaker: limit.NewBreaker("the model", limit.DefaultBreakerConfig(), nil),
				Index: c, Intake: c.key, IDs: c, Now: time.Now, Meter: c, Logger: slog.New(slog.DiscardHandler)})
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
