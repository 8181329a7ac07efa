package task

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/eprod/eprod/internal/errs"
)

// checker collects what is wrong with a design.
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

// word refuses a policy that is none; an empty one means the first.
func (c *checker) word(pointer, word string, known ...string) string {
	if word == "" {
		return known[0]
	}
	if !slices.Contains(known, word) {
		c.add(pointer, "invalid_policy", "must be "+strings.Join(known, " or "))
	}
	return word
}

func (c *checker) policies(p *Policies) *policies {
	if p == nil {
		return &policies{}
	}
	out := &policies{shiftSkipped: c.word("/policies/skippedHour", p.SkippedHour, "after", "shift") == "shift",
		skipMonthEnd: c.word("/policies/monthEnd", p.MonthEnd, "clamp", "skip") == "skip",
		stayHome:     c.word("/policies/travel", p.Travel, "unopened", "home") == "home"}
	switch c.word("/policies/repeatedHour", p.RepeatedHour, "wide", "first", "second") {
	case "first":
		out.closesEarlier = true
	case "second":
		out.opensLater = true
	}
	if p.Offline != "" {
		offline, ok := parseSpan(p.Offline)
		if !ok || offline < 0 || offline > maxOffline {
			c.add("/policies/offline", "invalid_duration", "must be an ISO 8601 duration from PT0S to P30D, such as P3D")
		}
		out.offline, out.offlineOverDays = offline, 1+int(offline/(24*time.Hour))
	}
	return out
}

const defaultSpread = 50 * time.Second

func (c *checker) messages(m *Messages) Timing {
	t := Timing{Spread: defaultSpread}
	if m == nil {
		return t
	}
	if m.Quiet != nil {
		var okFrom, okUntil bool
		if t.QuietFrom, okFrom = parseClock(m.Quiet.From); !okFrom {
			c.add("/messages/quiet/from", "invalid_time", "must be a local time as HH:MM, from 00:00 to 23:59")
		}
		if t.QuietUntil, okUntil = parseClock(m.Quiet.Until); !okUntil {
			c.add("/messages/quiet/until", "invalid_time", "must be a local time as HH:MM, from 00:00 to 23:59")
		}
		if okFrom && okUntil && t.QuietFrom == t.QuietUntil {
			c.add("/messages/quiet", "inverted_window", "from and until must differ: nothing could ever be sent")
		}
	}
	t.Holidays = make(map[Date]bool, len(m.Holidays))
	if len(m.Holidays) > maxHolidays {
		c.add("/messages/holidays", "too_many", fmt.Sprintf("at most %d days", maxHolidays))
		return t
	}
	for i, text := range m.Holidays {
		d, err := ParseDate(text)
		if err != nil {
			c.add(fmt.Sprintf("/messages/holidays/%d", i), "invalid_date", "must be a date as YYYY-MM-DD")
		}
		t.Holidays[d] = true
	}
	for channel, most := range m.Budget {
		if channel != ChannelSMS && channel != ChannelEmail || most < 0 {
			c.add("/messages/budget/"+channel, "invalid_budget", "must be the channel sms or email with zero or more messages a day")
		}
	}
	t.Budget = m.Budget
	if m.Spread != "" {
		spread, ok := parseSpan(m.Spread)
		if !ok || spread < 0 || spread > maxSpread {
			c.add("/messages/spread", "invalid_duration", "must be an ISO 8601 duration from PT0S to PT10M, such as PT50S")
		}
		t.Spread = spread
	}
	return t
}

