package risk

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/eprod/eprod/internal/audit"
	"github.com/eprod/eprod/internal/db"
	"github.com/eprod/eprod/internal/errs"
	"github.com/eprod/eprod/internal/kafka"
	"github.com/eprod/eprod/internal/keyring"
	"github.com/eprod/eprod/internal/outbox"
	"github.com/eprod/eprod/internal/participant"
	"github.com/eprod/eprod/internal/questionnaire"
	"github.com/eprod/eprod/internal/submission"
	"github.com/eprod/eprod/internal/trace"
)

// Responses reads stored responses.
type Responses interface {
	ResponseOf(ctx context.Context, participant, id int64) (submission.Response, error)
	// Earlier returns up to limit responses of a participant to a questionnaire with ids below before, youngest first, with bodies.
	Earlier(ctx context.Context, participant int64, questionnaire string, before int64, limit int) ([]submission.Response, error)
}

// Rate grants assessments by the model that a setting chooses: over all processes never more than the rate. A refusal says when to ask again.
type Rate interface {
	Allow(ctx context.Context, key string) (ok bool, again time.Duration)
}

// Log makes messages durable; see kafka.Producer.Publish.
type Log interface {
	Publish(ctx context.Context, messages []kafka.Message) error
}

// Index makes pseudonyms: the same for the same value, and nobody can turn them back without the keys.
type Index interface {
	Index(purpose string, value []byte) [32]byte
}

// Meter counts assessments by outcome.
type Meter interface{ Assessment(outcome string) }

// Parts are what the consumer needs. All are required; a model that is not set up is absent from Models.
type Parts struct {
	Store     *Store
	Catalog   Catalog
	People    People
	Responses Responses
	Models    map[string]Assessor // by the name that a setting chooses
	Rate      Rate
	Log       Log
	Index     Index
	Intake    *keyring.DataKey
	IDs       IDs
	Now       func() time.Time
	Meter     Meter
	Logger    *slog.Logger
}

// Consumer assesses stored responses, at its own rate. It is two handlers: Handle follows the events of stored responses, assesses by
// the built-in model and hands on to HTTPTopic what the sponsor's own is to see, and HandleHTTP follows that topic. So a slow or dead
// model lets the lag of HTTPTopic grow, and nothing else: a study that does not use it is not held up, although its events lie between
// those of one that does. It is safe for concurrent use.
type Consumer struct {
	Parts
	config Config
	mu     sync.Mutex
	known  map[int64]remembered
}

type remembered struct {
	setting Setting
	until   time.Time
}

// NewConsumer returns a consumer.
func NewConsumer(config Config, parts Parts) *Consumer {
	return &Consumer{Parts: parts, config: config, known: make(map[int64]remembered)}
}

// Handle implements kafka.Handler for the events of stored responses. A batch that ends half-way comes again: what is assessed stays, and
// is not asked for twice; nothing is handed on before the rest of the batch is done.
func (c *Consumer) Handle(ctx context.Context, batch []kafka.Message) error {
	handed, err := c.handle(ctx, batch, ModelRules)
	if err != nil || len(handed) == 0 {
		return err
	}
	return c.Log.Publish(ctx, handed)
}

// HandleHTTP implements kafka.Handler for HTTPTopic, in processes in which the sponsor's model is set up. A study that has changed its
// setting meanwhile is assessed by what it says now.
func (c *Consumer) HandleHTTP(ctx context.Context, batch []kafka.Message) error {
	_, err := c.handle(ctx, batch, ModelHTTP)
	return err
}

// handle assesses a batch by models up to the slowest that may hold it up, and returns what is for a slower one.
func (c *Consumer) handle(ctx context.Context, batch []kafka.Message, slowest string) (handed []kafka.Message, err error) {
	for _, m := range batch {
		e, ours, err := submission.EventOf(m)
		if !ours || e.State != submission.Stored {
			continue
		}
		ctx := trace.Of(ctx, m.Traceparent())
		if err != nil {
			c.Logger.ErrorContext(ctx, "unreadable event", "partition", m.Partition, "offset", m.Offset)
			continue
		}
		err = c.follow(ctx, &e, slowest)
		switch {
		case err == nil:
		case errors.Is(err, errSlower):
			handed = append(handed, kafka.Message{Topic: HTTPTopic, Partition: m.Partition, Headers: m.Headers, Value: m.Value})
		case db.IsClosed(err), errs.KindOf(err) == errs.NotFound:
			c.Logger.WarnContext(ctx, "a response is not assessed: its study takes nothing new, or it is gone", "submission.id", e.ID)
		case errs.Permanent(err) && errs.KindOf(err) != errs.Internal:
			c.Logger.ErrorContext(ctx, "a response cannot be assessed", "submission.id", e.ID, "error", err)
		default:
			return nil, err
		}
	}
	return handed, nil
}

// errSlower says that a response is for a model that may hold up those behind it.
var errSlower = errors.New("for the sponsor's model")

