package task

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/eprod/eprod/internal/errs"
)

func instantOf(t testing.TB, text string) time.Time {
	t.Helper()
	at, err := time.Parse(time.RFC3339, text)
	if err != nil {
		t.Fatal(err)
	}
	return at
}

// version is a schedule that applies from an instant on; an empty text is the beginning.
func version(t testing.TB, n int64, from string, d Design, known Known) Schedule {
	t.Helper()
	s, findings := NewSchedule(n, d, known)
	if len(findings) > 0 {
		t.Fatalf("%+v", findings)
	}
	if from != "" {
		s.From = instantOf(t, from)
	}
	return s
}

// shown is a task as the tests name it.
func shown(tasks []Task) []string {
	var out []string
	for _, t := range tasks {
		out = append(out, fmt.Sprintf("%s %s.%d %s-%s v%d", t.Date, t.Rule, t.Window, t.OpensAt.Format("02T15:04"), t.ClosesAt.Format("02T15:04"), t.ScheduleVersion))
	}
	return out
}

func utcDaily(id, opens, closes string) Rule {
	return Rule{ID: id, Questionnaire: "q|1", Anchor: "enrolment", Offset: "P0D", Repeat: &Repeat{Every: "P1D", Until: "P9D"}, Windows: []Window{{Opens: opens, Due: closes, Closes: closes}}}
}

// TestAmendments: what had opened stays as it was, what had not follows, and nothing that was over is asked for afterwards.
func TestAmendments(t *testing.T) {
	p := person("UTC", "2026-07-01", t)
	first := version(t, 1, "", Design{Rules: []Rule{utcDaily("r", "18:00", "22:00")}}, Known{})
	for _, c := range []struct {
		name   string
		at     string
		second []Rule
		want   []string // on the 2nd and 3rd
	}{
		{"moved before it opened", "2026-07-02T12:00:00Z", []Rule{utcDaily("r", "19:00", "23:00")}, []string{"2026-07-02 r.0 02T19:00-02T23:00 v2", "2026-07-03 r.0 03T19:00-03T23:00 v2"}},
		{"moved while it was open", "2026-07-02T18:30:00Z", []Rule{utcDaily("r", "19:00", "23:00")}, []string{"2026-07-02 r.0 02T18:00-02T22:00 v1", "2026-07-03 r.0 03T19:00-03T23:00 v2"}},
		{"at the opening", "2026-07-02T18:00:00Z", []Rule{utcDaily("r", "19:00", "23:00")}, []string{"2026-07-02 r.0 02T19:00-02T23:00 v2", "2026-07-03 r.0 03T19:00-03T23:00 v2"}},
		{"after it closed", "2026-07-02T22:30:00Z", []Rule{utcDaily("r", "19:00", "23:00")}, []string{"2026-07-02 r.0 02T18:00-02T22:00 v1", "2026-07-03 r.0 03T19:00-03T23:00 v2"}},
		{"to earlier, in the new window", "2026-07-02T12:00:00Z", []Rule{utcDaily("r", "08:00", "13:00")}, []string{"2026-07-02 r.0 02T08:00-02T13:00 v2", "2026-07-03 r.0 03T08:00-03T13:00 v2"}},
		{"to earlier, when the new window is over", "2026-07-02T14:00:00Z", []Rule{utcDaily("r", "08:00", "13:00")}, []string{"2026-07-03 r.0 03T08:00-03T13:00 v2"}},
		{"taken back while open", "2026-07-02T20:00:00Z", []Rule{utcDaily("x", "08:00", "09:00")}, []string{"2026-07-02 r.0 02T18:00-02T22:00 v1", "2026-07-03 x.0 03T08:00-03T09:00 v2"}},
		{"taken back before", "2026-07-02T08:30:00Z", []Rule{utcDaily("x", "08:00", "09:00")}, []string{"2026-07-02 x.0 02T08:00-02T09:00 v2", "2026-07-03 x.0 03T08:00-03T09:00 v2"}},
		{"one more", "2026-07-03T07:00:00Z", []Rule{utcDaily("r", "18:00", "22:00"), utcDaily("x", "06:00", "09:00")},
			[]string{"2026-07-02 r.0 02T18:00-02T22:00 v1", "2026-07-03 x.0 03T06:00-03T09:00 v2", "2026-07-03 r.0 03T18:00-03T22:00 v2"}},
	} {
		plan := Plan{first, version(t, 2, c.at, Design{Rules: c.second}, Known{})}
		got := NewEngine().Generate(plan, p, time.Date(2026, 7, 2, 0, 0, 0, 0, time.UTC), time.Date(2026, 7, 4, 0, 0, 0, 0, time.UTC))
		if diff := cmp.Diff(c.want, shown(got)); diff != "" {
			t.Errorf("%s:\n%s", c.name, diff)
		}
	}
}

