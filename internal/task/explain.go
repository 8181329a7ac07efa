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
	WhyLeft        = "left_study"      // the participant had left when it would have opened
	WhyRecorded    = "recorded_later"  // it was over before the change that makes it due was recorded
	explainHorizon = 800               // days around a date in which the nearest due dates are looked for
)

// Explanation says what one rule means for one participant on one local date.
type Explanation struct {
	Rule       Rule
	Version    int64  // of the schedule that the rule is read from: the one that issued the tasks, else the current one
	Why        string // one of the words above
	Detail     string // for people
	Anchor     Date   // zero without one
	First      Date   // first day of the series; zero without an anchor
	Last       Date   // last possible day; zero where only an event will end it
	Previous   Date   // nearest date of the series before; zero where there is none
	Next       Date   // nearest date of the series after; zero where there is none
	Tasks      []Task // where due, one per window
	ZoneReason string // where due, why the windows are in their zone
}

// Explain says for every rule of the current version why it gives the participant a task on a local date, or why not, and for
// the rules of earlier versions which tasks they have issued for it. It is the same computation as Generate, asked the other way
// round: a rule is due on exactly the dates that Generate has tasks for.
func (e *Engine) Explain(plan Plan, p Person, d Date) []Explanation {
	var room [4]epoch
	all := epochs(room[:0], plan, &p)
	if len(all) == 0 {
		return nil
	}
	var out []Explanation
	said := make(map[string]bool)
	last := len(all) - 1
	for n := range all[last].version.rules {
		r := &all[last].version.rules[n]
		said[r.ID] = true
		out = append(out, e.explain(all, last, r, &p, d))
	}
	for i := last - 1; i >= 0; i-- {
		for n := range all[i].version.rules {
			r := &all[i].version.rules[n]
			if said[r.ID] {
				continue
			}
			said[r.ID] = true
			if x := e.explain(all, i, r, &p, d); x.Why == WhyDue {
				out = append(out, x)
			}
		}
	}
	return out
}

// explain explains a rule of the epoch in.
func (e *Engine) explain(all []epoch, in int, r *compiled, p *Person, d Date) Explanation {
	var tasks []Task
	by := in
	for w := range maxWindows {
		if t, i := e.issue(all, p, r.ID, d, w, len(all)-1); i != never {
			tasks, by = append(tasks, t), i
		}
	}
	if len(tasks) > 0 {
		r = all[by].version.rule(r.ID)
	}
	x := Explanation{Rule: *r.Rule, Version: all[by].version.Version, Tasks: tasks}
	arm, anchors := all[by].arm, all[by].anchors
	s, ok := r.series(arm, anchors)
	if !ok {
		x.Why, x.Detail = r.foreign(arm)
		return x
	}
	x.Anchor = s.anchor
	first, _ := s.occurrence(0)
	x.First = dateOfDays(first)
	x.Last, _ = s.end()
	day := d.days()
	s.dates(day-explainHorizon, day+explainHorizon, func(on Date) bool {
		switch n := on.days(); {
		case n < day:
			x.Previous = on
		case n > day:
			x.Next = on
			return false
		}
		return true
	})
	if len(tasks) > 0 {
		x.Why, x.Detail = WhyDue, fmt.Sprintf("%s is day %d from %s on %s", d, day-s.anchor.days(), r.Anchor, s.anchor)
		x.ZoneReason = zoneReason(p, tasks)
		return x
	}
	if s.falls(d) {
		x.Why, x.Detail = e.withheld(all, in, r, p, d)
		return x
	}
	x.Why, x.Detail = s.whyNot(&x, d)
	return x
}

// foreign says why a rule has no days for a participant at all.
func (r *compiled) foreign(arm string) (why, detail string) {
	if len(r.Arms) > 0 && !slices.Contains(r.Arms, arm) {
		return WhyArm, fmt.Sprintf("the rule is for the arms %v; the participant is in arm %q", r.Arms, arm)
	}
	return WhyNoAnchor, fmt.Sprintf("the rule counts from the event %q, for which the participant has no date", r.Anchor)
}

// withheld says why a date of the series was not issued.
func (e *Engine) withheld(all []epoch, in int, r *compiled, p *Person, d Date) (why, detail string) {
	t, placing := e.place(all, in, p, r.ID, d, 0)
	if placing == afterLeave {
		return WhyLeft, fmt.Sprintf("the participant left the study at %s, before it would have opened at %s", stamp(p.Left), stamp(t.OpensAt))
	}
	return WhyRecorded, fmt.Sprintf("it closed at %s; what makes it due was recorded at %s only", stamp(t.ClosesAt), stamp(all[in].from))
}

func stamp(at time.Time) string { return at.UTC().Format(time.RFC3339) }

// whyNot names the first condition that a date fails, in the order in which a protocol states them.
func (r *series) whyNot(x *Explanation, d Date) (why, detail string) {
	switch {
	case d.Compare(x.First) < 0 && !(r.Repeat != nil && r.weekly() && d.days() > x.First.days()-7):
		return WhyNotYet, fmt.Sprintf("the first day is %s: %s from %s on %s", x.First, r.Offset, r.Anchor, x.Anchor)
	case x.Last != (Date{}) && d.Compare(x.Last) > 0:
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
		at := stamp(change.From)
		switch {
		case !t.OpensAt.After(change.From):
			return fmt.Sprintf("stays by the clocks of %s: it had opened when the participant changed to %s at %s", t.Zone, change.Zone, at)
		case p.Zones[len(p.Zones)-1] == change:
			return fmt.Sprintf("stays by the clocks of %s: by those of %s, from %s on, it would have been over already", t.Zone, change.Zone, at)
		}
	}
	return fmt.Sprintf("the participant lives by the clocks of %s then", t.Zone)
}