func (c *Consumer) setting(ctx context.Context, study int64) (Setting, error) {
	c.mu.Lock()
	known, ok := c.known[study]
	c.mu.Unlock()
	if ok && c.Now().Before(known.until) {
		return known.setting, nil
	}
	s, err := c.Store.Setting(ctx, study)
	if err != nil {
		return s, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	const studies = 5000
	if len(c.known) >= studies {
		clear(c.known)
	}
	c.known[study] = remembered{s, c.Now().Add(c.config.SettingTTL)}
	return s, nil
}

func (c *Consumer) follow(ctx context.Context, e *submission.Event, slowest string) error {
	setting, err := c.setting(ctx, e.Study)
	if err != nil || !setting.Enabled {
		return err
	}
	if setting.Model == ModelHTTP && slowest != ModelHTTP {
		return errSlower
	}
	model := c.Models[setting.Model]
	if model == nil {
		return errs.Away("the risk model", errors.New("it is not set up in this process"))
	}
	done, err := c.Store.Known(ctx, e.Participant, e.Submission, model.Model())
	if err != nil || done {
		return err
	}
	p, err := c.People.Get(ctx, e.Participant)
	if err != nil {
		return err
	}
	in, inputs, err := c.input(ctx, p, e)
	if err != nil || in == nil {
		return err
	}
	result, outcome, err := c.ask(ctx, model, *in, &setting)
	if err != nil {
		return err
	}
	return c.keep(ctx, p, e, model.Model(), inputs, result, outcome)
}

// input gathers scores; nil where the response has none.
func (c *Consumer) input(ctx context.Context, p *participant.Profile, e *submission.Event) (*Input, []int64, error) {
	current, err := c.Responses.ResponseOf(ctx, p.ID, e.ID)
	if err != nil {
		return nil, nil, err
	}
	now, err := c.scored(ctx, p, &current, current.ReceivedAt)
	if err != nil || len(now.Scores) == 0 {
		return nil, nil, err
	}
	sum := c.Index.Index("eprod/risk/subject", fmt.Appendf(nil, "%d/%d", p.Study, p.ID))
	in := &Input{Subject: base64.RawURLEncoding.EncodeToString(sum[:]), Questionnaire: current.Questionnaire, Version: current.Version, Current: now, History: []Scored{}}
	inputs := []int64{current.ID}
	earlier, err := c.Responses.Earlier(ctx, p.ID, current.Questionnaire, current.ID, c.config.History)
	if err != nil {
		return nil, nil, err
	}
	for i := range earlier {
		one, err := c.scored(ctx, p, &earlier[i], current.ReceivedAt)
		if err != nil {
			return nil, nil, err
		}
		in.History, inputs = append(in.History, one), append(inputs, earlier[i].ID)
	}
	return in, inputs, nil
}

func (c *Consumer) scored(ctx context.Context, p *participant.Profile, r *submission.Response, zero time.Time) (Scored, error) {
	out := Scored{Day: -int(zero.Sub(r.ReceivedAt).Hours() / 24), Scores: []Value{}}
	d, err := c.Catalog.Definition(ctx, r.Study, r.Questionnaire+"|"+r.Version)
	if err != nil || len(d.ScoreRules()) == 0 {
		return out, err
	}
	key := p.Key
	if r.Key == submission.KeyIntake {
		key = c.Intake
	}
	body, err := r.Open(key)
	if err != nil {
		return out, fmt.Errorf("response %d: %w", r.ID, err)
	}
	response, err := questionnaire.ParseResponse(body)
	if err != nil {
		return out, err
	}
	for _, s := range d.Scores(response) {
		if s.Valid {
			out.Scores = append(out.Scores, Value{s.Rule.Name, s.Value})
		}
	}
	return out, nil
}

// ask waits for its turn and asks the model. A refusal for good is a result, too.
func (c *Consumer) ask(ctx context.Context, model Assessor, in Input, setting *Setting) (r Result, outcome string, err error) {
	for {
		ok, again := c.Rate.Allow(ctx, setting.Model)
		if ok {
			break
		}
		turn := time.NewTimer(max(again, time.Millisecond))
		select {
		case <-turn.C:
		case <-ctx.Done():
			turn.Stop()
			return r, "", errs.Away("the risk model", ctx.Err())
		}
	}
	r, err = model.Assess(ctx, in, setting)
	switch {
	case Permanent(err):
		reason := err.Error()[len(errPermanent.Error())+2:]
		return Result{Level: LevelNone, Reasons: []string{reason}}, Refused, nil
	case err != nil:
		c.Meter.Assessment("failed")
		return r, "", err
	}
	return r, Assessed, nil
}

func (c *Consumer) keep(ctx context.Context, p *participant.Profile, e *submission.Event, m Model, inputs []int64, r Result, outcome string) error {
	ids, err := c.IDs.NextN(3)
	if err != nil {
		return err
	}
	plain, err := json.Marshal(r)
	if err != nil {
		return err
	}
	at := c.Now().UTC().Truncate(time.Microsecond)
	a := Assessment{ID: ids[0], Participant: p.ID, Study: p.Study, Site: p.Site, Submission: e.Submission, Response: e.ID, Model: m, Outcome: outcome, Inputs: inputs, At: at}
	if a.Sealed, err = p.Key.Seal(plain, place(p.ID, a.ID)); err != nil {
		return err
	}
	about := fmt.Appendf(nil, `{"id":"%d","study":"%d","participant":"%d","response":"%d","model":%q,"version":%q,"outcome":%q}`, a.ID, a.Study, a.Participant, a.Response, m.Name, m.Version, outcome)
	entry := audit.Entry{ID: ids[1], At: at, Zone: "UTC", ActorKind: "system", Action: "risk.assess", Record: "assessment", RecordID: a.ID, Study: a.Study, Participant: a.Participant, New: about, Source: "risk"}
	event := outbox.Event{ID: ids[2], Topic: submission.Events, Type: "risk.assess", Study: a.Study, Participant: a.Participant, At: at, Payload: about}
	fresh, err := c.Store.Add(ctx, a, entry, event)
	if fresh {
		c.Meter.Assessment(outcome)
	}
	return err
}
