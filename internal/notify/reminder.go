package notify

import (
	"strconv"
	"strings"
	"time"

	"github.com/eprod/eprod/internal/task"
)

// Why a reminder was not sent.
const (
	SkipOvertaken = "overtaken"  // a later one of the same task is due as well
	SkipClosed    = "closed"     // the task can no longer be answered
	SkipQuiet     = "quiet"      // quiet hours or holidays last until the task is over
	SkipStale     = "stale"      // it would tell the site of something long past
	SkipConsent   = "no_consent" // the participant has not agreed to be reached this way
	SkipAddress   = "no_address" // nobody has stated where
	SkipGateway   = "no_gateway" // no gateway of the channel is set up
	SkipBudget    = "budget"     // the study has sent as many messages today as it may
	SkipStudy     = "study"      // the study takes nothing new any more
	queued        = "queued"     // it was sent
)

// ReminderOutcomes returns what may become of a reminder.
func ReminderOutcomes() []string {
	return []string{queued, SkipOvertaken, SkipClosed, SkipQuiet, SkipStale, SkipConsent, SkipAddress, SkipGateway, SkipBudget}
}

// siteNews is how long a site is still told of a task that nobody answered.
const siteNews = 24 * time.Hour

// situation is everything that decides about the reminders of one task at one moment.
type situation struct {
	task    task.Reminding
	ladder  []task.Rung
	timing  task.Timing
	zone    *time.Location // of the participant, now
	decided map[string]bool
	now     time.Time
}

// decision is what becomes of a rung that is due.
type decision struct {
	rung task.Rung
	skip string // empty: send
}

// decide returns what is to be done now, and when to look again; the zero time is never. Nobody is reminded of what is done, taken
// back or over, nor in the quiet hours. Of several reminders that are due at once, after a downtime say, the last one is sent.
func (s *situation) decide() (decisions []decision, next time.Time) {
	if s.task.Done || s.task.Taken() {
		return nil, time.Time{}
	}
	last := -1 // the last one to the participant that is to be sent
	for _, g := range s.ladder {
		if s.decided[g.Name] {
			continue
		}
		d, wait := s.rung(g)
		if !wait.IsZero() {
			if next.IsZero() || wait.Before(next) {
				next = wait
			}
			continue
		}
		if d.skip == "" && g.To == task.ToParticipant {
			if last >= 0 {
				decisions[last].skip = SkipOvertaken
			}
			last = len(decisions)
		}
		decisions = append(decisions, d)
	}
	return decisions, next
}

// rung decides about one reminder, or says until when to wait.
func (s *situation) rung(g task.Rung) (d decision, wait time.Time) {
	d.rung = g
	if g.To == task.ToSite {
		switch {
		case s.now.Before(g.At):
			return d, g.At
		case s.now.Sub(g.At) > siteNews:
			d.skip = SkipStale
		}
		return d, time.Time{}
	}
	over := s.task.GraceUntil
	planned := s.timing.Allowed(g.At.Add(s.timing.Jitter(s.task.Participant)), s.zone)
	if planned.IsZero() || !planned.Before(over) {
		d.skip = SkipQuiet
		return d, time.Time{}
	}
	if s.now.Before(planned) {
		return d, planned
	}
	if s.now.After(over) {
		d.skip = SkipClosed
		return d, time.Time{}
	}
	if now := s.timing.Allowed(s.now, s.zone); now.After(s.now) { // it is late, and quiet now
		if !now.Before(over) {
			d.skip = SkipQuiet
			return d, time.Time{}
		}
		return d, now
	}
	return d, time.Time{}
}

// purpose names a reminder among the messages of its participant: the same one is never sent twice.
func purpose(id int64, rung, channel string) string {
	return reminderPrefix + strconv.FormatInt(id, 10) + "/" + rung + "/" + channel
}

const reminderPrefix = "task/"

// reminderOf returns the task that a message reminds of, and of whom it is wanted.
func reminderOf(purpose string) (id int64, toParticipant, ok bool) {
	rest, found := strings.CutPrefix(purpose, reminderPrefix)
	number, rung, _ := strings.Cut(rest, "/")
	id, err := strconv.ParseInt(number, 10, 64)
	return id, strings.Contains(rung, "/"+task.ToParticipant+"/"), found && err == nil
}

// templateOf names the text of a rung.
func templateOf(g *task.Rung) string {
	switch {
	case g.To == task.ToSite:
		return "task_missed"
	case g.Kind == "opens":
		return "task_due"
	}
	return "task_closing"
}

// untilText is the deadline as people read it on their own clock: the time alone where that is today.
func untilText(deadline, now time.Time, zone *time.Location) string {
	local, today := deadline.In(zone), now.In(zone)
	if local.YearDay() == today.YearDay() && local.Year() == today.Year() {
		return local.Format("15:04")
	}
	return local.Format("2006-01-02 15:04")
}
