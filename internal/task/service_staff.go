package task

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/eprod/eprod/internal/audit"
	"github.com/eprod/eprod/internal/auth"
	"github.com/eprod/eprod/internal/errs"
)

// Reports counts tasks and excuses them; see Store for the promises.
type Reports interface {
	Adherence(ctx context.Context, q Query) ([]Adherence, error)
	Excuse(ctx context.Context, key Key, excused bool, now time.Time, entry audit.Entry) error
}

// IDs gives ascending Snowflake ids.
type IDs interface {
	NextN(n int) ([]int64, error)
}

// Drafts returns a study's plan as it is and as it would be with a design; see study.Service.Amended.
type Drafts interface {
	Amended(ctx context.Context, study int64, design Design, from time.Time) (was, is Plan, at time.Time, err error)
}

// Pages reads a study's participants by id.
type Pages interface {
	// InStudy returns participants with ids above after, by id, up to limit.
	InStudy(ctx context.Context, study, after int64, limit int) ([]Person, error)
}

// Report is a page of adherence.
type Report struct {
	Lines []Adherence
	Total Adherence // of all pages
	More  bool
}

// Adherence reports on the sites at which the caller may see tasks. Lines come in the order of what they are grouped by; after is how
// many lines to pass over.
func (s *Service) Adherence(ctx context.Context, q Query, after, limit int) (Report, error) {
	if _, known := groupings[q.By]; !known {
		return Report{}, errs.InvalidParameter("by", "must be study, site, participant, day or window")
	}
	if err := checkReport(q.From, q.To); err != nil {
		return Report{}, err
	}
	sites, all, err := s.Guard.Sites(ctx, q.Study, auth.TaskRead)
	if err != nil {
		return Report{}, err
	}
	if q.Sites = nil; !all {
		q.Sites = sites
	}
	q.Now = s.Now()
	parts, err := s.Reports.Adherence(ctx, q)
	if err != nil {
		return Report{}, err
	}
	lines := gathered(parts)
	var r Report
	for i := range lines {
		r.Total.add(&lines[i])
	}
	lines = lines[min(after, len(lines)):]
	r.More = len(lines) > limit
	r.Lines = lines[:min(limit, len(lines))]
	return r, nil
}

// gathered adds up what several shards have of one group, in order.
func gathered(parts []Adherence) []Adherence {
	slices.SortStableFunc(parts, func(a, b Adherence) int {
		return cmp.Or(cmp.Compare(a.Site, b.Site), cmp.Compare(a.Participant, b.Participant), strings.Compare(a.Date, b.Date), strings.Compare(a.Rule, b.Rule), cmp.Compare(a.Window, b.Window))
	})
	var out []Adherence
	for i := range parts {
		p := &parts[i]
		if n := len(out); n > 0 && out[n-1].Site == p.Site && out[n-1].Participant == p.Participant && out[n-1].Date == p.Date && out[n-1].Rule == p.Rule && out[n-1].Window == p.Window {
			out[n-1].add(p)
			continue
		}
		out = append(out, *p)
	}
	return out
}

const maxReason = 500 // bytes

// Excuse says that a task which was not answered does not count against the participant, or takes that back. The reason is kept in the
// audit trail.
func (s *Service) Excuse(ctx context.Context, study, participant, task int64, excused bool, reason, source string) error {
	if err := s.Guard.Participant(ctx, s.People, study, participant, auth.TaskExcuse); err != nil {
		return err
	}
	if reason = strings.TrimSpace(reason); reason == "" || len(reason) > maxReason {
		return errs.InvalidField(errs.Finding{Pointer: "/reason", Code: "invalid_length", Detail: fmt.Sprintf("must have 1 to %d bytes", maxReason)})
	}
	who, _ := auth.From(ctx)
	ids, err := s.IDs.NextN(1)
	if err != nil {
		return fmt.Errorf("id of an audit entry: %w", err)
	}
	now := s.Now().UTC().Truncate(time.Microsecond)
	entry := audit.Entry{ID: ids[0], At: now, Zone: "UTC", ActorKind: string(who.Kind), Actor: who.ID, Action: "task.excuse", Record: "task", RecordID: task,
		Study: study, Participant: participant, Reason: reason, Source: source, Old: []byte(`{"state":"issued"}`), New: []byte(`{"state":"excused"}`)}
	if !excused {
		entry.Action, entry.Old, entry.New = "task.unexcuse", entry.New, entry.Old
	}
	return s.Reports.Excuse(ctx, Key{participant, task}, excused, now, entry)
}

// Amendment is what a new version of the schedule would do.
type Amendment struct {
	EffectiveAt  time.Time
	Until        time.Time // how far was looked ahead
	Participants []AmendedPerson
	More         bool
}

// AmendedPerson is what it would do to one participant: only tasks that have not opened by then are touched.
type AmendedPerson struct {
	Participant int64
	Number      string
	Kept        int
	Created     []Task
	Moved       []Task // have other times or another questionnaire
	Cancelled   []Task
}

const maxDryRun = 1_000_000 // windows that one dry run may look at

// Amend computes what a design would do to the tasks of a study's participants with ids above after, in so many days from when it
// applies. It writes nothing.
func (s *Service) Amend(ctx context.Context, study int64, design Design, from time.Time, days int, after int64, limit int) (Amendment, error) {
	was, is, at, err := s.Drafts.Amended(ctx, study, design, from)
	if err != nil {
		return Amendment{}, err
	}
	windows := 0
	for i := range design.Rules {
		windows += design.Rules[i].PerDay()
	}
	if windows*days*limit > maxDryRun {
		return Amendment{}, errs.InvalidParameter("limit", fmt.Sprintf("so many windows need fewer days or participants: at most %d", max(1, maxDryRun/windows/days)))
	}
	people, err := s.Pages.InStudy(ctx, study, after, limit+1)
	if err != nil {
		return Amendment{}, err
	}
	out := Amendment{EffectiveAt: at, Until: at.AddDate(0, 0, days), More: len(people) > limit}
	people = people[:min(limit, len(people))]
	ids := make([]int64, len(people))
	for i := range people {
		ids[i] = people[i].ID
	}
	numbers, err := s.Numbers.Numbers(ctx, ids)
	if err != nil {
		return Amendment{}, err
	}
	for _, p := range people {
		out.Participants = append(out.Participants, amended(s.Engine.Generate(was, p, at, out.Until), s.Engine.Generate(is, p, at, out.Until), p.ID, numbers[p.ID]))
	}
	return out, nil
}

// amended compares two computations for one participant.
func amended(was, is []Task, participant int64, number string) AmendedPerson {
	out := AmendedPerson{Participant: participant, Number: number}
	before := make(map[int64]*Task, len(was))
	for i := range was {
		before[was[i].ID] = &was[i]
	}
	for _, t := range is {
		old, there := before[t.ID]
		delete(before, t.ID)
		switch {
		case !there:
			out.Created = append(out.Created, t)
		case sameTimes(old, &t):
			out.Kept++
		default:
			out.Moved = append(out.Moved, t)
		}
	}
	for i := range was {
		if _, gone := before[was[i].ID]; gone {
			out.Cancelled = append(out.Cancelled, was[i])
		}
	}
	return out
}
