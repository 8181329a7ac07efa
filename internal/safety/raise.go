package safety

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/eprod/eprod/internal/audit"
	"github.com/eprod/eprod/internal/db"
	"github.com/eprod/eprod/internal/errs"
	"github.com/eprod/eprod/internal/outbox"
	"github.com/eprod/eprod/internal/participant"
	"github.com/eprod/eprod/internal/submission"
	"github.com/eprod/eprod/internal/trace"
)

// Book remembers the newest rules of studies for a moment, and those before them as long as it is asked. It is safe for concurrent use.
type Book struct {
	store *Store
	ttl   time.Duration
	now   func() time.Time
	mu    sync.Mutex
	known map[int64]page
}

type page struct {
	rules Rules
	at    time.Time // when they were the newest
	past  past
}

// past is a version that applied from one instant, at the least, until before another.
type past struct {
	rules       Rules
	from, until time.Time
}

func (p *past) covers(at time.Time) bool { return !at.Before(p.from) && at.Before(p.until) }

const maxPages = 5000 // studies in memory; beyond, all are read anew

// NewBook returns an empty book whose pages are ttl old at most, or older while the metadata database does not answer.
func NewBook(store *Store, ttl time.Duration, now func() time.Time) *Book {
	return &Book{store: store, ttl: ttl, now: now, known: make(map[int64]page)}
}

// Remembered returns a study's rules from memory; false where they must be read.
func (b *Book) Remembered(study int64) (Rules, bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	p, ok := b.known[study]
	return p.rules, ok && b.now().Sub(p.at) < b.ttl
}

