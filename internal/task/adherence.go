package task

import (
	"github.com/eprod/eprod/internal/errs"
)

// Grouping says what each line of an adherence report counts.
type Grouping string

// The groupings of adherence reports.
const (
	ByStudy       Grouping = "study"
	BySite        Grouping = "site"
	ByParticipant Grouping = "participant"
	ByDay         Grouping = "day"    // the participant's local date
	ByWindow      Grouping = "window" // rule and window
)

// Adherence counts the tasks of a group. A task is expected once it is over, or completed; one that was taken back is counted
// nowhere, one that need not be answered neither.
type Adherence struct {
	Site        int64  // by site
	Participant int64  // by participant
	Date        string // by day
	Rule        string // by window
	Window      int    // by window

	InTime  int // completed in the window
	Late    int // completed in the grace
	Missed  int
	Excused int // missed, and staff have said why that does not count
	Waiting int // not over and not completed: not expected yet
}

// Expected is how many tasks there was an answer to be had from.
func (a *Adherence) Expected() int { return a.InTime + a.Late + a.Missed }

// Rate is the completed among the expected, late ones included; 0 where nothing was expected.
func (a *Adherence) Rate() float64 {
	if a.Expected() == 0 {
		return 0
	}
	return float64(a.InTime+a.Late) / float64(a.Expected())
}

// add sums up groups.
func (a *Adherence) add(o *Adherence) {
	a.InTime += o.InTime
	a.Late += o.Late
	a.Missed += o.Missed
	a.Excused += o.Excused
	a.Waiting += o.Waiting
}

// Bounds of a report.
const (
	maxReportDays  = 800
	maxReportLines = 5000
)

// checkReport refuses ranges that are none.
func checkReport(from, to Date) error {
	if days := to.days() - from.days(); days < 0 || days > maxReportDays {
		return errs.InvalidParameter("to", "must be on or after from and at most 800 days later")
	}
	return nil
}

func errNotIssued() *errs.Error {
	return errs.New(errs.Conflict, "task_not_issued", "the task is not issued yet, or was taken back: only a task that is due or over can be excused")
}

func errDone() *errs.Error {
	return errs.New(errs.Conflict, "task_completed", "the task was answered: there is nothing to excuse")
}
