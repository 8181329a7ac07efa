package safety

import (
	"context"
	"encoding/json"
	"fmt"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/eprod/eprod/internal/audit"
	"github.com/eprod/eprod/internal/errs"
	"github.com/eprod/eprod/internal/outbox"
	"github.com/eprod/eprod/internal/participant"
)

// Book remembers the newest rules of studies for a moment. It is safe for concurrent use.
type Book struct {
	store *Store
	ttl   time.Duration
	now   func() time.Time
	mu    sync.Mutex
	known map[int64]page
}

type page struct {
	rules Rules
	at    time.Time
}

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
	b.known[study] = page{r, at}
	return r, nil
}

// Raiser writes alerts. It is safe for concurrent use.
type Raiser struct {
	Store *Store
	IDs   IDs
	Now   func() time.Time
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

// raise writes the alerts of an occasion that are not there yet and returns the rules of those.
func (r *Raiser) raise(ctx context.Context, p *participant.Profile, o occasion, findings []finding) ([]string, error) {
	at := r.Now().UTC().Truncate(time.Microsecond)
	ids, err := r.IDs.NextN(3*len(findings) + 1)
	if err != nil {
		return nil, err
	}
	alerts := make([]Alert, len(findings))
	place := make(map[string]int, len(findings))
	for i, f := range findings {
		plain, err := json.Marshal(f.Evidence)
		if err != nil {
			return nil, err
		}
		a := Alert{ID: ids[i], Participant: o.participant, Study: o.study, Site: p.Site, Rule: f.Rule, RulesVersion: f.Version, Submission: o.submission, Response: o.response,
			Severity: f.Severity, State: StateOpen, Urgent: o.urgent, SubmissionState: o.state, RaisedAt: at, UpdatedAt: at, NextAt: due(f.Steps, 0, at), Notes: []byte{}}
		if a.Sealed, err = p.Key.Seal(plain, evidencePlace(a.Participant, a.ID)); err != nil {
			return nil, err
		}
		alerts[i], place[f.Rule] = a, i
	}
	return r.Store.Raise(ctx, o.study, o.participant, o.submission, o.state, at, alerts, func(a *Alert) (audit.Entry, outbox.Event) {
		n := len(findings) + 2*place[a.Rule]
		entry := audit.Entry{ID: ids[n], At: at, Zone: "UTC", ActorKind: "system", Action: "alert.raise", Record: "alert", RecordID: a.ID, Study: a.Study, Participant: a.Participant,
			New: fmt.Appendf(nil, `{"rule":%q,"version":%d,"severity":%q,"submission":%q,"urgent":%t}`, a.Rule, a.RulesVersion, a.Severity, o.submission, a.Urgent), Source: "safety"}
		return entry, eventOf(ids[n+1], a, "alert.raise", at)
	})
}

// due returns when a step of an escalation is due; zero after the last one.
func due(steps []Escalation, n int, raised time.Time) time.Time {
	if n >= len(steps) {
		return time.Time{}
	}
	after, _ := duration(steps[n].After) // checked when it was published
	return raised.Add(after)
}
