package task

import (
	"slices"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
)

// Engine computes tasks. It only remembers time zones; it is safe for concurrent use.
type Engine struct {
	zones *lru.Cache[string, *time.Location]
}

// NewEngine returns an engine that remembers up to 1,024 zones; there are fewer.
func NewEngine() *Engine {
	zones, err := lru.New[string, *time.Location](1024)
	if err != nil {
		panic(err) // only a size below one is refused
	}
	return &Engine{zones}
}

// Zone returns a zone of the data, and UTC for a name that is none.
func (e *Engine) Zone(name string) *time.Location {
	if zone, ok := e.zones.Get(name); ok {
		return zone
	}
	zone, err := LoadZone(name)
	if err != nil {
		zone = time.UTC // enrolment lets no unknown zone in; a zone that vanished from the data must not stop a study
	}
	e.zones.Add(name, zone)
	return zone
}

// epoch is a time in which neither the schedule nor the facts changed.
type epoch struct {
	from    time.Time // the first begins with time
	version *Schedule
	arm     string
	anchors map[string]Date
}

// epochs cuts a participant's time at every change, in order. Room is where they are put while they fit.
func epochs(room []epoch, plan Plan, p *Person) []epoch {
	if len(plan) == 0 {
		return nil
	}
	out := append(room, epoch{version: &plan[0], arm: p.Arm, anchors: p.Anchors})
	if len(p.Earlier) > 0 {
		out[0].arm, out[0].anchors = p.Earlier[0].Arm, p.Earlier[0].Anchors
	}
	for v, f := 1, 0; v < len(plan) || f < len(p.Earlier); {
		next := out[len(out)-1]
		if f == len(p.Earlier) || v < len(plan) && !plan[v].From.After(p.Earlier[f].Until) {
			next.from, next.version = plan[v].From, &plan[v]
			v++
		} else {
			next.from, next.arm, next.anchors = p.Earlier[f].Until, p.Arm, p.Anchors
			if f++; f < len(p.Earlier) {
				next.arm, next.anchors = p.Earlier[f].Arm, p.Earlier[f].Anchors
			}
		}
		if last := &out[len(out)-1]; len(out) > 1 && last.from.Equal(next.from) {
			*last = next
		} else {
			out = append(out, next)
		}
	}
	return out
}

// Generate returns the tasks whose time from opening to the end of grace touches [from, to), by opening and id.
func (e *Engine) Generate(plan Plan, p Person, from, to time.Time) []Task {
	var room [4]epoch
	all := epochs(room[:0], plan, &p)
	var tasks []Task
	for i := range all {
		in := &all[i]
		for n := range in.version.rules {
			r := &in.version.rules[n]
			s, ok := r.series(in.arm, in.anchors)
			if !ok {
				continue
			}
			low, high := dateOf(from.UTC()).days()-r.span-1, dateOf(to.UTC()).days()+1
			if i > 0 { // what was over before is not issued
				low = max(low, dateOf(in.from.UTC()).days()-r.span-1)
			}
			if i+1 < len(all) { // what had not opened by then follows the change
				high = min(high, dateOf(all[i+1].from.UTC()).days()+1)
			}
			s.dates(low, high, func(d Date) bool {
				for w := range r.windows {
					t, why := e.placed(all, i, &p, r, d, w)
					if why == placed && i > 0 { // an earlier epoch may have issued it
						if _, by := e.issue(all, &p, r.ID, d, w, i-1); by != never {
							continue
						}
					}
					if why == placed && t.OpensAt.Before(to) && !t.GraceUntil.Before(from) {
						tasks = append(tasks, t)
					}
				}
				return true
			})
		}
	}
	slices.SortFunc(tasks, func(a, b Task) int {
		if c := a.OpensAt.Compare(b.OpensAt); c != 0 {
			return c
		}
		return int(min(1, max(-1, a.ID-b.ID)))
	})
	return tasks
}

// never is the epoch of what is not issued.
const never = -1

// issue returns the task of a rule, date and window, and the first epoch that issues it; none after the epoch upTo is looked at.
func (e *Engine) issue(all []epoch, p *Person, rule string, d Date, w, upTo int) (Task, int) {
	for i := range all[:upTo+1] {
		if t, why := e.place(all, i, p, rule, d, w); why == placed {
			return t, i
		}
	}
	return Task{}, never
}

// placing says whether an epoch issues a task.
type placing int

const (
	placed     placing = iota
	notDue             // the rule has no such date or window
	unopened           // it had not opened when the epoch ended
	overBefore         // it was over when the epoch began
	afterLeave         // the participant had left when it would have opened
)

