package task

import (
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestScheduleFindings(t *testing.T) {
	known := Known{Questionnaire: func(c string) bool { return c == "q|1" }, Arm: func(c string) bool { return c == "A" }}
	for _, c := range []struct {
		name          string
		change        func(*Rule)
		pointer, code string
	}{
		{"Good", func(*Rule) {}, "", ""},
		{"NextDay", func(r *Rule) { r.Windows[0] = Window{Opens: "22:00", Due: "23:00", Closes: "02:00"} }, "", ""},
		{"DueNextDay", func(r *Rule) { r.Windows[0] = Window{Opens: "22:00", Due: "01:00", Closes: "02:00"} }, "", ""},
		{"Questionnaire", func(r *Rule) { r.Questionnaire = "q|2" }, "/rules/0/questionnaire", "unknown_questionnaire"},
		{"Arm", func(r *Rule) { r.Arms = []string{"A", "Z"} }, "/rules/0/arms/1", "unknown_arm"},
		{"Id", func(r *Rule) { r.ID = "" }, "/rules/0/id", "invalid_id"},
		{"Anchor", func(r *Rule) { r.Anchor = "" }, "/rules/0/anchor", "invalid_anchor"},
		{"Offset", func(r *Rule) { r.Offset = "1 day" }, "/rules/0/offset", "invalid_duration"},
		{"Every", func(r *Rule) { r.Repeat.Every = "P0D" }, "/rules/0/repeat/every", "invalid_repeat"},
		{"EveryMixed", func(r *Rule) { r.Repeat.Every = "P1M1D" }, "/rules/0/repeat/every", "invalid_repeat"},
		{"UntilBeforeOffset", func(r *Rule) { r.Offset, r.Repeat.Until = "P30D", "P10D" }, "/rules/0/repeat/until", "invalid_repeat"},
		{"TooMany", func(r *Rule) { r.Repeat.Until = "P30000D" }, "/rules/0/repeat/until", "too_many"},
		{"Weekday", func(r *Rule) { r.Weekdays = []string{"MO", "XX"} }, "/rules/0/weekdays/1", "invalid_weekday"},
		{"NoWindow", func(r *Rule) { r.Windows = nil }, "/rules/0/windows", "invalid_windows"},
		{"Time", func(r *Rule) { r.Windows[0].Opens = "25:00" }, "/rules/0/windows/0/opens", "invalid_time"},
		{"Inverted", func(r *Rule) { r.Windows[0].Due = "23:30" }, "/rules/0/windows/0/due", "inverted_window"},
		{"Grace", func(r *Rule) { r.Windows[0].Grace = "P8D" }, "/rules/0/windows/0/grace", "invalid_duration"},
		{"Overlap", func(r *Rule) { r.Windows = append(r.Windows, Window{Opens: "22:00", Due: "22:30", Closes: "23:30"}) }, "/rules/0/windows/1", "overlapping_windows"},
		{"OverlapNextDay", func(r *Rule) {
			r.Windows = []Window{{Opens: "08:00", Due: "09:00", Closes: "10:00"}, {Opens: "22:00", Due: "23:00", Closes: "09:00"}}
		}, "/rules/0/windows/0", "overlapping_windows"},
		{"OverlapOnWeekdaysInARow", func(r *Rule) {
			r.Repeat, r.Weekdays = &Repeat{Every: "P2W", Until: "P8W"}, []string{"SA", "SU"}
			r.Windows = []Window{{Opens: "08:00", Due: "09:00", Closes: "10:00"}, {Opens: "22:00", Due: "23:00", Closes: "09:00"}}
		}, "/rules/0/windows/0", "overlapping_windows"},
		{"NoOverlapOnWeekdaysApart", func(r *Rule) {
			r.Weekdays = []string{"MO", "WE", "FR"}
			r.Windows = []Window{{Opens: "08:00", Due: "09:00", Closes: "10:00"}, {Opens: "22:00", Due: "23:00", Closes: "09:00"}}
		}, "", ""},
		{"NoOverlapEveryOtherDay", func(r *Rule) {
			r.Repeat.Every = "P2D"
			r.Windows = []Window{{Opens: "08:00", Due: "09:00", Closes: "10:00"}, {Opens: "22:00", Due: "23:00", Closes: "09:00"}}
		}, "", ""},
		{"WholeDay", func(r *Rule) { r.Windows = []Window{{Opens: "08:00", Due: "20:00", Closes: "08:00"}} }, "", ""},
		{"OnlyTheTimeIsWrong", func(r *Rule) {
			r.Windows = []Window{{Opens: "8", Due: "22:00", Closes: "23:00"}, {Opens: "08:00", Due: "09:00", Closes: "10:00"}}
		}, "/rules/0/windows/0/opens", "invalid_time"},
		{"Sign", func(r *Rule) { r.Windows[0].Opens = "+1:00" }, "/rules/0/windows/0/opens", "invalid_time"},
		{"DueBeforeOpens", func(r *Rule) { r.Windows[0].Due = "17:00" }, "/rules/0/windows/0/due", "inverted_window"},
		{"DueAfterNextDaysEnd", func(r *Rule) { r.Windows[0] = Window{Opens: "22:00", Due: "03:00", Closes: "02:00"} }, "/rules/0/windows/0/due", "inverted_window"},
		{"NegativeGrace", func(r *Rule) { r.Windows[0].Grace = "-PT1H" }, "/rules/0/windows/0/grace", "invalid_duration"},
		{"TooManyWindows", func(r *Rule) { r.Windows = make([]Window, maxWindows+1) }, "/rules/0/windows", "invalid_windows"},
		{"LongId", func(r *Rule) { r.ID = strings.Repeat("r", 65) }, "/rules/0/id", "invalid_id"},
		{"LongAnchor", func(r *Rule) { r.Anchor = strings.Repeat("a", 65) }, "/rules/0/anchor", "invalid_anchor"},
		{"EveryNegative", func(r *Rule) { r.Repeat.Every = "-P1D" }, "/rules/0/repeat/every", "invalid_repeat"},
		{"Until", func(r *Rule) { r.Repeat.Until = "2027-01-01" }, "/rules/0/repeat/until", "invalid_duration"},
		{"ReminderAfter", func(r *Rule) { r.Reminders = []Reminder{{At: "closes", After: "-PT1H"}, {At: "due", After: "1h"}} }, "/rules/0/reminders/1/after", "invalid_duration"},
		{"Reminder", func(r *Rule) { r.Reminders = []Reminder{{At: "noon", After: "PT0S"}} }, "/rules/0/reminders/0/at", "invalid_reminder"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, findings := NewSchedule(1, Design{Rules: []Rule{rule(c.change)}}, known)
			if c.code == "" {
				if len(findings) > 0 {
					t.Errorf("%+v", findings)
				}
				return
			}
			if len(findings) != 1 || findings[0].Pointer != c.pointer || findings[0].Code != c.code {
				t.Errorf("got %+v, want %s at %s", findings, c.code, c.pointer)
			}
		})
	}
	if _, f := NewSchedule(1, Design{Rules: []Rule{rule(nil), rule(nil)}}, known); len(f) != 1 || f[0].Code != "duplicate_rule" {
		t.Errorf("two rules of one id: %+v", f)
	}
	if _, f := NewSchedule(1, Design{Rules: nil}, known); len(f) != 1 || f[0].Code != "missing" {
		t.Errorf("no rules: %+v", f)
	}
	if s, f := NewSchedule(1, Design{Rules: make([]Rule, maxRules+1)}, known); len(f) != 1 || f[0].Pointer != "/rules" || f[0].Code != "too_many" || len(s.Design.Rules) != 0 {
		t.Errorf("too many rules: %+v", f)
	}
}