// TestFacts: an event that is recorded late, corrected or taken back, and another arm, change what has not opened only.
func TestFacts(t *testing.T) {
	visit := utcDaily("v", "08:00", "20:00")
	visit.Anchor = "visit"
	visit.Repeat.Until = "P2D"
	plan := Plan{version(t, 1, "", Design{Rules: []Rule{visit}}, Known{})}
	day := func(n int) Date { return Date{2026, time.July, n} }
	facts := func(until string, anchors map[string]Date) Facts {
		return Facts{Until: instantOf(t, until), Anchors: anchors}
	}
	none := map[string]Date{"enrolment": day(1)}
	at := func(n int) map[string]Date { return map[string]Date{"enrolment": day(1), "visit": day(n)} }
	for _, c := range []struct {
		name    string
		earlier []Facts
		now     map[string]Date
		want    []string
	}{
		{"known from the beginning", nil, at(5), []string{"2026-07-05", "2026-07-06", "2026-07-07"}},
		{"recorded in the morning", []Facts{facts("2026-07-05T07:00:00Z", none)}, at(5), []string{"2026-07-05", "2026-07-06", "2026-07-07"}},
		{"recorded in mid-window", []Facts{facts("2026-07-05T12:00:00Z", none)}, at(5), []string{"2026-07-05", "2026-07-06", "2026-07-07"}},
		{"recorded the next day", []Facts{facts("2026-07-06T12:00:00Z", none)}, at(5), []string{"2026-07-06", "2026-07-07"}},
		{"corrected to later", []Facts{facts("2026-07-05T12:00:00Z", at(5))}, at(6), []string{"2026-07-05", "2026-07-06", "2026-07-07", "2026-07-08"}},
		{"corrected to earlier", []Facts{facts("2026-07-05T12:00:00Z", at(5))}, at(4), []string{"2026-07-05", "2026-07-06"}},
		{"taken back", []Facts{facts("2026-07-06T07:00:00Z", at(5))}, none, []string{"2026-07-05"}},
		{"taken back and stated again", []Facts{facts("2026-07-06T07:00:00Z", at(5)), facts("2026-07-06T10:00:00Z", none)}, at(5), []string{"2026-07-05", "2026-07-06", "2026-07-07"}},
	} {
		p := Person{ID: 7, Study: 3, Anchors: c.now, Earlier: c.earlier, Zones: []ZoneChange{{Zone: "UTC"}}}
		got := NewEngine().Generate(plan, p, from, to)
		if diff := cmp.Diff(c.want, dates(got)); diff != "" {
			t.Errorf("%s:\n%s", c.name, diff)
		}
	}
	armed := utcDaily("a", "08:00", "20:00")
	armed.Arms = []string{"A"}
	plan = Plan{version(t, 1, "", Design{Rules: []Rule{armed}}, Known{})}
	p := Person{ID: 7, Study: 3, Arm: "B", Anchors: none, Earlier: []Facts{{Until: instantOf(t, "2026-07-02T21:00:00Z"), Arm: "A", Anchors: none}}, Zones: []ZoneChange{{Zone: "UTC"}}}
	if diff := cmp.Diff([]string{"2026-07-01", "2026-07-02"}, dates(NewEngine().Generate(plan, p, from, to))); diff != "" {
		t.Errorf("another arm:\n%s", diff)
	}
}

func TestLeaving(t *testing.T) {
	plan := Plan{version(t, 1, "", Design{Rules: []Rule{utcDaily("r", "18:00", "22:00")}}, Known{})}
	p := person("UTC", "2026-07-01", t)
	p.Left = instantOf(t, "2026-07-02T20:00:00Z")
	got := NewEngine().Generate(plan, p, from, to)
	if diff := cmp.Diff([]string{"2026-07-01", "2026-07-02"}, dates(got)); diff != "" {
		t.Fatal(diff)
	}
	later := instantOf(t, "2026-07-20T00:00:00Z")
	if a, b := got[0].StateAt(later, false), got[1].StateAt(later, false); a != Missed || b != Cancelled || got[1].StateAt(later, true) != Completed {
		t.Errorf("states %s and %s, want missed and cancelled", a, b)
	}
	if x := NewEngine().Explain(plan, p, Date{2026, time.July, 3})[0]; x.Why != WhyLeft || !strings.Contains(x.Detail, "2026-07-02T20:00:00Z") {
		t.Errorf("explained as %s: %s", x.Why, x.Detail)
	}
}

