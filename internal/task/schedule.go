package task

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/eprod/eprod/internal/errs"
)

// Rule says which questionnaire is due when. It is the JSON of api.md; Schedule holds it in a form that computes.
type Rule struct {
	ID            string     `json:"id" doc:"unique in the schedule; part of the identity of its tasks"`
	Questionnaire string     `json:"questionnaire" doc:"canonical url|version"`
	Arms          []string   `json:"arms,omitempty" doc:"codes; empty means every arm"`
	Anchor        string     `json:"anchor" doc:"the event whose date is counted from, such as enrolment"`
	Offset        string     `json:"offset" doc:"ISO 8601 period from the anchor to the first day, such as P0D or P1M"`
	Repeat        *Repeat    `json:"repeat,omitempty"`
	Weekdays      []string   `json:"weekdays,omitempty" doc:"only these days: MO TU WE TH FR SA SU"`
	Windows       []Window   `json:"windows"`
	Reminders     []Reminder `json:"reminders,omitempty"`
}

// Repeat says how a rule goes on after its first day.
type Repeat struct {
	Every string `json:"every" doc:"ISO 8601 period, such as P1D, P1W or P1M"`
	Until string `json:"until" doc:"ISO 8601 period from the anchor to the last possible day, which counts"`
}

// Window is a time of the day in the participant's local time.
type Window struct {
	Opens  string `json:"opens" doc:"HH:MM"`
	Due    string `json:"due" doc:"HH:MM"`
	Closes string `json:"closes" doc:"HH:MM; at or before opens means the next day"`
	Grace  string `json:"grace,omitempty" doc:"ISO 8601 duration after closes in which an answer still counts, as late"`
}

// Reminder is a message relative to a window.
type Reminder struct {
	At    string `json:"at" enum:"opens,due,closes"`
	After string `json:"after" doc:"ISO 8601 duration, may be negative, such as -PT1H"`
}

// Bounds of a schedule: what no protocol needs, a mistake or an attack has.
const (
	maxRules       = 100
	maxWindows     = 24
	maxGrace       = 7 * 24 * time.Hour
	maxOccurrences = 5000 // of one rule and participant
)

// Schedule is one version of a study's rules, ready to compute tasks. It is immutable; copies share their parts.
type Schedule struct {
	Version int64
	Rules   []Rule
	rules   []compiled
}

type compiled struct {
	*Rule
	offset, every, until period
	repeats              bool
	weekdays             [7]bool
	anyWeekday           bool
	windows              []compiledWindow
	span                 int // days from a window's date to the end of the longest window's grace
}

type compiledWindow struct {
	opens, due, closes clock
	dueNext, closeNext bool // on the following day
	grace              time.Duration
}

// Known tells what a schedule may refer to.
type Known struct {
	Questionnaire func(canonical string) bool
	Arm           func(code string) bool
}

// NewSchedule checks rules and returns the schedule that they make. Every finding is returned, with a pointer into
// {"rules": […]}; with findings the schedule is empty.
func NewSchedule(version int64, rules []Rule, known Known) (Schedule, []errs.Finding) {
	c := &checker{known: known, ids: make(map[string]bool)}
	if len(rules) == 0 {
		c.add("/rules", "missing", "a schedule has at least one rule")
	}
	if len(rules) > maxRules {
		c.add("/rules", "too_many", fmt.Sprintf("a schedule has at most %d rules", maxRules))
		return Schedule{}, c.findings
	}
	s := Schedule{Version: version, Rules: slices.Clone(rules)}
	for i := range s.Rules {
		c.at = fmt.Sprintf("/rules/%d", i)
		s.rules = append(s.rules, c.rule(&s.Rules[i]))
	}
	if len(c.findings) > 0 {
		return Schedule{}, c.findings
	}
	return s, nil
}

type checker struct {
	known    Known
	ids      map[string]bool
	at       string
	findings []errs.Finding
}

func (c *checker) add(pointer, code, detail string) {
	c.findings = append(c.findings, errs.Finding{Pointer: pointer, Code: code, Detail: detail})
}

func (c *checker) period(member, text string) period {
	p, ok := parsePeriod(text)
	if !ok {
		c.add(c.at+member, "invalid_duration", "must be an ISO 8601 period of years, months, weeks or days, such as P84D, P2W or P1M")
	}
	return p
}

func (c *checker) rule(r *Rule) compiled {
	out := compiled{Rule: r}
	if r.ID == "" || len(r.ID) > 64 {
		c.add(c.at+"/id", "invalid_id", "must have 1 to 64 characters")
	} else if c.ids[r.ID] {
		c.add(c.at+"/id", "duplicate_rule", "another rule has this id")
	}
	c.ids[r.ID] = true
	if c.known.Questionnaire != nil && !c.known.Questionnaire(r.Questionnaire) {
		c.add(c.at+"/questionnaire", "unknown_questionnaire", "must be url|version of an active questionnaire of this study")
	}
	for i, arm := range r.Arms {
		if c.known.Arm != nil && !c.known.Arm(arm) {
			c.add(fmt.Sprintf("%s/arms/%d", c.at, i), "unknown_arm", "must be the code of an arm of this study")
		}
	}
	if r.Anchor == "" || len(r.Anchor) > 64 {
		c.add(c.at+"/anchor", "invalid_anchor", "must name an event, such as enrolment")
	}
	out.offset = c.period("/offset", r.Offset)
	c.repeat(r, &out)
	c.weekdays(r, &out)
	c.windows(r, &out)
	for i, m := range r.Reminders {
		if m.At != "opens" && m.At != "due" && m.At != "closes" {
			c.add(fmt.Sprintf("%s/reminders/%d/at", c.at, i), "invalid_reminder", "must be opens, due or closes")
		}
		if _, ok := parseSpan(m.After); !ok {
			c.add(fmt.Sprintf("%s/reminders/%d/after", c.at, i), "invalid_duration", "must be an ISO 8601 duration such as PT0S or -PT1H")
		}
	}
	return out
}

