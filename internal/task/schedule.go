package task

import (
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/eprod/eprod/internal/errs"
)

// Bounds of a schedule: what no protocol needs, a mistake or an attack has.
const (
	maxRules       = 100
	maxWindows     = 24
	maxBurst       = 62
	maxReminders   = 12
	maxHolidays    = 400
	maxGrace       = 7 * 24 * time.Hour
	maxOffline     = 30 * 24 * time.Hour
	maxSpread      = 10 * time.Minute
	maxOccurrences = 5000 // of one rule and participant

	// MaxVersions is how many versions a plan may have: each costs a look at every change.
	MaxVersions = 100
)

// The channels of reminders, and whom they are for.
const (
	ChannelSMS    = "sms"
	ChannelEmail  = "email"
	ToParticipant = "participant"
	ToSite        = "site"
)

// Schedule is one version of a study's rules, ready to compute tasks. It is immutable; copies share their parts.
type Schedule struct {
	Version  int64
	From     time.Time // it applies from then on; the first version of a plan applies from the beginning
	Design   Design
	rules    []compiled
	policies policies
	messages Timing
}

// Plan is the versions of a study's schedule, ascending. A version that replaces another leaves alone what had opened by then.
type Plan []Schedule

// Current returns the latest version; one without rules of an empty plan.
func (p Plan) Current() Schedule {
	if len(p) == 0 {
		return Schedule{}
	}
	return p[len(p)-1]
}

// Rules returns how many rules the current version has.
func (p Plan) Rules() int { return len(p.Current().rules) }

// Timing is when the messages of a study may go out.
type Timing struct {
	QuietFrom, QuietUntil clock // equal: never quiet
	Holidays              map[Date]bool
	Budget                map[string]int // by channel, for a day (UTC); absent: no limit
	Spread                time.Duration
}

// Messages returns when messages may go out.
func (s *Schedule) Messages() Timing { return s.messages }

type policies struct {
	shiftSkipped    bool
	opensLater      bool // of a repeated hour: at the second occurrence
	closesEarlier   bool // of a repeated hour: at the first
	skipMonthEnd    bool
	stayHome        bool
	offline         time.Duration
	offlineOverDays int
}

type compiled struct {
	*Rule
	policies             *policies
	offset, every, until period
	limit                int // occurrences
	weekdays             [7]bool
	anyWeekday           bool
	inner                []int // days of one occurrence, counted from its first, ascending
	windows              []compiledWindow
	rungs                []rung
	releases             []Release // where the rule names no version
	span                 int       // days from a window's date to the end of the longest window's grace
}

type compiledWindow struct {
	opens, due, closes clock
	dueNext, closeNext bool // on the following day
	grace              time.Duration
}

// Release is one published version of a questionnaire.
type Release struct {
	Version string
	From    time.Time
}

// Known tells what a schedule may refer to.
type Known struct {
	Questionnaire func(canonical string) bool
	Releases      func(url string) []Release // active versions, ascending by time
	Arm           func(code string) bool
}

// NewSchedule checks a design and returns the schedule that it makes. Every finding is returned, with a pointer into the
// design; with findings the schedule is empty.
func NewSchedule(version int64, design Design, known Known) (Schedule, []errs.Finding) {
	c := &checker{known: known, ids: make(map[string]bool)}
	if len(design.Rules) == 0 {
		c.add("/rules", "missing", "a schedule has at least one rule")
	}
	if len(design.Rules) > maxRules {
		c.add("/rules", "too_many", fmt.Sprintf("a schedule has at most %d rules", maxRules))
		return Schedule{}, c.findings
	}
	s := Schedule{Version: version, Design: design}
	s.Design.Rules = slices.Clone(design.Rules)
	shared := c.policies(design.Policies)
	s.policies, s.messages = *shared, c.messages(design.Messages)
	for i := range s.Design.Rules {
		c.at = fmt.Sprintf("/rules/%d", i)
		r := c.rule(&s.Design.Rules[i])
		r.policies = shared
		s.rules = append(s.rules, r)
	}
	if len(c.findings) > 0 {
		return Schedule{}, c.findings
	}
	return s, nil
}