func TestSeriesThatEndOtherwise(t *testing.T) {
	for _, c := range []struct {
		name    string
		change  func(*Rule)
		anchors map[string]string
		want    []string
	}{
		{"count", func(r *Rule) { r.Repeat = &Repeat{Every: "P1W", Count: 3} }, nil, []string{"2026-01-31", "2026-02-07", "2026-02-14"}},
		{"until an event", func(r *Rule) { r.Repeat = &Repeat{Every: "P1D", UntilEvent: "end"} }, map[string]string{"end": "2026-02-02"}, []string{"2026-01-31", "2026-02-01", "2026-02-02"}},
		{"until an event before it", func(r *Rule) { r.Repeat = &Repeat{Every: "P1D", UntilEvent: "end"} }, map[string]string{"end": "2026-01-02"}, nil},
		{"until the first of both", func(r *Rule) { r.Repeat = &Repeat{Every: "P1D", Until: "P1D", UntilEvent: "end"} }, map[string]string{"end": "2026-02-09"}, []string{"2026-01-31", "2026-02-01"}},
		{"a block", func(r *Rule) { r.Repeat, r.Burst = nil, &Burst{Every: "P1D", Count: 3} }, nil, []string{"2026-01-31", "2026-02-01", "2026-02-02"}},
		{"blocks", func(r *Rule) {
			r.Repeat, r.Burst = &Repeat{Every: "P1M", Count: 2}, &Burst{Every: "P2D", Count: 3}
		}, nil, []string{"2026-01-31", "2026-02-02", "2026-02-04", "2026-02-28", "2026-03-02", "2026-03-04"}},
		{"blocks on weekdays", func(r *Rule) {
			r.Repeat, r.Burst, r.Weekdays = &Repeat{Every: "P2W", Count: 2}, &Burst{Every: "P1D", Count: 4}, []string{"MO", "TU"}
		}, nil, []string{"2026-02-02", "2026-02-03", "2026-02-16", "2026-02-17"}},
	} {
		r := rule(c.change)
		p := person("Europe/Berlin", "2026-01-31", t)
		for event, date := range c.anchors {
			p.Anchors[event] = mustDate(t, date)
		}
		if diff := cmp.Diff(c.want, dates(NewEngine().Generate(schedule(t, r), p, from, to))); diff != "" {
			t.Errorf("%s:\n%s", c.name, diff)
		}
	}
	open := rule(func(r *Rule) { r.Repeat = &Repeat{Every: "P1D", UntilEvent: "end"} })
	if n := len(NewEngine().Generate(schedule(t, open), person("UTC", "2026-01-31", t), from, from.AddDate(50, 0, 0))); n != maxOccurrences {
		t.Errorf("%d tasks until an event that never comes, want the bound %d", n, maxOccurrences)
	}
}

