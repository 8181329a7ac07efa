package safety

import (
	"context"
	"fmt"
	"log/slog"

	"github.com/eprod/eprod/internal/db"
	"github.com/eprod/eprod/internal/errs"
	"github.com/eprod/eprod/internal/kafka"
	"github.com/eprod/eprod/internal/keyring"
	"github.com/eprod/eprod/internal/participant"
	"github.com/eprod/eprod/internal/questionnaire"
	"github.com/eprod/eprod/internal/submission"
	"github.com/eprod/eprod/internal/trace"
)

// Responses reads stored responses.
type Responses interface {
	// ResponseOf returns one response of a participant with its sealed body, or errs.NotFound.
	ResponseOf(ctx context.Context, participant, id int64) (submission.Response, error)
	// Earlier returns up to limit responses of a participant to a questionnaire with ids below before, youngest first, with bodies.
	Earlier(ctx context.Context, participant int64, questionnaire string, before int64, limit int) ([]submission.Response, error)
}

// Consumer evaluates every rule on every stored response, and records in alerts what became of their submissions. It is a consumer group
// of its own: however slow it is, intake and storage do not notice.
type Consumer struct {
	Book      *Book
	Catalog   Catalog
	People    People
	Responses Responses
	Raiser    *Raiser
	Intake    *keyring.DataKey
	Logger    *slog.Logger
}

// Handle implements kafka.Handler.
func (c *Consumer) Handle(ctx context.Context, batch []kafka.Message) error {
	for _, m := range batch {
		e, ours, err := submission.EventOf(m)
		if !ours {
			continue
		}
		ctx := trace.Of(ctx, m.Traceparent())
		if err != nil {
			c.Logger.ErrorContext(ctx, "unreadable event", "partition", m.Partition, "offset", m.Offset)
			continue
		}
		err = c.follow(ctx, &e)
		switch {
		case err == nil, db.IsClosed(err): // the raiser has told of what is lost
		case !errs.Permanent(err):
			return err
		default:
			c.Logger.ErrorContext(ctx, "a response could not be looked at by the safety rules", "submission.id", e.ID, "error", err)
		}
	}
	return nil
}

func (c *Consumer) follow(ctx context.Context, e *submission.Event) error {
	o := occasion{study: e.Study, participant: e.Participant, response: e.ID, submission: e.Submission, state: string(e.State)}
	rules, err := c.Book.Rules(ctx, o.study)
	if err != nil || rules.Version == 0 {
		return err // without any rules there are no alerts
	}
	if rules, err = c.Book.RulesAt(ctx, o.study, e.ReceivedAt); err != nil {
		return err
	}
	p, err := c.People.Get(ctx, o.participant)
	if errs.KindOf(err) == errs.NotFound && err != nil {
		return nil // a quarantined submission of nobody
	}
	if err != nil {
		return err
	}
	var found []finding
	if e.State == submission.Stored {
		if found, err = c.evaluate(ctx, p, &rules, e, o.response); err != nil {
			return err
		}
	}
	return c.Raiser.raise(ctx, p, o, found)
}

func (c *Consumer) evaluate(ctx context.Context, p *participant.Profile, rules *Rules, e *submission.Event, id int64) ([]finding, error) {
	asked := rules.For(e.Questionnaire, e.Version, false)
	if len(asked) == 0 {
		return nil, nil
	}
	stored, err := c.Responses.ResponseOf(ctx, p.ID, id)
	if err != nil {
		return nil, err
	}
	facts := &Facts{}
	if facts.Definition, facts.Response, err = c.open(ctx, p, &stored); err != nil {
		return nil, err
	}
	facts.Scores = facts.Definition.Scores(facts.Response)
	if n := history(asked); n > 0 {
		earlier, err := c.Responses.Earlier(ctx, p.ID, e.Questionnaire, id, n)
		if err != nil {
			return nil, err
		}
		for i := range earlier {
			definition, response, err := c.open(ctx, p, &earlier[i])
			if err != nil {
				return nil, err
			}
			facts.Earlier = append(facts.Earlier, definition.Scores(response))
		}
	}
	return look(asked, rules.Version, facts), nil
}

func (c *Consumer) open(ctx context.Context, p *participant.Profile, r *submission.Response) (*questionnaire.Definition, *questionnaire.Response, error) {
	d, err := c.Catalog.Definition(ctx, r.Study, r.Questionnaire+"|"+r.Version)
	if err != nil {
		return nil, nil, err
	}
	key := p.Key
	if r.Key == submission.KeyIntake {
		key = c.Intake
	}
	body, err := r.Open(key)
	if err != nil {
		return nil, nil, errDamaged(fmt.Errorf("response %d: %w", r.ID, err))
	}
	response, err := questionnaire.ParseResponse(body)
	if err != nil {
		return nil, nil, errDamaged(fmt.Errorf("response %d: %w", r.ID, err))
	}
	return d, response, nil
}