func (s *Schedule) rule(id string) *compiled {
	for i := range s.rules {
		if s.rules[i].ID == id {
			return &s.rules[i]
		}
	}
	return nil
}

// series is the days of a rule for one participant.
type series struct {
	*compiled
	anchor Date
	base   int // the anchor's day
	last   int // the last possible day
}

// series returns the rule's days for somebody with that arm and those anchors; false where there are none.
func (r *compiled) series(arm string, anchors map[string]Date) (series, bool) {
	if len(r.Arms) > 0 && !slices.Contains(r.Arms, arm) {
		return series{}, false
	}
	anchor, ok := anchors[r.Anchor]
	s := series{r, anchor, anchor.days(), math.MaxInt}
	if !ok || r.Repeat == nil {
		return s, ok
	}
	if r.Repeat.Until != "" {
		s.last, _ = s.after(r.until.months, r.until.days)
	}
	if r.Repeat.UntilEvent != "" {
		if end, known := anchors[r.Repeat.UntilEvent]; known {
			s.last = min(s.last, end.days())
		}
	}
	return s, true
}

// dates calls yield for the dates between two days, both counted, in order, until yield returns false; it reports whether it
// came to the end.
func (s *series) dates(low, high int, yield func(Date) bool) bool {
	return s.days(low, high, func(n int) bool { return yield(dateOfDays(n)) })
}

// days is dates for those who need no calendar.
func (s *series) days(low, high int, yield func(int) bool) bool {
	high = min(high, s.last)
	for k := s.firstOccurrence(low - s.inner[len(s.inner)-1]); k < s.limit; k++ {
		start, exists := s.occurrence(k)
		if start > high {
			return true
		}
		if !exists {
			continue
		}
		for _, i := range s.inner {
			n := start + i
			if n < low || n > high || !s.anyWeekday && !s.weekdays[weekday(n)] {
				continue
			}
			if !yield(n) {
				return false
			}
		}
	}
	return true
}

// falls reports whether the series has a date.
func (s *series) falls(d Date) bool {
	n := d.days()
	return !s.days(n, n, func(int) bool { return false })
}

func (r *compiled) onWeekday(d time.Weekday) bool { return r.anyWeekday || r.weekdays[d] }

// occurrence returns the k-th day, always counted from the anchor: clamping never adds up. A month without the day has no
// occurrence where the policy says so.
func (s *series) occurrence(k int) (n int, exists bool) {
	n, clamped := s.after(s.offset.months+k*s.every.months, s.offset.days+k*s.every.days)
	return n, !clamped || !s.policies.skipMonthEnd || s.every.months == 0
}

// after returns the day that is so many months and then days after the anchor, and whether that month lacks the anchor's day.
func (s *series) after(months, days int) (n int, clamped bool) {
	if months == 0 {
		return s.base + days, false
	}
	d := s.anchor.AddMonths(months)
	return d.days() + days, d.Day != s.anchor.Day
}

// firstOccurrence returns a k whose date is at or before the first one that is not before day, and not far before it.
func (s *series) firstOccurrence(day int) int {
	if s.Repeat == nil {
		return 0
	}
	n, _ := s.occurrence(0)
	if day <= n {
		return 0
	}
	if s.every.months > 0 {
		return max(0, (day-n)/31/s.every.months-1)
	}
	return (day - n) / s.every.days
}

// end returns the last possible day, where there is one.
func (s *series) end() (Date, bool) {
	last := s.last
	if s.Repeat == nil || s.Repeat.Count > 0 {
		n, _ := s.occurrence(s.limit - 1)
		last = min(last, n+s.inner[len(s.inner)-1])
	}
	if last == math.MaxInt {
		return Date{}, false
	}
	return dateOfDays(last), true
}

// questionnaire returns the canonical reference that applies to a task which opens at an instant.
func (r *compiled) questionnaire(opens time.Time) string {
	if len(r.releases) == 0 {
		return r.Questionnaire
	}
	chosen := r.releases[0]
	for _, release := range r.releases[1:] {
		if release.From.After(opens) {
			break
		}
		chosen = release
	}
	return r.Questionnaire + "|" + chosen.Version
}