func (c *checker) rule(r *Rule) compiled {
	out := compiled{Rule: r, inner: []int{0}, limit: 1}
	if r.ID == "" || len(r.ID) > 64 {
		c.add(c.at+"/id", "invalid_id", "must have 1 to 64 characters")
	} else if c.ids[r.ID] {
		c.add(c.at+"/id", "duplicate_rule", "another rule has this id")
	}
	c.ids[r.ID] = true
	c.questionnaire(r, &out)
	for i, arm := range r.Arms {
		if c.known.Arm != nil && !c.known.Arm(arm) {
			c.add(fmt.Sprintf("%s/arms/%d", c.at, i), "unknown_arm", "must be the code of an arm of this study")
		}
	}
	c.event("/anchor", r.Anchor)
	out.offset = c.period("/offset", r.Offset)
	c.repeat(r, &out)
	c.weekdays(r, &out)
	c.burst(r, &out)
	if r.Anytime != nil {
		c.anytime(r, &out)
	} else {
		c.windows(r, &out)
	}
	c.reminders(r, &out)
	return out
}

func (c *checker) event(member, name string) {
	if name == "" || len(name) > 64 {
		c.add(c.at+member, "invalid_anchor", "must name an event, such as enrolment")
	}
}

func (c *checker) questionnaire(r *Rule, out *compiled) {
	url, version := SplitCanonical(r.Questionnaire)
	if version == "" && url != "" && c.known.Releases != nil {
		if out.releases = c.known.Releases(url); len(out.releases) == 0 {
			c.add(c.at+"/questionnaire", "unknown_questionnaire", "must be the url of a questionnaire of this study with an active version")
		}
		return
	}
	if c.known.Questionnaire != nil && !c.known.Questionnaire(r.Questionnaire) {
		c.add(c.at+"/questionnaire", "unknown_questionnaire", "must be url|version of an active questionnaire of this study, or its url alone")
	}
}

func (c *checker) repeat(r *Rule, out *compiled) {
	if r.Repeat == nil {
		return
	}
	out.limit = maxOccurrences
	out.every = c.period("/repeat/every", r.Repeat.Every)
	if out.every.months < 0 || out.every.days < 0 || out.every == (period{}) || out.every.months > 0 && out.every.days > 0 {
		c.add(c.at+"/repeat/every", "invalid_repeat", "must be above zero, in days and weeks or in months and years, not both")
		out.every = period{days: 1}
		return
	}
	switch {
	case r.Repeat.Count < 0 || r.Repeat.Count > maxOccurrences:
		c.add(c.at+"/repeat/count", "too_many", fmt.Sprintf("must be 1 to %d", maxOccurrences))
	case r.Repeat.Count > 0:
		out.limit = r.Repeat.Count
	case r.Repeat.Until != "":
		out.limit = math.MaxInt // the day ends it
	case r.Repeat.UntilEvent == "":
		c.add(c.at+"/repeat", "invalid_repeat", "must end: state until, count or untilEvent")
	}
	if r.Repeat.UntilEvent != "" {
		c.event("/repeat/untilEvent", r.Repeat.UntilEvent)
	}
	if r.Repeat.Until == "" {
		return
	}
	out.until = c.period("/repeat/until", r.Repeat.Until)
	length := float64(out.until.days-out.offset.days) + 30.4*float64(out.until.months-out.offset.months)
	if step := float64(out.every.days) + 30.4*float64(out.every.months); length/step > maxOccurrences {
		c.add(c.at+"/repeat/until", "too_many", fmt.Sprintf("a rule repeats at most %d times", maxOccurrences))
	}
	if length < 0 {
		c.add(c.at+"/repeat/until", "invalid_repeat", "lies before the first day: until counts from the anchor, as offset does")
	}
}

// step is the fewest days from one occurrence to the next.
func (r *compiled) step() int { return r.every.days + 28*r.every.months }

