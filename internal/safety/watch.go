package safety

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/eprod/eprod/internal/db"
	"github.com/eprod/eprod/internal/errs"
	"github.com/eprod/eprod/internal/kafka"
	"github.com/eprod/eprod/internal/questionnaire"
	"github.com/eprod/eprod/internal/submission"
	"github.com/eprod/eprod/internal/trace"
)

// Log makes a message durable; see kafka.Producer.Send.
type Log interface {
	Send(ctx context.Context, m kafka.Message) error
}

// Guarded runs a call to the log with a time limit, unless the log failed too often lately: errs.Unavailable at once.
type Guarded interface {
	Do(ctx context.Context, call func(ctx context.Context) error) error
}

// Config bounds safety.
type Config struct {
	RulesTTL time.Duration `koanf:"rulesTtl"` // how old a process' view of a study's rules may be: the delay until new ones apply everywhere
	Queue    int           `koanf:"queue"`    // accepted submissions of one process that wait for the urgent rules; more are left to the consumer
	Workers  int           `koanf:"workers"`  // submissions that are looked at by urgent rules at once
	Interval time.Duration `koanf:"interval"` // how often escalations that are due are looked for
	Batch    int           `koanf:"batch"`    // alerts that are taken from one shard at once
	Lease    time.Duration `koanf:"lease"`    // after which alerts that somebody had taken are looked at again
	Timeout  time.Duration `koanf:"timeout"`  // for the findings of one submission on their way to the log
}

// DefaultConfig returns settings for some thousand submissions in a minute.
func DefaultConfig() Config {
	return Config{RulesTTL: 2 * time.Second, Queue: 8192, Workers: 2, Interval: time.Second, Batch: 100, Lease: 30 * time.Second, Timeout: 2 * time.Second}
}

// Validate returns every problem at once, each as "key: value: what would be right".
func (c Config) Validate() error { return c.problems() }

// Parts are what urgent rules need. All are required.
type Parts struct {
	Book       *Book
	People     People
	Log        Log
	Breaker    Guarded // of the log
	Raiser     *Raiser
	Partitions int
	Meter      Meter
	Logger     *slog.Logger
}

// Meter counts alerts: by urgent or ordinary way, those that a locked study could not take any more, and what could not be looked at in
// time.
type Meter interface {
	Alerts(n int, urgent bool)
	Refused(n int)
	Unwatched()
}

// Watch evaluates urgent rules on what the door has accepted. It stands beside the way of a submission, never in it: Accepted returns at
// once, and what Watch misses the consumer finds. It is safe for concurrent use.
type Watch struct {
	Parts
	config  Config
	waiting chan watched
}

type watched struct {
	record     submission.Record // without its body
	definition *questionnaire.Definition
	response   *questionnaire.Response
}

// NewWatch returns a watch. Run must be running for anything to be looked at.
func NewWatch(config Config, parts Parts) *Watch {
	return &Watch{Parts: parts, config: config, waiting: make(chan watched, config.Queue)}
}

// Accepted implements ingest.Urgent.
func (w *Watch) Accepted(r *submission.Record, d *questionnaire.Definition, response *questionnaire.Response) {
	if rules, known := w.Book.Remembered(r.Study); known && len(rules.Rules) == 0 {
		return
	}
	one := watched{record: *r, definition: d, response: response}
	one.record.Sealed = nil
	select {
	case w.waiting <- one:
	default:
		w.Meter.Unwatched()
	}
}

// Run looks at what was accepted until ctx ends, then at what still waits.
func (w *Watch) Run(ctx context.Context) error {
	var workers sync.WaitGroup
	for range w.config.Workers {
		workers.Go(func() {
			for {
				select {
				case one := <-w.waiting:
					w.look(context.WithoutCancel(ctx), &one)
				case <-ctx.Done():
					select {
					case one := <-w.waiting:
						w.look(context.WithoutCancel(ctx), &one)
						continue
					default:
						return
					}
				}
			}
		})
	}
	workers.Wait()
	return nil
}

func (w *Watch) look(ctx context.Context, one *watched) {
	ctx, cancel := context.WithTimeout(ctx, w.config.Timeout)
	defer cancel()
	rules, err := w.Book.Rules(ctx, one.record.Study)
	if err != nil {
		w.Meter.Unwatched()
		return
	}
	urgent := rules.For(one.definition.URL(), one.definition.Version(), true)
	if len(urgent) == 0 {
		return
	}
	ctx, span := trace.Continue(ctx, "urgent rules", trace.Internal, one.record.Trace)
	span.End(w.evaluate(ctx, one, urgent, rules.Version))
}

