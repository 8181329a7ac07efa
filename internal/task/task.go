// Package task decides which tasks a participant has and when they are open.
//
// The engine is a pure function of (plan, facts, zone history, time zone data): the same input gives the same tasks with the
// same ids, always. Versions of the schedule and facts about a participant carry the instants from which they applied, and so
// the past never changes: what had opened stays as it was, and a change is followed by the windows that have not opened. A
// window that was over before its facts were recorded is not issued: nobody could have answered it. What is true from the
// beginning is the first version and what was stated at enrolment.
//
// Defaults that follow from the calendar, each with a policy where sponsors differ: months and years count from the anchor and
// are clamped to the month's last day; a wall time in a skipped hour means the first instant after it; in a repeated hour a
// window opens at the first and closes at the second occurrence. Closes at or before opens means the next day; until is
// inclusive.
//
// A participant who changes zones keeps the windows that had opened by then as they were; windows that had not opened move
// to the new zone, except one that would already be over there: it stays, so that nothing is lost. Each date and window is one
// task, whatever the zone, so nothing is issued twice.
//
// Tasks are issued as rows ahead of their time, for people to look at and for reminders; the engine stays the judge of what is
// due, and the generator keeps the rows as the engine says.
package task

import (
	"crypto/sha256"
	"encoding/binary"
	"strings"
	"time"

	"github.com/eprod/eprod/internal/errs"
)

// State is where a task is in its life.
type State string

// The states of a task.
const (
	Scheduled State = "scheduled" // not open yet
	Open      State = "open"      // can be answered now, in the window or its grace
	Completed State = "completed"
	Missed    State = "missed"    // can no longer be answered
	Cancelled State = "cancelled" // taken back before it was answered
	Excused   State = "excused"   // missed, and staff have said why that does not count
	Unused    State = "unused"    // could have been answered and need not have been
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
	OfflineUntil    time.Time // an answer given inside the window and received by then counts as in time; ClosesAt where that is not allowed
	Zone            string    // the zone that the window was computed in
	ScheduleVersion int64     // that issued it
	Optional        bool      // need not be answered
	CancelledAt     time.Time // when the participant left with the window open; zero: it was not taken back
}

// Key names a task.
type Key struct{ Participant, Task int64 }

// StateAt returns the task's state at an instant.
func (t *Task) StateAt(now time.Time, done bool) State {
	switch {
	case done:
		return Completed
	case !t.CancelledAt.IsZero() && !now.Before(t.CancelledAt):
		return Cancelled
	case now.Before(t.OpensAt):
		return Scheduled
	case now.After(t.GraceUntil) && t.Optional:
		return Unused
	case now.After(t.GraceUntil):
		return Missed
	default:
		return Open
	}
}

// capturedInside reports whether an answer was given inside the window by the device's clock, and has come within the time that
// the protocol leaves for devices without a connection.
func (t *Task) capturedInside(captured, received time.Time) bool {
	return !received.After(t.OfflineUntil) && !captured.Before(t.OpensAt) && !captured.After(t.ClosesAt)
}

// Acceptable says whether an answer received at an instant counts for the task: errs.Conflict task_not_open before the
// window, task_closed after its grace. Captured is the device's time, which decides only about answers that come later than that
// where the protocol allows it: a device's clock may be wrong.
func Acceptable(t Task, captured, received time.Time) error {
	switch {
	case received.Before(t.OpensAt):
		return errs.New(errs.Conflict, "task_not_open", "the task opens at "+t.OpensAt.Format(time.RFC3339))
	case received.After(t.GraceUntil) && !t.capturedInside(captured, received):
		return errs.New(errs.Conflict, "task_closed", "the task closed at "+t.ClosesAt.Format(time.RFC3339))
	}
	return nil
}

// Late reports whether an acceptable answer missed the window and came in its grace.
func Late(t Task, captured, received time.Time) bool {
	return received.After(t.ClosesAt) && !t.capturedInside(captured, received)
}

// identity is the task's id: 63 bits of a hash over what makes it this task and no other. The schedule's version and the
// zone are no part of it, so that an amendment or a journey keeps it.
func identity(participant int64, rule string, day, window int) int64 {
	var b [128]byte
	n := binary.PutVarint(b[:], participant)
	n += binary.PutVarint(b[n:], int64(day))
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