// Rules returns a study's newest rules; none where it has none.
func (b *Book) Rules(ctx context.Context, study int64) (Rules, error) {
	if r, ok := b.Remembered(study); ok {
		return r, nil
	}
	at := b.now()
	r, err := b.store.Rules(ctx, study, 0)
	if errs.KindOf(err) == errs.NotFound {
		err = nil
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if err != nil {
		old, ok := b.known[study]
		if ok {
			return old.rules, nil
		}
		return r, err
	}
	if len(b.known) >= maxPages {
		clear(b.known)
	}
	b.known[study] = page{rules: r, at: at, past: b.known[study].past}
	return r, nil
}

// RulesAt returns the rules that apply to what was received at an instant: the version that was the newest then. So a backlog is held against the
// rules under which it was accepted, and a replay finds what was found before.
func (b *Book) RulesAt(ctx context.Context, study int64, at time.Time) (Rules, error) {
	newest, err := b.Rules(ctx, study)
	if err != nil || at.IsZero() || !at.Before(newest.At) {
		return newest, err
	}
	b.mu.Lock()
	p := b.known[study].past
	b.mu.Unlock()
	if p.covers(at) {
		return p.rules, nil
	}
	p = past{from: at}
	if p.rules, p.until, err = b.store.RulesAt(ctx, study, at); err != nil {
		return Rules{}, err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if page, ok := b.known[study]; ok {
		page.past = p
		b.known[study] = page
	}
	return p.rules, nil
}

// Receipts tells what became of a submission.
type Receipts interface {
	Receipt(ctx context.Context, participant int64, id uuid.UUID) (submission.Receipt, error)
}

// Raiser writes alerts. It is safe for concurrent use.
type Raiser struct {
	Store    *Store
	Receipts Receipts
	IDs      IDs
	Now      func() time.Time
	Meter    Meter
	Logger   *slog.Logger
}

// occasion is a submission that rules have looked at.
type occasion struct {
	study, participant, response int64
	submission                   uuid.UUID
	state                        string // as far as it is known
	urgent                       bool
}

// finding is a rule that held.
type finding struct {
	Rule     string       `json:"rule"`
	Version  int64        `json:"version"`
	Severity string       `json:"severity"`
	Steps    []Escalation `json:"escalation"`
	Evidence Evidence     `json:"evidence"`
}

// look evaluates rules and returns what held.
func look(rules []*Rule, version int64, f *Facts) []finding {
	var out []finding
	for _, r := range rules {
		found, held := r.Evaluate(f)
		if !held {
			continue
		}
		out = append(out, finding{r.ID, version, r.Severity, r.steps(), Evidence{Title: r.Title, Questionnaire: f.Definition.Canonical(), Authored: f.Response.Authored, Found: found}})
	}
	return out
}

// urgent writes what urgent rules have found at the door, and then what has become of the submission meanwhile: the events that say so may
// have passed before the alerts were there.
func (r *Raiser) urgent(ctx context.Context, p *participant.Profile, o occasion, findings []finding) error {
	o.state, o.urgent = string(submission.Received), true
	if err := r.raise(ctx, p, o, findings); err != nil {
		return err
	}
	receipt, err := r.Receipts.Receipt(ctx, o.participant, o.submission)
	if errs.KindOf(err) == errs.NotFound || err == nil && receipt.State == submission.Received {
		return nil
	}
	if err != nil {
		return err
	}
	o.state = string(receipt.State)
	return r.raise(ctx, p, o, nil)
}

// raise writes the alerts of an occasion that are not there yet, and what is known of its submission in those that are. A study that is
// locked takes neither (db.IsClosed): what is lost by that is told to whoever runs the system.
func (r *Raiser) raise(ctx context.Context, p *participant.Profile, o occasion, findings []finding) error {
	fresh, err := r.write(ctx, p, o, findings)
	if err == nil {
		r.Meter.Alerts(len(fresh), o.urgent)
	}
	if !db.IsClosed(err) || len(findings) == 0 {
		return err
	}
	there, readErr := r.Store.Raised(ctx, o.participant, o.submission)
	if readErr != nil {
		return readErr
	}
	lost := 0
	for _, f := range findings {
		if !slices.Contains(there, f.Rule) {
			lost++
		}
	}
	if lost > 0 {
		r.Meter.Refused(lost)
		r.Logger.ErrorContext(ctx, "a locked study takes no alerts: what safety rules have found is not kept", "study", o.study, "submission.id", o.response, "alerts", lost)
	}
	return err
}

// write writes the alerts of an occasion that are not there yet and returns the rules of those.
func (r *Raiser) write(ctx context.Context, p *participant.Profile, o occasion, findings []finding) ([]string, error) {
	at := r.Now().UTC().Truncate(time.Microsecond)
	var ids []int64
	if n := 3 * len(findings); n > 0 {
		var err error
		if ids, err = r.IDs.NextN(n); err != nil {
			return nil, err
		}
	}
	alerts := make([]Alert, len(findings))
	place := make(map[string]int, len(findings))
	for i, f := range findings {
		plain, err := json.Marshal(f.Evidence)
		if err != nil {
			return nil, err
		}
		a := Alert{ID: ids[i], Participant: o.participant, Study: o.study, Site: p.Site, Rule: f.Rule, RulesVersion: f.Version, Submission: o.submission, Response: o.response,
			Severity: f.Severity, State: StateOpen, Urgent: o.urgent, SubmissionState: o.state, RaisedAt: at, UpdatedAt: at, NextAt: due(f.Steps, 0, at), Notes: []byte{}, Trace: trace.Header(ctx)}
		if a.Sealed, err = p.Key.Seal(plain, evidencePlace(a.Participant, a.ID)); err != nil {
			return nil, err
		}
		alerts[i], place[f.Rule] = a, i
	}
	about := Occurrence{Study: o.study, Participant: o.participant, Submission: o.submission, State: o.state, At: at, Alerts: alerts}
	about.Raised = func(a *Alert) (audit.Entry, outbox.Event) {
		n := len(findings) + 2*place[a.Rule]
		return bySystem(ids[n], at, "alert.raise", a, fmt.Appendf(nil, `{"rule":%q,"version":%d,"severity":%q,"submission":%q,"urgent":%t}`,
			a.Rule, a.RulesVersion, a.Severity, o.submission, a.Urgent)), eventOf(ids[n+1], a, "alert.raise", at)
	}
	about.Moved = func(was *Alert) (audit.Entry, error) {
		ids, err := r.IDs.NextN(1)
		if err != nil {
			return audit.Entry{}, err
		}
		e := bySystem(ids[0], at, "alert.submission", was, fmt.Appendf(nil, `{"submissionState":%q}`, o.state))
		e.Old = fmt.Appendf(nil, `{"submissionState":%q}`, was.SubmissionState)
		return e, nil
	}
	return r.Store.Raise(ctx, about)
}

// bySystem is the audit entry of what happens to an alert without a person.
func bySystem(id int64, at time.Time, action string, a *Alert, is []byte) audit.Entry {
	return audit.Entry{ID: id, At: at, Zone: "UTC", ActorKind: "system", Action: action, Record: "alert", RecordID: a.ID, Study: a.Study, Participant: a.Participant, New: is, Source: "safety"}
}

// due returns when a step of an escalation is due; zero after the last one.
func due(steps []Escalation, n int, raised time.Time) time.Time {
	if n >= len(steps) {
		return time.Time{}
	}
	after, _ := duration(steps[n].After) // checked when it was published
	return raised.Add(after)
}
