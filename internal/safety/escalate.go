package safety

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"github.com/eprod/eprod/internal/db"
	"github.com/eprod/eprod/internal/errs"
	"github.com/eprod/eprod/internal/keyring"
	"github.com/eprod/eprod/internal/task"
	"github.com/eprod/eprod/internal/trace"
)

// Told is one message to one person of the staff. It says that there is an alert, and of whom by the participant number: never which
// answer.
type Told struct {
	Study, Participant int64
	Purpose            string // the same purpose again sends nothing
	To                 Contact
	Language           string
	Protocol, Number   string
	Severity           string
}

// Messenger tells people. A failure that is errs.Permanent is for good; after any other the same may be told again.
type Messenger interface {
	Tell(ctx context.Context, t Told) error
}

// EscalatorParts are what escalating needs. All are required.
type EscalatorParts struct {
	Store     *Store
	Catalog   Catalog
	People    People
	Messenger Messenger
	Sealer    *keyring.DataKey
	IDs       IDs
	Now       func() time.Time
	Meter     interface{ Untold() } // counts steps that reached nobody
	Logger    *slog.Logger
}

// Escalator tells who is to be told of open alerts, step by step, until somebody acknowledges. Any number of processes may run one: an
// alert is one's at a time, and a message that two write down is one.
type Escalator struct {
	EscalatorParts
	config Config
}

// NewEscalator returns an escalator.
func NewEscalator(config Config, parts EscalatorParts) *Escalator { return &Escalator{parts, config} }

// Run escalates until ctx ends; it finishes the batch in hand.
func (e *Escalator) Run(ctx context.Context) error {
	tick := time.NewTicker(e.config.Interval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		e.Once(ctx)
	}
}

// Once does what is due now and returns how many alerts that was.
func (e *Escalator) Once(ctx context.Context) int {
	total := 0
	for _, shard := range e.Store.Shards.All() {
		for ctx.Err() == nil {
			now := e.now()
			due, err := e.Store.Due(ctx, shard, now, now.Add(e.config.Lease), e.config.Batch)
			if err != nil {
				e.Logger.WarnContext(ctx, "alerts wait to be told", "database", shard.Name, "error", err)
				break
			}
			for i := range due {
				e.escalate(context.WithoutCancel(ctx), due[i])
			}
			if total += len(due); len(due) < e.config.Batch {
				break
			}
		}
	}
	return total
}

func (e *Escalator) now() time.Time { return e.Now().UTC().Truncate(time.Microsecond) }

// escalate tells one step of an alert, in the trace of what raised it. When it fails half-way it is begun anew after the lease, and nobody is
// told twice.
func (e *Escalator) escalate(ctx context.Context, a Alert) {
	ctx, span := trace.Continue(ctx, "escalate", trace.Internal, a.Trace)
	span.Set(trace.String("eprod.alert.severity", a.Severity), trace.Int("eprod.alert.step", int64(a.Step)))
	err := e.step(ctx, a)
	span.End(err)
	if err != nil && !db.IsClosed(err) {
		e.Logger.WarnContext(ctx, "an alert waits to be told", "alert", a.ID, "error", err)
	}
}

func (e *Escalator) step(ctx context.Context, a Alert) error {
	rules, err := e.Store.Rules(ctx, a.Study, a.RulesVersion)
	if err != nil {
		return err
	}
	var steps []Escalation
	for i := range rules.Rules {
		if rules.Rules[i].ID == a.Rule {
			steps = rules.Rules[i].steps()
		}
	}
	if a.Step >= len(steps) {
		return nil
	}
	step, next := steps[a.Step], due(steps, a.Step+1, a.RaisedAt)
	told, err := e.tell(ctx, &a, step.To)
	if err != nil && (next.IsZero() || next.After(e.now())) {
		return err
	}
	if err != nil { // the next step must not wait for this one
		e.Logger.ErrorContext(ctx, "not everybody could be told of an alert before the next step was due", "alert", a.ID, "step", a.Step, "error", err)
	}
	if told == 0 && err == nil {
		e.Meter.Untold()
		e.Logger.ErrorContext(ctx, "nobody was told of an alert: see the study's rota, and notify in the settings", "alert", a.ID, "study", a.Study)
	}
	ids, err := e.IDs.NextN(1)
	if err != nil {
		return err
	}
	entry := bySystem(ids[0], e.now(), "alert.escalate", &a, fmt.Appendf(nil, `{"step":%d,"to":%q,"people":%d}`, a.Step, step.To, told))
	return e.Store.Escalated(ctx, a, next, entry)
}

// tell writes the messages of a step and returns how many people they reach. A site without anybody on duty is told at its own address;
// if it has none, whoever runs the study is.
func (e *Escalator) tell(ctx context.Context, a *Alert, to string) (int, error) {
	about, err := e.Catalog.Study(ctx, a.Study)
	if err != nil {
		return 0, err
	}
	p, err := e.People.Get(ctx, a.Participant)
	if err != nil {
		return 0, err
	}
	rota, err := openRota(ctx, e.Store, e.Sealer, a.Study)
	if err != nil {
		return 0, err
	}
	people := rota.Manager
	if to == ToSite {
		if people, err = e.atSite(ctx, a, &rota, about.Zone); err != nil {
			return 0, err
		}
	}
	told := 0
	var failed error
	for i, person := range people {
		err := e.Messenger.Tell(ctx, Told{Study: a.Study, Participant: a.Participant, Purpose: fmt.Sprintf("alert/%d/%d/%d", a.ID, a.Step, i), To: person, Language: about.Languages[0],
			Protocol: about.Protocol, Number: p.Number, Severity: a.Severity})
		switch {
		case err == nil:
			told++
		case !errs.Permanent(err): // the others are told all the same; he is with the next try
			failed = err
		default:
			e.Logger.ErrorContext(ctx, "somebody cannot be told of an alert", "alert", a.ID, "error", err)
		}
	}
	return told, failed
}

func (e *Escalator) atSite(ctx context.Context, a *Alert, rota *Rota, zone string) ([]Contact, error) {
	site, err := e.Catalog.SiteByID(ctx, a.Study, a.Site)
	if err != nil {
		return nil, err
	}
	local := e.now()
	if z, err := task.LoadZone(zone); err == nil {
		local = local.In(z)
	}
	if people := rota.OnDuty(site.Code, local); len(people) > 0 {
		return people, nil
	}
	if site.Email != "" || site.Phone != "" {
		return []Contact{{Email: site.Email, Phone: site.Phone}}, nil
	}
	return rota.Manager, nil
}