// evaluate applies urgent rules to what was accepted, and tells what they find.
func (w *Watch) evaluate(ctx context.Context, one *watched, urgent []*Rule, version int64) error {
	found := look(urgent, version, &Facts{Definition: one.definition, Response: one.response, Scores: one.definition.Scores(one.response)})
	if len(found) == 0 {
		return nil
	}
	err := w.tell(ctx, &one.record, found)
	if err != nil {
		w.Meter.Unwatched()
		w.Logger.ErrorContext(ctx, "an urgent alert must wait for the submission to be stored", "submission.id", one.record.ID, "error", err)
	}
	return err
}

// carried is a record of UrgentTopic.
type carried struct {
	Study       int64     `json:"study,string"`
	Participant int64     `json:"participant,string"`
	Response    int64     `json:"response,string"`
	Submission  uuid.UUID `json:"submission"`
	Sealed      string    `json:"sealed"` // findings
}

func carriedPlace(participant, response int64) []byte {
	return fmt.Appendf(nil, "eprod/urgent/1/%d/%d", participant, response)
}

// tell sends findings to the topic of urgent alerts; if the log does not take them, it writes the alerts itself.
func (w *Watch) tell(ctx context.Context, r *submission.Record, found []finding) error {
	p, err := w.People.Get(ctx, r.Participant)
	if err != nil {
		return err
	}
	plain, err := json.Marshal(found)
	if err != nil {
		return err
	}
	sealed, err := p.Key.Seal(plain, carriedPlace(r.Participant, r.ID))
	if err != nil {
		return err
	}
	value, err := json.Marshal(carried{r.Study, r.Participant, r.ID, r.Submission, base64.StdEncoding.EncodeToString(sealed)})
	if err != nil {
		return err
	}
	sending, cancel := context.WithTimeout(ctx, w.config.Timeout/2)
	defer cancel()
	err = w.Breaker.Do(sending, func(ctx context.Context) error {
		return w.Log.Send(ctx, kafka.Message{Topic: UrgentTopic, Partition: submission.Partition(r.Participant, w.Partitions), Value: value})
	})
	if err == nil {
		return nil
	}
	err = w.Raiser.urgent(ctx, p, occasion{study: r.Study, participant: r.Participant, response: r.ID, submission: r.Submission}, found)
	if db.IsClosed(err) { // the raiser has told of it
		return nil
	}
	return err
}

// UrgentConsumer turns the records of UrgentTopic into alerts. It is safe for concurrent use.
type UrgentConsumer struct {
	People People
	Raiser *Raiser
	Logger *slog.Logger
}

// Handle implements kafka.Handler. What it can never read is logged and passed over: the consumer of stored responses finds it again, if the
// submission is stored. Everything else comes again.
func (c *UrgentConsumer) Handle(ctx context.Context, batch []kafka.Message) error {
	for _, m := range batch {
		ctx := trace.Of(ctx, m.Traceparent())
		var one carried
		if err := json.Unmarshal(m.Value, &one); err != nil {
			c.Logger.ErrorContext(ctx, "unreadable urgent finding", "partition", m.Partition, "offset", m.Offset)
			continue
		}
		if err := c.take(ctx, &one); err != nil {
			if !errs.Permanent(err) {
				return err
			}
			if db.IsClosed(err) { // the raiser has told of it
				continue
			}
			c.Logger.ErrorContext(ctx, "an urgent finding was passed over", "submission.id", one.Response, "error", err)
		}
	}
	return nil
}

func (c *UrgentConsumer) take(ctx context.Context, one *carried) error {
	p, err := c.People.Get(ctx, one.Participant)
	if err != nil {
		return err
	}
	sealed, err := base64.StdEncoding.DecodeString(one.Sealed)
	if err != nil {
		return errDamaged(err)
	}
	plain, err := p.Key.Open(sealed, carriedPlace(one.Participant, one.Response))
	if err != nil {
		return errDamaged(err)
	}
	var found []finding
	if err := json.Unmarshal(plain, &found); err != nil {
		return errDamaged(err)
	}
	return c.Raiser.urgent(ctx, p, occasion{study: one.Study, participant: one.Participant, response: one.Response, submission: one.Submission}, found)
}

// errDamaged is of what can never be read, however often it comes.
func errDamaged(cause error) error {
	return errs.New(errs.Unprocessable, "damaged", "what safety rules look at cannot be read").WithCause(cause)
}
