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

// Allowed returns the first instant at or after one at which a message may go out by a zone's clocks: not in the quiet hours and not
// on a holiday. The zero time means never in a year.
func (t *Timing) Allowed(at time.Time, zone *time.Location) time.Time {
	for range 2 * 366 {
		local := at.In(zone)
		date, now := dateOf(local), clock(local.Hour()*60+local.Minute())
		switch {
		case t.Holidays[date]:
			at = instant(date.AddDays(1), 0, zone, change{})
		case t.QuietFrom < t.QuietUntil && now >= t.QuietFrom && now < t.QuietUntil, t.QuietFrom > t.QuietUntil && now < t.QuietUntil:
			at = later(at, instant(date, t.QuietUntil, zone, change{repeated: second}))
		case t.QuietFrom > t.QuietUntil && now >= t.QuietFrom:
			at = instant(date.AddDays(1), t.QuietUntil, zone, change{repeated: second})
		default:
			return at
		}
	}
	return time.Time{}
}

// later goes forward also where the clocks were put back inside the quiet hours.
func later(at, to time.Time) time.Time {
	if to.After(at) {
		return to
	}
	return at.Add(time.Minute)
}

// Jitter spreads the messages of one moment: how much later a participant's goes out, the same each time.
func (t *Timing) Jitter(participant int64) time.Duration {
	if t.Spread <= 0 {
		return 0
	}
	h := uint64(participant) * 0x9e3779b97f4a7c15 // Fibonacci hashing: neighbouring ids fall far apart
	return time.Duration(float64(h>>11) / (1 << 53) * float64(t.Spread))
}