func TestPolicies(t *testing.T) {
	once := func(opens, closes string) []Rule {
		return []Rule{{ID: "r", Questionnaire: "q|1", Anchor: "enrolment", Offset: "P0D", Windows: []Window{{Opens: opens, Due: closes, Closes: closes}}}}
	}
	for _, c := range []struct {
		name          string
		policies      *Policies
		date          string
		opens, closes string
		want          string
	}{
		{"skipped: the first instant after", nil, "2026-03-29", "02:30", "05:00", "29T01:00-29T03:00"},
		{"skipped: as much later", &Policies{SkippedHour: "shift"}, "2026-03-29", "02:30", "05:00", "29T01:30-29T03:00"},
		{"repeated: wide", nil, "2026-10-25", "02:15", "02:45", "25T00:15-25T01:45"},
		{"repeated: first", &Policies{RepeatedHour: "first"}, "2026-10-25", "02:15", "02:45", "25T00:15-25T00:45"},
		{"repeated: second", &Policies{RepeatedHour: "second"}, "2026-10-25", "02:15", "02:45", "25T01:15-25T01:45"},
	} {
		plan := Plan{version(t, 1, "", Design{Rules: once(c.opens, c.closes), Policies: c.policies}, Known{})}
		got := NewEngine().Generate(plan, person("Europe/Berlin", c.date, t), from, to)
		if s := got[0].OpensAt.Format("02T15:04") + "-" + got[0].ClosesAt.Format("02T15:04"); s != c.want {
			t.Errorf("%s: %s, want %s", c.name, s, c.want)
		}
	}
	monthly := rule(func(r *Rule) { r.Repeat = &Repeat{Every: "P1M", Until: "P4M"} })
	plan := Plan{version(t, 1, "", Design{Rules: []Rule{monthly}, Policies: &Policies{MonthEnd: "skip"}}, Known{})}
	if diff := cmp.Diff([]string{"2026-01-31", "2026-03-31", "2026-05-31"}, dates(NewEngine().Generate(plan, person("UTC", "2026-01-31", t), from, to))); diff != "" {
		t.Errorf("months without the day:\n%s", diff)
	}
	p := person("Europe/Berlin", "2026-07-01", t)
	p.Zones = append(p.Zones, ZoneChange{From: instantOf(t, "2026-07-02T00:00:00Z"), Zone: "Asia/Shanghai"})
	plan = Plan{version(t, 1, "", Design{Rules: []Rule{utcDaily("r", "18:00", "22:00")}, Policies: &Policies{Travel: "home"}}, Known{})}
	for _, task := range NewEngine().Generate(plan, p, from, to) {
		if task.Zone != "Europe/Berlin" || task.OpensAt.Hour() != 16 {
			t.Errorf("%s opens at %v by %s, want at home", task.Date, task.OpensAt, task.Zone)
		}
	}
}

// TestOfflineAnswers: what was given inside the window and comes later counts as in time, up to the limit and no further.
func TestOfflineAnswers(t *testing.T) {
	at := func(day, h int) time.Time { return time.Date(2026, 7, day, h, 0, 0, 0, time.UTC) }
	plan := Plan{version(t, 1, "", Design{Rules: []Rule{rule(nil)}, Policies: &Policies{Offline: "P3D"}}, Known{})}
	due := NewEngine().Generate(plan, person("UTC", "2026-07-01", t), from, to)[0] // 18:00 to 23:00, grace 2 hours
	for _, c := range []struct {
		name               string
		captured, received time.Time
		code               string
		late               bool
	}{
		{"in time", at(1, 19), at(1, 19), "", false},
		{"in time, whatever the device's clock says", at(9, 9), at(1, 19), "", false},
		{"in grace", at(2, 0), at(2, 0), "", true},
		{"in grace, given in time", at(1, 22), at(2, 0), "", false},
		{"days later, given in time", at(1, 22), at(4, 22), "", false},
		{"days later, given in grace", at(2, 0), at(4, 22), "task_closed", true},
		{"days later, given before it opened", at(1, 17), at(4, 22), "task_closed", true},
		{"after the limit", at(1, 22), at(4, 23).Add(time.Second), "task_closed", true},
		{"before it opens", at(1, 19), at(1, 17), "task_not_open", false},
	} {
		err := Acceptable(due, c.captured, c.received)
		refusal, refused := errs.As(err)
		if refused != (c.code != "") || refused && refusal.Code != c.code {
			t.Errorf("%s: %v, want %q", c.name, err, c.code)
		}
		if got := Late(due, c.captured, c.received); got != c.late {
			t.Errorf("%s: late is %v", c.name, got)
		}
	}
}

