package task

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

func explain(t *testing.T, p Person, d Date, rules ...Rule) []Explanation {
	t.Helper()
	s, findings := NewSchedule(3, Design{Rules: rules}, Known{})
	if len(findings) > 0 {
		t.Fatal(findings)
	}
	return NewEngine().Explain(Plan{s}, p, d)
}

func TestExplain(t *testing.T) {
	berlin := []ZoneChange{{Zone: "Europe/Berlin"}}
	july := func(day int) Date { return Date{2026, time.July, day} }
	p := Person{ID: 7, Study: 3, Arm: "A", Anchors: map[string]Date{"enrolment": july(1)}, Zones: berlin}
	weekly := rule(func(r *Rule) {
		r.Repeat, r.Weekdays = &Repeat{Every: "P1W", Until: "P28D"}, []string{"MO", "TH"}
	})
	every3 := rule(func(r *Rule) { r.Offset, r.Repeat = "P2D", &Repeat{Every: "P3D", Until: "P20D"} })
	once := rule(func(r *Rule) { r.Offset, r.Repeat = "P1M", nil })
	for _, c := range []struct {
		what           string
		rule           Rule
		person         func(Person) Person
		on             Date
		why            string
		previous, next string
		detail         string
	}{
		{"due", every3, nil, july(6), WhyDue, "2026-07-03", "2026-07-09", "is day 5 from enrolment on 2026-07-01"},
		{"between", every3, nil, july(7), WhyBetween, "2026-07-06", "2026-07-09", "from 2026-07-03, every P3D, and does not fall on 2026-07-07"},
		{"before", every3, nil, july(2), WhyNotYet, "", "2026-07-03", "the first day is 2026-07-03: P2D from enrolment on 2026-07-01"},
		{"last day", every3, nil, july(21), WhyDue, "2026-07-18", "", ""},
		{"over", every3, nil, july(22), WhyOver, "2026-07-21", "", "the last possible day was 2026-07-21"},
		{"other arm", rule(func(r *Rule) { r.Arms = []string{"B", "C"} }), nil, july(2), WhyArm, "", "", `for the arms [B C]; the participant is in arm "A"`},
		{"no anchor", rule(func(r *Rule) { r.Anchor = "surgery" }), nil, july(2), WhyNoAnchor, "", "", `"surgery"`},
		{"weekday", weekly, nil, july(3), WhyWeekday, "2026-07-02", "2026-07-06", "is a Friday; the rule is for [MO TH]"},
		{"day of the week", weekly, nil, july(6), WhyDue, "2026-07-02", "2026-07-09", ""},
		{"once", once, nil, Date{2026, time.August, 1}, WhyDue, "", "", ""},
		{"not again", once, nil, Date{2026, time.August, 2}, WhyOver, "2026-08-01", "", ""},
	} {
		who := p
		if c.person != nil {
			who = c.person(p)
		}
		x := explain(t, who, c.on, c.rule)[0]
		text := func(d Date) string {
			if d == (Date{}) {
				return ""
			}
			return d.String()
		}
		if x.Why != c.why || text(x.Previous) != c.previous || text(x.Next) != c.next || !strings.Contains(x.Detail, c.detail) || (len(x.Tasks) > 0) != (c.why == WhyDue) {
			t.Errorf("%s: %s, previous %s, next %s, %d tasks, %q", c.what, x.Why, text(x.Previous), text(x.Next), len(x.Tasks), x.Detail)
		}
	}
}

func TestExplainZones(t *testing.T) {
	daily := rule(func(r *Rule) { r.Windows = []Window{{Opens: "18:00", Due: "20:00", Closes: "23:00"}} })
	for _, c := range []struct {
		from time.Time
		zone string
		want string
	}{
		{time.Date(2026, 7, 1, 12, 0, 0, 0, time.UTC), "Asia/Shanghai", "lives by the clocks of Asia/Shanghai"},
		{time.Date(2026, 7, 8, 17, 0, 0, 0, time.UTC), "America/New_York", "stays by the clocks of Europe/Berlin: it had opened when"},
		{time.Date(2026, 7, 8, 15, 30, 0, 0, time.UTC), "Asia/Shanghai", "stays by the clocks of Europe/Berlin: by those of Asia/Shanghai, from 2026-07-08T15:30:00Z on, it would have been over"},
		{time.Date(2026, 7, 9, 12, 0, 0, 0, time.UTC), "Asia/Shanghai", "stays by the clocks of Europe/Berlin: it had opened when"},
	} {
		p := Person{ID: 7, Study: 3, Anchors: map[string]Date{"enrolment": {2026, time.July, 1}}, Zones: []ZoneChange{{Zone: "Europe/Berlin"}, {c.from, c.zone}}}
		if x := explain(t, p, Date{2026, time.July, 8}, daily)[0]; !strings.Contains(x.ZoneReason, c.want) {
			t.Errorf("to %s at %v: %q, want %q", c.zone, c.from, x.ZoneReason, c.want)
		}
	}
}

// TestExplainAgreesWithGenerate: whatever the rules, a rule is due on a date if and only if there is a task of that rule and date.
func TestExplainAgreesWithGenerate(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		days := rapid.SliceOfNDistinct(rapid.SampledFrom([]string{"MO", "TU", "WE", "TH", "FR", "SA", "SU"}), 0, 3, func(s string) string { return s }).Draw(t, "weekdays")
		every := rapid.SampledFrom([]string{"", "P1D", "P2D", "P5D", "P1W", "P2W", "P1M", "P3M"}).Draw(t, "every")
		r := rule(func(r *Rule) {
			r.Offset = fmt.Sprintf("P%dD", rapid.IntRange(0, 40).Draw(t, "offset"))
			r.Weekdays, r.Repeat = days, nil
			if every != "" {
				r.Repeat = &Repeat{Every: every, Until: "P200D"}
			}
		})
		s, findings := NewSchedule(1, Design{Rules: []Rule{r}}, Known{})
		if len(findings) > 0 {
			t.Skip(findings)
		}
		p := Person{ID: 7, Study: 3, Anchors: map[string]Date{"enrolment": {2026, time.January, rapid.IntRange(1, 31).Draw(t, "anchor")}}, Zones: []ZoneChange{{Zone: "Europe/Berlin"}}}
		e := NewEngine()
		due := make(map[string]bool)
		for _, task := range e.Generate(Plan{s}, p, time.Date(2025, 12, 1, 0, 0, 0, 0, time.UTC), time.Date(2026, 12, 31, 0, 0, 0, 0, time.UTC)) {
			due[task.Date.String()] = true
		}
		for n := range 380 {
			d := dateOfDays(Date{2025, time.December, 10}.days() + n)
			x := e.Explain(Plan{s}, p, d)[0]
			if (x.Why == WhyDue) != due[d.String()] || x.Detail == "" {
				t.Fatalf("%s: %s, but Generate says due %v (%s)", d, x.Why, due[d.String()], x.Detail)
			}
			if x.Why == WhyDue {
				continue
			}
			for _, near := range []Date{x.Previous, x.Next} {
				if near != (Date{}) && near.days() > (Date{2025, time.December, 10}).days() && near.days() < (Date{2026, time.December, 20}).days() && !due[near.String()] {
					t.Fatalf("%s: the nearest due date %s is none", d, near)
				}
			}
		}
	})
}
