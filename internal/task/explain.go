package task

import (
	"fmt"
	"slices"
	"time"
)

// Why a rule gives a participant a task on a date, or none.
const (
	WhyDue         = "due"
	WhyArm         = "other_arm"       // the rule is for other arms
	WhyNoAnchor    = "no_anchor"       // the event that the rule counts from has no date
	WhyNotYet      = "before_first"    // the first day comes later
	WhyOver        = "after_last"      // the last possible day was earlier
	WhyBetween     = "between_repeats" // the series does not fall on this date
	WhyWeekday     = "other_weekday"   // the rule is not for this day of the week
	explainHorizon = 800               // days around a date in which the nearest due dates are looked for
)

// Explanation says what one rule means for one participant on one local date.
type Explanation struct {
	Rule       Rule
	Why        string // one of the words above
	Detail     string // for people
	Anchor     Date   // zero without one
	First      Date   // first day of the series; zero without an anchor
	Last       Date   // last possible day; First where the rule does not repeat
	Previous   Date   // nearest due date before; zero where there is none
	Next       Date   // nearest due date after; zero where there is none
	Tasks      []Task // where due, one per window
	ZoneReason string // where due, why the windows are in their zone
}

// Explain says for every rule why it gives the participant a task on a local date, or why not. It is the same computation as
// Generate, asked the other way round: a rule is due on exactly the dates that Generate has tasks for.
func (e *Engine) Explain(s Schedule, p Person, d Date) []Explanation {
	out := make([]Explanation, len(s.rules))
	for i := range s.rules {
		out[i] = e.explain(&s, &s.rules[i], &p, d)
	}
	return out
}

func (e *Engine) explain(s *Schedule, r *compiled, p *Person, d Date) Explanation {
	x := Explanation{Rule: *r.Rule}
	anchor, ok := r.applies(p)
	switch {
	case !ok && len(r.Arms) > 0 && !slices.Contains(r.Arms, p.Arm):
		x.Why, x.Detail = WhyArm, fmt.Sprintf("the rule is for the arms %v; the participant is in arm %q", r.Arms, p.Arm)
		return x
	case !ok:
		x.Why, x.Detail = WhyNoAnchor, fmt.Sprintf("the rule counts from the event %q, for which the participant has no date", r.Anchor)
		return x
	}
	x.Anchor, x.First = anchor, r.occurrence(anchor, 0)
	x.Last = x.First
	if r.repeats {
		x.Last = anchor.AddMonths(r.until.months).AddDays(r.until.days)
	}
	day := d.days()
	due := false
	r.dates(anchor, day-explainHorizon, day+explainHorizon, func(on Date) bool {
		switch n := on.days(); {
		case n < day:
			x.Previous = on
		case n == day:
			due = true
		default:
			x.Next = on
			return false
		}
		return true
	})
	if due {
		x.Why, x.Detail = WhyDue, fmt.Sprintf("%s is day %d from %s on %s", d, day-anchor.days(), r.Anchor, anchor)
		for w := range r.windows {
			x.Tasks = append(x.Tasks, e.task(s, r, p, d, w))
		}
		x.ZoneReason = zoneReason(p, x.Tasks)
		return x
	}
	x.Why, x.Detail = r.whyNot(&x, d)
	return x
}

// whyNot names the first condition that a date fails, in the order in which a protocol states them.
func (r *compiled) whyNot(x *Explanation, d Date) (why, detail string) {
	switch {
	case d.Compare(x.First) < 0 && !(r.repeats && r.weekly() && d.days() > x.First.days()-7):
		return WhyNotYet, fmt.Sprintf("the first day is %s: %s from %s on %s", x.First, r.Offset, r.Anchor, x.Anchor)
	case d.Compare(x.Last) > 0:
		return WhyOver, fmt.Sprintf("the last possible day was %s", x.Last)
	case !r.onWeekday(d.Weekday()):
		return WhyWeekday, fmt.Sprintf("%s is a %s; the rule is for %v", d, d.Weekday(), r.Weekdays)
	case d.Compare(x.First) < 0:
		return WhyNotYet, fmt.Sprintf("the first day is %s: %s from %s on %s", x.First, r.Offset, r.Anchor, x.Anchor)
	}
	every := ""
	if r.Repeat != nil {
		every = ", every " + r.Repeat.Every
	}
	return WhyBetween, fmt.Sprintf("the series counts from %s%s, and does not fall on %s", x.First, every, d)
}

// weekly reports whether the rule has several days in each of its weeks.
func (r *compiled) weekly() bool { return !r.anyWeekday && r.every.months == 0 && r.every.days%7 == 0 }

// zoneReason says by whose clocks windows are, and why where the participant has moved.
func zoneReason(p *Person, tasks []Task) string {
	if len(p.Zones) < 2 || len(tasks) == 0 {
		return ""
	}
	t := &tasks[0]
	for _, change := range p.Zones[1:] {
		if t.Zone == change.Zone {
			continue
		}
		at := change.From.UTC().Format(time.RFC3339)
		switch {
		case !t.OpensAt.After(change.From):
			return fmt.Sprintf("stays by the clocks of %s: it had opened when the participant changed to %s at %s", t.Zone, change.Zone, at)
		case p.Zones[len(p.Zones)-1] == change:
			return fmt.Sprintf("stays by the clocks of %s: by those of %s, from %s on, it would have been over already", t.Zone, change.Zone, at)
		}
	}
	return fmt.Sprintf("the participant lives by the clocks of %s then", t.Zone)
}
