package task

import (
	"slices"
	"time"
)

// rung is one reminder of a rule.
type rung struct {
	At       string
	after    time.Duration
	to       string
	channels []string
}

// name tells the rungs of a ladder apart; it is part of what makes a message unique.
func (g rung) name() string { return g.At + "/" + g.after.String() + "/" + g.to }

// Rung is one reminder of a task.
type Rung struct {
	Name     string // unique in the ladder of its task, the same in every version that has it
	At       time.Time
	To       string // ToParticipant or ToSite
	Channels []string
	Kind     string // opens, due, closes or missed
}

// Ladder returns the reminders of a task by the version of the plan that issued it, by time and name.
func (p Plan) Ladder(t *Task) []Rung {
	var r *compiled
	for i := range p {
		if p[i].Version == t.ScheduleVersion {
			r = p[i].rule(t.Rule)
		}
	}
	if r == nil {
		return nil
	}
	out := make([]Rung, 0, len(r.rungs))
	for _, g := range r.rungs {
		at := t.OpensAt
		switch g.At {
		case "due":
			at = t.DueAt
		case "closes":
			at = t.ClosesAt
		case "missed":
			at = t.GraceUntil
		}
		out = append(out, Rung{Name: g.name(), At: at.Add(g.after), To: g.to, Channels: g.channels, Kind: g.At})
	}
	slices.SortFunc(out, func(a, b Rung) int {
		if c := a.At.Compare(b.At); c != 0 {
			return c
		}
		if a.Name < b.Name {
			return -1
		}
		return 1
	})
	return out
}

// next returns when the first rung after an instant is; the zero time where there is none.
func next(ladder []Rung, after time.Time) time.Time {
	for i := range ladder {
		if ladder[i].At.After(after) {
			return ladder[i].At
		}
	}
	return time.Time{}
}
