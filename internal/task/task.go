// Package task decides which tasks a participant has and when they are open.
//
// The engine is a pure function of (schedule version, anchor dates, zone history, time zone data): the same input gives the
// same tasks with the same ids, always; nothing is generated ahead and nothing needs to be. What is stored is only what
// cannot be computed: that a task was completed, and by which submission.
//
// Defaults that follow from the calendar: months and years count from the anchor and are clamped to the month's last day; a
// wall time in a skipped hour means the first instant after it; in a repeated hour a window opens at the first and closes at
// the second occurrence; closes at or before opens means the next day; until is inclusive.
//
// A participant who changes zones keeps the windows that had opened by then as they were; windows that had not opened move
// to the new zone, except one that would already be over there: it stays, so that nothing is lost. Each date and window is one
// task, whatever the zone, so nothing is issued twice.
package task

import (
	"crypto/sha256"
	"encoding/binary"
	"slices"
	"strings"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"

	"github.com/eprod/eprod/internal/errs"
)

// State is where a task is in its life.
type State string

// The states of a task.
const (
	Scheduled State = "scheduled" // not open yet
	Open      State = "open"      // can be answered now, in the window or its grace
	Completed State = "completed"
	Missed    State = "missed" // can no longer be answered
)

// ZoneChange says from when on a participant lives by the clocks of a zone.
type ZoneChange struct {
	From time.Time
	Zone string // IANA name
}

// Facts are what was recorded about a participant until they were replaced by others.
type Facts struct {
	Until   time.Time // when they were replaced
	Arm     string
	Anchors map[string]Date
}

// Person is a participant as the engine sees it.
type Person struct {
	ID, Study int64
	Arm       string
	Anchors   map[string]Date // event → its date
	Earlier   []Facts         // what arm and anchors were before, ascending by Until
	Zones     []ZoneChange    // ascending; the first applies from the beginning
	Left      time.Time       // when the participant left the study; zero: has not
}

// Task is one due questionnaire of one participant. All instants are UTC.
type Task struct {
	ID              int64
	Participant     int64
	Study           int64
	Rule            string
	Date            Date
	Window          int
	Questionnaire   string // canonical url|version
	OpensAt         time.Time
	DueAt           time.Time
	ClosesAt        time.Time
	GraceUntil      time.Time // an answer received by then counts, as late
	Zone            string    // the zone that the window was computed in
	ScheduleVersion int64
}

// Key names a task.
type Key struct{ Participant, Task int64 }

// StateAt returns the task's state at an instant.
func (t *Task) StateAt(now time.Time, done bool) State {
	switch {
	case done:
		return Completed
	case now.Before(t.OpensAt):
		return Scheduled
	case now.After(t.GraceUntil):
		return Missed
	default:
		return Open
	}
}

// Acceptable says whether an answer received at an instant counts for the task: errs.Conflict task_not_open before the
// window, task_closed after its grace. Captured is the device's time and does not decide yet: a device's clock may be wrong.
func Acceptable(t Task, captured, received time.Time) error {
	switch {
	case received.Before(t.OpensAt):
		return errs.New(errs.Conflict, "task_not_open", "the task opens at "+t.OpensAt.Format(time.RFC3339))
	case received.After(t.GraceUntil):
		return errs.New(errs.Conflict, "task_closed", "the task closed at "+t.ClosesAt.Format(time.RFC3339))
	}
	return nil
}

// Late reports whether an acceptable answer missed the window and came in its grace.
func Late(t Task, captured, received time.Time) bool { return received.After(t.ClosesAt) }

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

func (e *Engine) zone(name string) *time.Location {
	if zone, ok := e.zones.Get(name); ok {
		return zone
	}
	zone, err := time.LoadLocation(name)
	if err != nil {
		zone = time.UTC // enrolment lets no unknown zone in; a zone that vanished from the data must not stop a study
	}
	e.zones.Add(name, zone)
	return zone
}

// Generate returns the tasks whose time from opening to the end of grace touches [from, to), by opening and id.
func (e *Engine) Generate(s Schedule, p Person, from, to time.Time) []Task {
	var tasks []Task
	for i := range s.rules {
		r := &s.rules[i]
		anchor, ok := r.applies(&p)
		if !ok {
			continue
		}
		r.dates(anchor, dateOf(from.UTC()).days()-r.span-1, dateOf(to.UTC()).days()+1, func(d Date) bool {
			for w := range r.windows {
				t := e.task(&s, r, &p, d, w)
				if t.OpensAt.Before(to) && !t.GraceUntil.Before(from) {
					tasks = append(tasks, t)
				}
			}
			return true
		})
	}
	slices.SortFunc(tasks, func(a, b Task) int {
		if c := a.OpensAt.Compare(b.OpensAt); c != 0 {
			return c
		}
		return int(min(1, max(-1, a.ID-b.ID)))
	})
	return tasks
}