// TestEveryFindingIsReturned: one look at the answer is enough to mend a schedule.
func TestEveryFindingIsReturned(t *testing.T) {
	_, findings := NewSchedule(1, Design{Rules: []Rule{rule(nil), {ID: "r", Weekdays: []string{"mo"}, Offset: "x", Windows: []Window{{Opens: "1", Due: "2", Closes: "3", Grace: "4"}},
		Reminders: []Reminder{{At: "x", After: "x"}}}}}, Known{})
	var got []string
	for _, f := range findings {
		got = append(got, f.Pointer+" "+f.Code)
		if f.Detail == "" {
			t.Errorf("%s does not say what would be right", f.Pointer)
		}
	}
	slices.Sort(got)
	want := []string{"/rules/1/anchor invalid_anchor", "/rules/1/id duplicate_rule", "/rules/1/offset invalid_duration", "/rules/1/reminders/0/after invalid_duration",
		"/rules/1/reminders/0/at invalid_reminder", "/rules/1/weekdays/0 invalid_weekday", "/rules/1/windows/0/closes invalid_time", "/rules/1/windows/0/due invalid_time",
		"/rules/1/windows/0/grace invalid_duration", "/rules/1/windows/0/opens invalid_time"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

// TestLongestRule: a rule of as many days as a schedule takes has all of them.
func TestLongestRule(t *testing.T) {
	r := rule(func(r *Rule) { r.Repeat.Until = "P164M14D" })
	p := person("Europe/Berlin", "2026-01-31", t)
	tasks := NewEngine().Generate(schedule(t, r), p, from, from.AddDate(30, 0, 0))
	last := p.Anchors["enrolment"].AddMonths(164).AddDays(14)
	if got := tasks[len(tasks)-1].Date; got != last || len(tasks) != last.Compare(p.Anchors["enrolment"])+1 {
		t.Errorf("%d tasks to %v, want all to %v", len(tasks), got, last)
	}
}

func TestScheduleOwnsItsRules(t *testing.T) {
	rules := []Rule{rule(nil)}
	s := schedule(t, rules...)
	rules[0].ID = "other"
	if s[0].Design.Rules[0].ID != "r" {
		t.Error("a change of the caller's list changed the schedule")
	}
}