func (c *checker) burst(r *Rule, out *compiled) {
	if r.Burst == nil {
		// A weekly rule with weekdays has several days in each of its weeks.
		if out.weekly() {
			out.inner = []int{0, 1, 2, 3, 4, 5, 6}
		}
		return
	}
	every := c.period("/burst/every", r.Burst.Every)
	if every.months != 0 || every.days < 1 {
		c.add(c.at+"/burst/every", "invalid_repeat", "must be above zero, in days or weeks")
		return
	}
	if r.Burst.Count < 1 || r.Burst.Count > maxBurst {
		c.add(c.at+"/burst/count", "too_many", fmt.Sprintf("must be 1 to %d", maxBurst))
		return
	}
	out.inner = make([]int, r.Burst.Count)
	for i := range out.inner {
		out.inner[i] = i * every.days
	}
	if last := out.inner[len(out.inner)-1]; r.Repeat != nil && last >= out.step() {
		c.add(c.at+"/burst", "overlapping_repeat", fmt.Sprintf("a block of %d days is longer than the repeat: the next one would begin inside it", last+1))
	}
}

// weekly reports whether the rule has several days in each of its weeks.
func (r *compiled) weekly() bool {
	return r.Repeat != nil && !r.anyWeekday && r.every.months == 0 && r.every.days%7 == 0
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

func (c *checker) anytime(r *Rule, out *compiled) {
	if len(r.Windows) > 0 || len(r.Reminders) > 0 {
		c.add(c.at+"/anytime", "invalid_windows", "a rule for any time has neither windows nor reminders")
	}
	if r.Anytime.PerDay < 1 || r.Anytime.PerDay > maxWindows {
		c.add(c.at+"/anytime/perDay", "invalid_windows", fmt.Sprintf("must be 1 to %d", maxWindows))
		return
	}
	for range r.Anytime.PerDay {
		out.windows = append(out.windows, compiledWindow{closeNext: true, dueNext: true})
	}
	out.span = 2
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
	daily := r.Repeat != nil && r.every.months == 0 && r.every.days == 1
	for i := range r.inner[1:] {
		daily = daily || r.inner[i+1]-r.inner[i] == 1
	}
	if r.Repeat != nil && len(r.inner) > 1 && r.step()-r.inner[len(r.inner)-1] <= 1 {
		daily = true
	}
	if !daily {
		return false
	}
	for day := range r.weekdays {
		if r.onWeekday(time.Weekday(day)) && r.onWeekday(time.Weekday((day+1)%7)) {
			return true
		}
	}
	return false
}

func (c *checker) reminders(r *Rule, out *compiled) {
	if len(r.Reminders) > maxReminders {
		c.add(c.at+"/reminders", "too_many", fmt.Sprintf("a rule has at most %d reminders", maxReminders))
		return
	}
	for i := range r.Reminders {
		m := &r.Reminders[i]
		at := fmt.Sprintf("%s/reminders/%d", c.at, i)
		if !slices.Contains([]string{"opens", "due", "closes", "missed"}, m.At) {
			c.add(at+"/at", "invalid_reminder", "must be opens, due, closes or missed")
		}
		after, ok := parseSpan(m.After)
		if !ok || after > maxGrace || after < -maxGrace {
			c.add(at+"/after", "invalid_duration", "must be an ISO 8601 duration of at most seven days, such as PT0S or -PT1H")
		}
		g := rung{At: m.At, after: after, to: m.To, channels: m.Channels}
		if g.to == "" {
			g.to = ToParticipant
			if m.At == "missed" {
				g.to = ToSite
			}
		}
		if g.to != ToParticipant && g.to != ToSite {
			c.add(at+"/to", "invalid_reminder", "must be participant or site")
		}
		if len(g.channels) == 0 {
			g.channels = []string{ChannelSMS}
			if g.to == ToSite {
				g.channels = []string{ChannelEmail}
			}
		}
		for j, channel := range g.channels {
			if channel != ChannelSMS && channel != ChannelEmail || slices.Contains(g.channels[:j], channel) {
				c.add(fmt.Sprintf("%s/channels/%d", at, j), "invalid_reminder", "must be sms or email, once")
			}
		}
		if slices.ContainsFunc(out.rungs, func(o rung) bool { return o.name() == g.name() }) {
			c.add(at, "duplicate_reminder", "another reminder goes to the same at the same time; give that one more channels")
		}
		out.rungs = append(out.rungs, g)
	}
}
