package task

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/eprod/eprod/internal/auth"
	"github.com/eprod/eprod/internal/errs"
)

// Plans returns the versions of a study's schedule; none where there is no schedule yet.
type Plans interface {
	Plan(ctx context.Context, study int64) (Plan, error)
}

// People finds participants; errs.NotFound if there is no such one.
type People interface {
	Person(ctx context.Context, id int64) (Person, error)
	// Site returns a participant's study and site.
	Site(ctx context.Context, id int64) (study, site int64, err error)
}

// Questionnaires finds the id of a questionnaire version by its canonical reference.
type Questionnaires interface {
	QuestionnaireID(ctx context.Context, study int64, canonical string) (int64, error)
}

// Completions tells what became of tasks.
type Completions interface {
	// Done returns those of the tasks that are completed or excused.
	Done(ctx context.Context, participant int64, ids []int64) (map[int64]Done, error)
}

// Numbers returns the participant numbers of those ids that exist.
type Numbers interface {
	Numbers(ctx context.Context, ids []int64) (map[int64]string, error)
}

// Service lists tasks. It is safe for concurrent use.
type Service struct {
	Engine         *Engine
	Plans          Plans
	People         People
	Questionnaires Questionnaires
	Completions    Completions
	Reports        Reports
	Drafts         Drafts
	Pages          Pages
	Numbers        Numbers
	IDs            IDs
	Guard          auth.Guard
	Now            func() time.Time
}

// Listed is a task with what is stored about it.
type Listed struct {
	Task
	State           State
	Done            Done
	QuestionnaireID int64
}

// Range of a list: the default looks a week either way, and no list spans more than MaxRange.
const (
	DefaultRange = 7 * 24 * time.Hour
	MaxRange     = 400 * 24 * time.Hour
)

// Mine lists the signed-in participant's tasks that touch [from, to), by opening.
func (s *Service) Mine(ctx context.Context, from, to time.Time) ([]Listed, error) {
	who, err := auth.Participant(ctx)
	if err != nil {
		return nil, err
	}
	return s.list(ctx, who.ID, from, to)
}

// Of lists a participant's tasks for staff.
func (s *Service) Of(ctx context.Context, study, participant int64, from, to time.Time) ([]Listed, error) {
	if err := s.Guard.Participant(ctx, s.People, study, participant, auth.TaskRead); err != nil {
		return nil, err
	}
	return s.list(ctx, participant, from, to)
}

// Explained is what every rule means on one date, and what became of the tasks that are due then.
type Explained struct {
	ScheduleVersion int64
	Rules           []Explanation
	Listed          map[int64]Listed // by task id
}

// Explain tells staff for every rule of the current schedule why it gives a participant a task on a local date, or why not.
func (s *Service) Explain(ctx context.Context, study, participant int64, date Date) (Explained, error) {
	if err := s.Guard.Participant(ctx, s.People, study, participant, auth.TaskRead); err != nil {
		return Explained{}, err
	}
	person, err := s.People.Person(ctx, participant)
	if err != nil {
		return Explained{}, fmt.Errorf("participant: %w", err)
	}
	plan, err := s.Plans.Plan(ctx, person.Study)
	if err != nil {
		return Explained{}, fmt.Errorf("schedule: %w", err)
	}
	out := Explained{ScheduleVersion: plan.Current().Version, Rules: s.Engine.Explain(plan, person, date), Listed: make(map[int64]Listed)}
	var tasks []Task
	for i := range out.Rules {
		tasks = append(tasks, out.Rules[i].Tasks...)
	}
	list, err := s.listed(ctx, person, tasks)
	for _, l := range list {
		out.Listed[l.ID] = l
	}
	return out, err
}

func (s *Service) list(ctx context.Context, participant int64, from, to time.Time) ([]Listed, error) {
	now := s.Now()
	if from.IsZero() {
		from = now.Add(-DefaultRange)
	}
	if to.IsZero() {
		to = from.Add(2 * DefaultRange)
	}
	if !from.Before(to) || to.Sub(from) > MaxRange {
		return nil, errs.InvalidParameter("to", "must be after from and at most 400 days later")
	}
	person, err := s.People.Person(ctx, participant)
	if err != nil {
		return nil, fmt.Errorf("participant: %w", err)
	}
	plan, err := s.Plans.Plan(ctx, person.Study)
	if err != nil {
		return nil, fmt.Errorf("schedule: %w", err)
	}
	list, err := s.listed(ctx, person, s.Engine.Generate(plan, person, from, to))
	return offered(list), err
}

// listed adds to tasks what is stored about them.
func (s *Service) listed(ctx context.Context, person Person, tasks []Task) ([]Listed, error) {
	now := s.Now()
	ids := make([]int64, len(tasks))
	for i := range tasks {
		ids[i] = tasks[i].ID
	}
	done, err := s.Completions.Done(ctx, person.ID, ids)
	if err != nil {
		return nil, err
	}
	list := make([]Listed, len(tasks))
	for i, t := range tasks {
		d, ok := done[t.ID]
		id, err := s.Questionnaires.QuestionnaireID(ctx, person.Study, t.Questionnaire)
		if err != nil {
			return nil, fmt.Errorf("questionnaire of rule %s: %w", t.Rule, err)
		}
		list[i] = Listed{Task: t, State: t.StateAt(now, ok && !d.Excused), Done: d, QuestionnaireID: id}
		if d.Excused {
			list[i].State = Excused
		}
	}
	return list, nil
}

// offered leaves out what nobody has to look at: of the answers that a day takes at any time, those that were given and one more
// while it can be given are listed.
func offered(list []Listed) []Listed {
	type day struct {
		rule string
		date Date
	}
	free := make(map[day]bool)
	return slices.DeleteFunc(list, func(l Listed) bool {
		if !l.Optional || l.State == Completed {
			return false
		}
		key := day{l.Rule, l.Date}
		if l.State != Open || free[key] {
			return true
		}
		free[key] = true
		return false
	})
}