// TestNewestVersion: a rule that names no version has the one that was the newest when the task opened.
func TestNewestVersion(t *testing.T) {
	r := utcDaily("r", "18:00", "22:00")
	r.Questionnaire = "https://example.org/q"
	known := Known{Releases: func(url string) []Release {
		if url != r.Questionnaire {
			return nil
		}
		return []Release{{"1.0.0", instantOf(t, "2026-07-02T12:00:00Z")}, {"1.1.0", instantOf(t, "2026-07-04T18:00:00Z")}, {"2.0.0", instantOf(t, "2026-07-06T18:30:00Z")}}
	}}
	var got []string
	for _, task := range NewEngine().Generate(Plan{version(t, 1, "", Design{Rules: []Rule{r}}, known)}, person("UTC", "2026-07-01", t), from, instantOf(t, "2026-07-08T00:00:00Z")) {
		_, v := SplitCanonical(task.Questionnaire)
		got = append(got, v)
	}
	if diff := cmp.Diff([]string{"1.0.0", "1.0.0", "1.0.0", "1.1.0", "1.1.0", "1.1.0", "2.0.0"}, got); diff != "" {
		t.Error(diff)
	}
	if _, f := NewSchedule(1, Design{Rules: []Rule{utcDaily("r", "18:00", "22:00"), {ID: "x", Questionnaire: "https://example.org/none", Anchor: "a", Offset: "P0D",
		Windows: []Window{{Opens: "08:00", Due: "09:00", Closes: "10:00"}}}}}, known); len(f) != 1 || f[0].Pointer != "/rules/1/questionnaire" {
		t.Errorf("a questionnaire without an active version: %+v", f)
	}
}

func TestAnytime(t *testing.T) {
	r := Rule{ID: "fall", Questionnaire: "q|1", Anchor: "enrolment", Offset: "P0D", Repeat: &Repeat{Every: "P1D", Until: "P1D"}, Anytime: &Anytime{PerDay: 3}}
	got := NewEngine().Generate(schedule(t, r), person("Europe/Berlin", "2026-07-01", t), from, to)
	want := []string{"2026-07-01 fall.0 30T22:00-01T22:00 v1", "2026-07-01 fall.1 30T22:00-01T22:00 v1", "2026-07-01 fall.2 30T22:00-01T22:00 v1",
		"2026-07-02 fall.0 01T22:00-02T22:00 v1", "2026-07-02 fall.1 01T22:00-02T22:00 v1", "2026-07-02 fall.2 01T22:00-02T22:00 v1"}
	names := shown(got)
	slices.Sort(names)
	if diff := cmp.Diff(want, names); diff != "" {
		t.Fatal(diff)
	}
	if s := got[0].StateAt(instantOf(t, "2026-07-05T00:00:00Z"), false); !got[0].Optional || s != Unused {
		t.Errorf("state %s, want unused", s)
	}
	now := instantOf(t, "2026-07-01T12:00:00Z")
	var list []Listed
	for _, task := range got {
		done := task.Window == 1
		list = append(list, Listed{Task: task, State: task.StateAt(now, done && task.Date.Day == 1)})
	}
	var offers []string
	for _, l := range offered(list) {
		offers = append(offers, fmt.Sprint(l.Date, l.State))
	}
	slices.Sort(offers)
	if diff := cmp.Diff([]string{"2026-07-01completed", "2026-07-01open"}, offers); diff != "" {
		t.Errorf("offered:\n%s", diff)
	}
}

func TestZoneData(t *testing.T) {
	if !slices.ContainsFunc([]string{"a", "b", "c", "d", "e", "f", "g", "h", "i", "j"}, func(letter string) bool { return strings.HasSuffix(ZoneData(), letter) }) || len(ZoneData()) != 5 {
		t.Errorf("edition %q, want one such as 2025c", ZoneData())
	}
	for _, name := range []string{"", "Local", "Mars/Olympus", "../etc/passwd", "europe/berlin"} {
		if zone, err := LoadZone(name); err == nil || KnownZone(name) {
			t.Errorf("%q is taken for the zone %v", name, zone)
		}
	}
	files, err := zoneFiles()
	if err != nil || len(files) < 500 {
		t.Fatalf("%d zones, %v", len(files), err)
	}
	for name := range files {
		if zone, err := LoadZone(name); err != nil || zone.String() != name {
			t.Errorf("%s: %v, %v", name, zone, err)
		}
	}
}