func (c *checker) repeat(r *Rule, out *compiled) {
	if r.Repeat == nil {
		return
	}
	out.repeats = true
	out.every, out.until = c.period("/repeat/every", r.Repeat.Every), c.period("/repeat/until", r.Repeat.Until)
	if out.every.months < 0 || out.every.days < 0 || out.every == (period{}) || out.every.months > 0 && out.every.days > 0 {
		c.add(c.at+"/repeat/every", "invalid_repeat", "must be above zero, in days and weeks or in months and years, not both")
		return
	}
	length := float64(out.until.days-out.offset.days) + 30.4*float64(out.until.months-out.offset.months)
	if step := float64(out.every.days) + 30.4*float64(out.every.months); length/step > maxOccurrences {
		c.add(c.at+"/repeat/until", "too_many", fmt.Sprintf("a rule repeats at most %d times", maxOccurrences))
	}
	if length < 0 {
		c.add(c.at+"/repeat/until", "invalid_repeat", "lies before the first day: until counts from the anchor, as offset does")
	}
}

var weekdayCodes = map[string]time.Weekday{"SU": time.Sunday, "MO": time.Monday, "TU": time.Tuesday, "WE": time.Wednesday,
	"TH": time.Thursday, "FR": time.Friday, "SA": time.Saturday}

func (c *checker) weekdays(r *Rule, out *compiled) {
	out.anyWeekday = len(r.Weekdays) == 0
	for i, code := range r.Weekdays {
		day, ok := weekdayCodes[code]
		if !ok {
			c.add(fmt.Sprintf("%s/weekdays/%d", c.at, i), "invalid_weekday", "must be MO, TU, WE, TH, FR, SA or SU")
		}
		out.weekdays[day] = true
	}
}

func (c *checker) windows(r *Rule, out *compiled) {
	if len(r.Windows) == 0 || len(r.Windows) > maxWindows {
		c.add(c.at+"/windows", "invalid_windows", fmt.Sprintf("a rule has 1 to %d windows a day", maxWindows))
		return
	}
	clocks := true
	for i, w := range r.Windows {
		at := fmt.Sprintf("%s/windows/%d", c.at, i)
		opens, okO := parseClock(w.Opens)
		due, okD := parseClock(w.Due)
		closes, okC := parseClock(w.Closes)
		for member, ok := range map[string]bool{"/opens": okO, "/due": okD, "/closes": okC} {
			if !ok {
				c.add(at+member, "invalid_time", "must be a local time as HH:MM, from 00:00 to 23:59")
			}
		}
		clocks = clocks && okO && okD && okC
		cw := compiledWindow{opens: opens, due: due, closes: closes, closeNext: closes <= opens, dueNext: due < opens}
		if okO && okD && okC && (cw.dueNext && !cw.closeNext || minutes(due, cw.dueNext) > minutes(closes, cw.closeNext)) {
			c.add(at+"/due", "inverted_window", "must lie between opens and closes")
		}
		if w.Grace != "" {
			grace, ok := parseSpan(w.Grace)
			if !ok || grace < 0 || grace > maxGrace {
				c.add(at+"/grace", "invalid_duration", "must be an ISO 8601 duration from PT0S to P7D, such as PT2H")
			}
			cw.grace = grace
		}
		out.windows = append(out.windows, cw)
		out.span = max(out.span, 2+int(cw.grace/(24*time.Hour)))
	}
	slices.SortFunc(c.findings, func(a, b errs.Finding) int { return strings.Compare(a.Pointer, b.Pointer) })
	if clocks {
		c.overlaps(out)
	}
}

func minutes(c clock, next bool) int {
	if next {
		return int(c) + 24*60
	}
	return int(c)
}

// overlaps refuses windows of one rule that are open at the same time: nobody could tell which one an answer is for.
func (c *checker) overlaps(out *compiled) {
	type bound struct{ index, from, to int }
	var bounds []bound
	for i, w := range out.windows {
		bounds = append(bounds, bound{i, int(w.opens), minutes(w.closes, w.closeNext)})
	}
	slices.SortFunc(bounds, func(a, b bound) int { return a.from - b.from })
	for i, b := range bounds {
		next := bounds[(i+1)%len(bounds)]
		from := next.from
		if i == len(bounds)-1 {
			if !out.consecutive() {
				break
			}
			from += 24 * 60
		}
		if b.to > from {
			c.add(fmt.Sprintf("%s/windows/%d", c.at, next.index), "overlapping_windows", "opens before the window before it has closed")
		}
	}
}

// consecutive reports whether the rule can have tasks on two days in a row.
func (r *compiled) consecutive() bool {
	if !r.repeats || r.every.months != 0 || r.every.days != 1 && (r.anyWeekday || r.every.days%7 != 0) {
		return false
	}
	for day := range r.weekdays {
		if r.onWeekday(time.Weekday(day)) && r.onWeekday(time.Weekday((day+1)%7)) {
			return true
		}
	}
	return false
}