// Find returns the participant's task with that id. It looks at the days around near first, which is where the task of a
// submission is; only an id from elsewhere costs a walk through the whole schedule.
func (e *Engine) Find(s Schedule, p Person, id int64, near time.Time) (Task, bool) {
	day := dateOf(near.UTC()).days()
	for _, span := range [][2]int{{day, day}, {day - 2, day + 1}, {-1 << 30, 1 << 30}} {
		for i := range s.rules {
			r := &s.rules[i]
			anchor, ok := r.applies(&p)
			if !ok {
				continue
			}
			var found Task
			whole := r.dates(anchor, span[0], span[1], func(d Date) bool {
				for w := range r.windows {
					if identity(p.ID, r.ID, d, w) == id {
						found = e.task(&s, r, &p, d, w)
						return false
					}
				}
				return true
			})
			if !whole {
				return found, true
			}
		}
	}
	return Task{}, false
}

// applies returns the anchor's date if the rule is for this participant.
func (r *compiled) applies(p *Person) (Date, bool) {
	if len(r.Arms) > 0 && !slices.Contains(r.Arms, p.Arm) {
		return Date{}, false
	}
	anchor, ok := p.Anchors[r.Anchor]
	return anchor, ok
}

// dates calls yield for the rule's dates between two days, both counted, in order, until yield returns false; it reports
// whether it came to the end.
func (r *compiled) dates(anchor Date, low, high int, yield func(Date) bool) bool {
	if !r.repeats {
		d := r.occurrence(anchor, 0)
		n := d.days()
		return n < low || n > high || !r.onWeekday(d.Weekday()) || yield(d)
	}
	last := anchor.AddMonths(r.until.months).AddDays(r.until.days).days()
	high = min(high, last)
	// A weekly rule with weekdays has several days in each of its weeks.
	width := 1
	if !r.anyWeekday && r.every.months == 0 && r.every.days%7 == 0 {
		width = 7
	}
	for k := r.firstOccurrence(anchor, low-width); ; k++ {
		start := r.occurrence(anchor, k)
		n := start.days()
		if n > high {
			return true
		}
		for i := range width {
			d := start
			if i > 0 {
				d = dateOfDays(n + i)
			}
			if n+i < low || n+i > high || !r.onWeekday(d.Weekday()) {
				continue
			}
			if !yield(d) {
				return false
			}
		}
	}
}

func (r *compiled) onWeekday(d time.Weekday) bool { return r.anyWeekday || r.weekdays[d] }

// occurrence returns the k-th date of the series, always counted from the anchor: clamping never adds up.
func (r *compiled) occurrence(anchor Date, k int) Date {
	d := anchor
	if months := r.offset.months + k*r.every.months; months != 0 {
		d = d.AddMonths(months)
	}
	return d.AddDays(r.offset.days + k*r.every.days)
}

// firstOccurrence returns a k whose date is at or before the first one that is not before day, and not far before it.
func (r *compiled) firstOccurrence(anchor Date, day int) int {
	start := r.occurrence(anchor, 0).days()
	if day <= start {
		return 0
	}
	if r.every.months > 0 {
		return max(0, (day-start)/31/r.every.months-1)
	}
	return (day - start) / r.every.days
}

// task computes one window of one date.
func (e *Engine) task(s *Schedule, r *compiled, p *Person, d Date, w int) Task {
	t := Task{ID: identity(p.ID, r.ID, d, w), Participant: p.ID, Study: p.Study, Rule: r.ID, Date: d, Window: w,
		Questionnaire: r.Questionnaire, ScheduleVersion: s.Version, Zone: "UTC"}
	if len(p.Zones) > 0 {
		t.Zone = p.Zones[0].Zone
	}
	e.place(&t, &r.windows[w])
	for _, change := range p.Zones[min(1, len(p.Zones)):] {
		if !t.OpensAt.After(change.From) {
			break // it had opened by the old clocks
		}
		moved := t
		moved.Zone = change.Zone
		e.place(&moved, &r.windows[w])
		if moved.ClosesAt.After(change.From) {
			t = moved
		}
	}
	return t
}

// place sets the instants of a task from its date and zone.
func (e *Engine) place(t *Task, w *compiledWindow) {
	zone := e.zone(t.Zone)
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
	t.OpensAt = instant(t.Date, w.opens, zone, first)
	t.DueAt = instant(on(w.dueNext), w.due, zone, second)
	t.ClosesAt = instant(on(w.closeNext), w.closes, zone, second)
	if !t.ClosesAt.After(t.OpensAt) { // both ends in one skipped hour
		t.ClosesAt = t.OpensAt.Add(time.Minute)
	}
	if t.DueAt.After(t.ClosesAt) || t.DueAt.Before(t.OpensAt) {
		t.DueAt = t.ClosesAt
	}
	t.GraceUntil = t.ClosesAt.Add(w.grace)
}

// identity is the task's id: 63 bits of a hash over what makes it this task and no other. The schedule's version and the
// zone are no part of it, so that an amendment or a journey keeps it.
func identity(participant int64, rule string, d Date, window int) int64 {
	var b [128]byte
	n := binary.PutVarint(b[:], participant)
	n += binary.PutVarint(b[n:], int64(d.days()))
	n += binary.PutVarint(b[n:], int64(window))
	sum := sha256.Sum256(append(b[:n], rule...))
	return int64(binary.BigEndian.Uint64(sum[:])>>1) | 1
}

// SplitCanonical returns url and version of a canonical reference.
func SplitCanonical(canonical string) (url, version string) {
	if i := strings.LastIndexByte(canonical, '|'); i >= 0 {
		return canonical[:i], canonical[i+1:]
	}
	return canonical, ""
}