func (e *Engine) place(all []epoch, i int, p *Person, rule string, d Date, w int) (Task, placing) {
	in := &all[i]
	r := in.version.rule(rule)
	if r == nil || w >= len(r.windows) {
		return Task{}, notDue
	}
	if s, ok := r.series(in.arm, in.anchors); !ok || !s.falls(d) {
		return Task{}, notDue
	}
	return e.placed(all, i, p, r, d, w)
}

// placed is place for a rule that has the date and the window.
func (e *Engine) placed(all []epoch, i int, p *Person, r *compiled, d Date, w int) (Task, placing) {
	in := &all[i]
	t := e.task(in.version, r, p, d, w)
	switch {
	case i+1 < len(all) && !t.OpensAt.Before(all[i+1].from):
		return t, unopened
	case i > 0 && !t.ClosesAt.After(in.from):
		return t, overBefore
	case !p.Left.IsZero() && !t.OpensAt.Before(p.Left):
		return t, afterLeave
	case !p.Left.IsZero() && t.ClosesAt.After(p.Left):
		t.CancelledAt = p.Left
	}
	return t, placed
}

// Find returns the participant's task with that id. It looks at the days around near first, which is where the task of a
// submission is; only an id from elsewhere costs a walk through the whole schedule.
func (e *Engine) Find(plan Plan, p Person, id int64, near time.Time) (Task, bool) {
	var room [4]epoch
	all := epochs(room[:0], plan, &p)
	day := dateOf(near.UTC()).days()
	for _, span := range [][2]int{{day, day}, {day - 2, day + 1}, {-1 << 30, 1 << 30}} {
		// From the last epoch backwards: the current version is asked most. A date that several have is judged by issue.
		for i := len(all) - 1; i >= 0; i-- {
			for n := range all[i].version.rules {
				r := &all[i].version.rules[n]
				s, ok := r.series(all[i].arm, all[i].anchors)
				if !ok {
					continue
				}
				var found Task
				by := never
				none := s.days(span[0], span[1], func(n int) bool {
					for w := range r.windows {
						if identity(p.ID, r.ID, n, w) == id {
							found, by = e.issue(all, &p, r.ID, dateOfDays(n), w, len(all)-1)
							return false
						}
					}
					return true
				})
				if !none {
					return found, by != never
				}
			}
		}
	}
	return Task{}, false
}

// task computes one window of one date.
func (e *Engine) task(v *Schedule, r *compiled, p *Person, d Date, w int) Task {
	t := Task{ID: identity(p.ID, r.ID, d.days(), w), Participant: p.ID, Study: p.Study, Rule: r.ID, Date: d, Window: w,
		ScheduleVersion: v.Version, Zone: "UTC", Optional: r.Anytime != nil}
	if len(p.Zones) > 0 {
		t.Zone = p.Zones[0].Zone
	}
	e.clocks(&t, &r.windows[w], r.policies)
	if !r.policies.stayHome {
		for _, change := range p.Zones[min(1, len(p.Zones)):] {
			if !t.OpensAt.After(change.From) {
				break // it had opened by the old clocks
			}
			moved := t
			moved.Zone = change.Zone
			e.clocks(&moved, &r.windows[w], r.policies)
			if moved.ClosesAt.After(change.From) {
				t = moved
			}
		}
	}
	t.Questionnaire = r.questionnaire(t.OpensAt)
	return t
}

// clocks sets the instants of a task from its date and zone.
func (e *Engine) clocks(t *Task, w *compiledWindow, rule *policies) {
	zone := e.Zone(t.Zone)
	next := t.Date
	if w.dueNext || w.closeNext {
		next = t.Date.AddDays(1)
	}
	on := func(following bool) Date {
		if following {
			return next
		}
		return t.Date
	}
	opens, closes := change{first, rule.shiftSkipped}, change{second, rule.shiftSkipped}
	if rule.opensLater {
		opens.repeated = second
	}
	if rule.closesEarlier {
		closes.repeated = first
	}
	t.OpensAt = instant(t.Date, w.opens, zone, opens)
	t.DueAt = instant(on(w.dueNext), w.due, zone, closes)
	t.ClosesAt = instant(on(w.closeNext), w.closes, zone, closes)
	if !t.ClosesAt.After(t.OpensAt) { // both ends in one skipped hour
		t.ClosesAt = t.OpensAt.Add(time.Minute)
	}
	if t.DueAt.After(t.ClosesAt) || t.DueAt.Before(t.OpensAt) {
		t.DueAt = t.ClosesAt
	}
	t.GraceUntil = t.ClosesAt.Add(w.grace)
	t.OfflineUntil = t.ClosesAt.Add(rule.offline)
}