// TestHistoryNeverChanges: whatever is changed at an instant, the tasks that had opened before it are the same as without the
// change, none is issued twice, none that opens later is unknown to Find, and each part of a range is that part of the whole.
func TestHistoryNeverChanges(t *testing.T) {
	e := NewEngine()
	rapid.Check(t, func(t *rapid.T) {
		var plan Plan
		begin := time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC)
		instant := func(label string) time.Time {
			return begin.Add(time.Duration(rapid.IntRange(0, 200*24*60).Draw(t, label)) * time.Minute)
		}
		var changes []time.Time
		for range rapid.IntRange(1, 4).Draw(t, "changes") {
			changes = append(changes, instant("change"))
		}
		slices.SortFunc(changes, time.Time.Compare)
		changes = slices.CompactFunc(changes, time.Time.Equal)
		design := func(n int64) Schedule {
			rules := []Rule{drawnRule(t, "a"), drawnRule(t, "b")}
			for i := range rules {
				if rapid.Bool().Draw(t, "for an arm") {
					rules[i].Arms = []string{rapid.SampledFrom([]string{"A", "B"}).Draw(t, "arm")}
				}
			}
			s, findings := NewSchedule(n, Design{Rules: rules}, Known{})
			if len(findings) > 0 {
				t.Fatalf("%+v", findings)
			}
			return s
		}
		facts := func() (string, map[string]Date) {
			return rapid.SampledFrom([]string{"A", "B"}).Draw(t, "in arm"), map[string]Date{"enrolment": Date{2026, 3, 1}.AddDays(rapid.IntRange(0, 40).Draw(t, "enrolled"))}
		}
		p := Person{ID: 7, Study: 3, Zones: []ZoneChange{{Zone: rapid.SampledFrom(zones).Draw(t, "zone")}}}
		p.Arm, p.Anchors = facts()
		plan = Plan{design(1)}
		for _, at := range changes {
			before := e.Generate(plan, p, begin.AddDate(0, -2, 0), begin.AddDate(2, 0, 0))
			switch rapid.IntRange(0, 2).Draw(t, "kind") {
			case 0:
				next := design(int64(len(plan) + 1))
				next.From = at
				plan = append(slices.Clone(plan), next)
			case 1:
				p.Earlier = append(slices.Clone(p.Earlier), Facts{Until: at, Arm: p.Arm, Anchors: p.Anchors})
				p.Arm, p.Anchors = facts()
			default:
				p.Zones = append(slices.Clone(p.Zones), ZoneChange{From: at, Zone: rapid.SampledFrom(zones).Draw(t, "moved to")})
			}
			after := e.Generate(plan, p, begin.AddDate(0, -2, 0), begin.AddDate(2, 0, 0))
			had, has := map[int64]Task{}, map[int64]Task{}
			for _, one := range before {
				had[one.ID] = one
			}
			for _, one := range after {
				if _, twice := has[one.ID]; twice {
					t.Fatalf("%+v is issued twice", one)
				}
				has[one.ID] = one
				if found, ok := e.Find(plan, p, one.ID, one.OpensAt); !ok || found != one {
					t.Fatalf("Find gives %+v, %v; want %+v", found, ok, one)
				}
				if !one.ClosesAt.After(at) && had[one.ID] != one {
					t.Fatalf("%+v was over before the change at %v, and was %+v", one, at, had[one.ID])
				}
			}
			for _, one := range before {
				if one.OpensAt.Before(at) && has[one.ID] != one {
					t.Fatalf("%+v had opened before the change at %v, and became %+v", one, at, has[one.ID])
				}
			}
			cut := instant("cut")
			union := map[int64]Task{}
			for _, part := range [][2]time.Time{{begin.AddDate(0, -2, 0), cut}, {cut, begin.AddDate(2, 0, 0)}} {
				for _, one := range e.Generate(plan, p, part[0], part[1]) {
					union[one.ID] = one
				}
			}
			if diff := cmp.Diff(has, union); diff != "" {
				t.Fatalf("the parts are not the whole:\n%s", diff)
			}
			explained := map[int64]bool{}
			day := Date{2026, 3, 1}.AddDays(rapid.IntRange(0, 200).Draw(t, "day"))
			for _, x := range e.Explain(plan, p, day) {
				for _, one := range x.Tasks {
					if has[one.ID] != one {
						t.Fatalf("explained %+v, which is %+v", one, has[one.ID])
					}
					explained[one.ID] = true
				}
			}
			for one := range maps.Values(has) {
				if one.Date == day && !explained[one.ID] {
					t.Fatalf("%+v is not explained", one)
				}
			}
		}
	})
}

func BenchmarkTwoYears(b *testing.B) {
	s := schedule(b, rule(func(r *Rule) { r.Repeat.Until = "P730D" }))
	p := person("Europe/Berlin", "2026-01-05", b)
	e := NewEngine()
	b.ReportAllocs()
	for b.Loop() {
		if tasks := e.Generate(s, p, from, from.AddDate(3, 0, 0)); len(tasks) != 731 {
			b.Fatalf("%d tasks", len(tasks))
		}
	}
}
