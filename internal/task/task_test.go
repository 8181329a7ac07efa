package task

import (
	order "cmp"
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"pgregory.net/rapid"

	"github.com/eprod/eprod/internal/errs"
)

func mustDate(t testing.TB, s string) Date {
	t.Helper()
	d, err := ParseDate(s)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func rule(change func(*Rule)) Rule {
	r := Rule{ID: "r", Questionnaire: "q|1", Anchor: "enrolment", Offset: "P0D", Repeat: &Repeat{Every: "P1D", Until: "P84D"},
		Windows: []Window{{Opens: "18:00", Due: "20:00", Closes: "23:00", Grace: "PT2H"}}}
	if change != nil {
		change(&r)
	}
	return r
}

func schedule(t testing.TB, rules ...Rule) Plan {
	t.Helper()
	s, findings := NewSchedule(1, Design{Rules: rules}, Known{})
	if len(findings) > 0 {
		t.Fatalf("%+v", findings)
	}
	return Plan{s}
}

func person(zone string, enrolled string, t testing.TB) Person {
	return Person{ID: 7, Study: 3, Arm: "A", Anchors: map[string]Date{"enrolment": mustDate(t, enrolled)}, Zones: []ZoneChange{{Zone: zone}}}
}

func dates(tasks []Task) []string {
	var out []string
	for _, t := range tasks {
		out = append(out, t.Date.String())
	}
	return out
}

var (
	from = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	to   = time.Date(2027, 1, 1, 0, 0, 0, 0, time.UTC)
)

func TestDatesOfRules(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(*Rule)
		want   []string
	}{
		{"Once", func(r *Rule) { r.Repeat, r.Offset = nil, "P3D" }, []string{"2026-02-03"}},
		{"UntilInclusive", func(r *Rule) { r.Repeat.Until = "P2D" }, []string{"2026-01-31", "2026-02-01", "2026-02-02"}},
		{"MonthsOnThe31st", func(r *Rule) { r.Repeat = &Repeat{Every: "P1M", Until: "P4M"} }, []string{"2026-01-31", "2026-02-28", "2026-03-31", "2026-04-30", "2026-05-31"}},
		{"EveryTwoWeeks", func(r *Rule) { r.Repeat = &Repeat{Every: "P2W", Until: "P5W"} }, []string{"2026-01-31", "2026-02-14", "2026-02-28"}},
		{"Weekdays", func(r *Rule) { r.Repeat.Until, r.Weekdays = "P7D", []string{"MO", "TH"} }, []string{"2026-02-02", "2026-02-05"}},
		{"WeeklyOnWeekdays", func(r *Rule) { r.Repeat, r.Weekdays = &Repeat{Every: "P2W", Until: "P20D"}, []string{"MO", "TH"} }, []string{"2026-02-02", "2026-02-05", "2026-02-16", "2026-02-19"}},
		{"OffsetInMonths", func(r *Rule) { r.Offset, r.Repeat = "P1M", &Repeat{Every: "P1M", Until: "P3M"} }, []string{"2026-02-28", "2026-03-31", "2026-04-30"}},
		{"BeforeTheAnchor", func(r *Rule) { r.Offset, r.Repeat = "-P3D", nil }, []string{"2026-01-28"}},
		{"OtherArm", func(r *Rule) { r.Arms = []string{"B"} }, nil},
		{"OtherAnchor", func(r *Rule) { r.Anchor = "visit" }, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			tasks := NewEngine().Generate(schedule(t, rule(c.change)), person("Europe/Berlin", "2026-01-31", t), from, to)
			if diff := cmp.Diff(c.want, dates(tasks)); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestWindowPlaces(t *testing.T) {
	s := schedule(t, rule(func(r *Rule) { r.Windows = []Window{{Opens: "22:00", Due: "01:00", Closes: "02:00", Grace: "PT30M"}} }))
	tasks := NewEngine().Generate(s, person("Europe/Berlin", "2026-07-01", t), time.Date(2026, 7, 2, 20, 30, 0, 0, time.UTC), time.Date(2026, 7, 2, 20, 31, 0, 0, time.UTC))
	if len(tasks) != 1 {
		t.Fatalf("%d tasks, want the one that is open", len(tasks))
	}
	got := tasks[0]
	for name, c := range map[string]struct {
		at   time.Time
		want string
	}{"opens": {got.OpensAt, "2026-07-02T20:00:00Z"}, "due": {got.DueAt, "2026-07-02T23:00:00Z"}, "closes": {got.ClosesAt, "2026-07-03T00:00:00Z"}, "grace": {got.GraceUntil, "2026-07-03T00:30:00Z"}} {
		if c.at.Format(time.RFC3339) != c.want {
			t.Errorf("%s %s, want %s", name, c.at.Format(time.RFC3339), c.want)
		}
	}
}

func TestStates(t *testing.T) {
	at := func(h, m int) time.Time { return time.Date(2026, 7, 1, h, m, 0, 0, time.UTC) }
	task := Task{OpensAt: at(18, 0), ClosesAt: at(20, 0), GraceUntil: at(21, 0)}
	for _, c := range []struct {
		now   time.Time
		state State
		code  string
		late  bool
	}{
		{at(17, 59), Scheduled, "task_not_open", false}, {at(18, 0), Open, "", false}, {at(20, 0), Open, "", false}, {at(20, 1), Open, "", true}, {at(21, 0), Open, "", true}, {at(21, 1), Missed, "task_closed", true},
	} {
		if got := task.StateAt(c.now, false); got != c.state {
			t.Errorf("at %v: %s, want %s", c.now, got, c.state)
		}
		err := Acceptable(task, c.now, c.now)
		if refusal, ok := errs.As(err); (c.code != "") != ok || ok && refusal.Code != c.code {
			t.Errorf("at %v: %v, want %q", c.now, err, c.code)
		}
		if Late(task, c.now, c.now) != c.late {
			t.Errorf("at %v: late is not %v", c.now, c.late)
		}
	}
	if task.StateAt(at(23, 0), true) != Completed {
		t.Error("a completed task stays completed")
	}
}

// TestJourney: windows that have opened stay, later ones move, and each day has its one task whatever the route.
func TestJourney(t *testing.T) {
	s := schedule(t, rule(func(r *Rule) { r.Repeat.Until = "P9D" }))
	home := person("Europe/Berlin", "2026-07-01", t)
	before := NewEngine().Generate(s, home, from, to)
	for _, c := range []struct {
		name, zone, at string
	}{
		{"WestInMidWindow", "America/New_York", "2026-07-04T17:00:00Z"}, {"WestBeforeWindow", "America/New_York", "2026-07-04T10:00:00Z"},
		{"WestWhenTheWindowOpens", "America/New_York", "2026-07-04T16:00:00Z"}, {"WestWhenTheWindowIsOver", "America/New_York", "2026-07-04T21:00:00Z"},
		{"EastInMidWindow", "Asia/Shanghai", "2026-07-04T17:00:00Z"}, {"EastBeforeWindow", "Asia/Shanghai", "2026-07-04T11:00:00Z"},
		{"EastPastTheWholeWindow", "Pacific/Auckland", "2026-07-04T15:00:00Z"},
	} {
		t.Run(c.name, func(t *testing.T) {
			at, err := time.Parse(time.RFC3339, c.at)
			if err != nil {
				t.Fatal(err)
			}
			away := home
			away.Zones = append(slices.Clone(home.Zones), ZoneChange{From: at, Zone: c.zone})
			after := NewEngine().Generate(s, away, from, to)
			if diff := cmp.Diff(sortedIDs(before), sortedIDs(after)); diff != "" {
				t.Errorf("tasks were lost or issued twice:\n%s", diff)
			}
			for _, task := range after {
				if task.Zone == "Europe/Berlin" {
					continue
				}
				if !task.ClosesAt.After(at) {
					t.Errorf("%s moved to where it is already over", task.Date)
				}
				for _, old := range before {
					if old.ID == task.ID && !old.OpensAt.After(at) {
						t.Errorf("%s had opened and moved", task.Date)
					}
				}
			}
		})
	}
}

var zones = []string{"Europe/Berlin", "America/New_York", "Asia/Shanghai", "Australia/Lord_Howe", "Pacific/Apia", "America/Sao_Paulo", "Africa/Casablanca", "Asia/Kathmandu", "UTC"}

func drawnRule(t *rapid.T, id string) Rule {
	r := Rule{ID: id, Questionnaire: "q|1", Anchor: "enrolment", Offset: rapid.SampledFrom([]string{"P0D", "P3D", "P1M", "-P2D", "P2W"}).Draw(t, "offset")}
	if rapid.Bool().Draw(t, "repeats") {
		r.Repeat = &Repeat{Every: rapid.SampledFrom([]string{"P1D", "P3D", "P1W", "P2W", "P1M"}).Draw(t, "every"), Until: rapid.SampledFrom([]string{"P60D", "P6M", "P1Y"}).Draw(t, "until")}
		if rapid.Bool().Draw(t, "on weekdays") {
			r.Weekdays = []string{"MO", "SA"}
		}
	}
	r.Windows = rapid.SampledFrom([][]Window{
		{{Opens: "18:00", Due: "20:00", Closes: "23:00", Grace: "PT2H"}}, {{Opens: "00:00", Due: "12:00", Closes: "00:00"}}, {{Opens: "01:30", Due: "02:00", Closes: "02:45"}},
		{{Opens: "08:00", Due: "09:00", Closes: "10:00"}, {Opens: "20:00", Due: "21:00", Closes: "02:30", Grace: "P1D"}},
	}).Draw(t, "windows")
	return r
}

func sortedIDs(tasks []Task) []int64 {
	var out []int64
	for _, t := range tasks {
		out = append(out, t.ID)
	}
	slices.Sort(out)
	return out
}

func byOpening(a, b Task) int {
	return order.Or(a.OpensAt.Compare(b.OpensAt), order.Compare(a.ID, b.ID))
}

// TestEngineProperties: determinism, unique ids, Find agreeing with Generate, ranges adding up, order within a window.
func TestEngineProperties(t *testing.T) {
	e := NewEngine()
	rapid.Check(t, func(t *rapid.T) {
		version, findings := NewSchedule(1, Design{Rules: []Rule{drawnRule(t, "a"), drawnRule(t, "b")}}, Known{})
		s := Plan{version}
		if len(findings) > 0 {
			t.Fatalf("%+v", findings)
		}
		p := Person{ID: rapid.Int64Range(1, 1<<40).Draw(t, "id"), Anchors: map[string]Date{"enrolment": dateOfDays(20454 + rapid.IntRange(0, 300).Draw(t, "enrolled"))},
			Zones: []ZoneChange{{Zone: rapid.SampledFrom(zones).Draw(t, "zone")}}}
		if rapid.Bool().Draw(t, "travels") {
			p.Zones = append(p.Zones, ZoneChange{From: from.AddDate(0, 0, rapid.IntRange(0, 365).Draw(t, "when")), Zone: rapid.SampledFrom(zones).Draw(t, "to")})
		}
		all := e.Generate(s, p, from.AddDate(-1, 0, 0), to.AddDate(1, 0, 0))
		if diff := cmp.Diff(all, NewEngine().Generate(s, p, from.AddDate(-1, 0, 0), to.AddDate(1, 0, 0))); diff != "" {
			t.Fatalf("the same input gives something else: %s", diff)
		}
		seen := map[int64]bool{}
		for _, task := range all {
			if task.ID <= 0 || seen[task.ID] {
				t.Fatalf("id %d is not positive or not unique", task.ID)
			}
			seen[task.ID] = true
			if !task.OpensAt.Before(task.ClosesAt) || task.DueAt.Before(task.OpensAt) || task.DueAt.After(task.ClosesAt) || task.GraceUntil.Before(task.ClosesAt) {
				t.Fatalf("%+v is out of order", task)
			}
		}
		home := p
		home.Zones = p.Zones[:1]
		if diff := cmp.Diff(sortedIDs(e.Generate(s, home, from.AddDate(-1, 0, 0), to.AddDate(1, 0, 0))), sortedIDs(all)); diff != "" {
			t.Fatalf("a journey lost tasks or issued them twice:\n%s", diff)
		}
		for _, one := range all {
			if found, ok := e.Find(s, p, one.ID, one.OpensAt); !ok || found != one {
				t.Fatalf("Find gives %+v, want %+v", found, one)
			}
		}
		if len(all) > 0 {
			one := all[rapid.IntRange(0, len(all)-1).Draw(t, "which")]
			for _, near := range []time.Time{one.GraceUntil, from, from.AddDate(0, 0, rapid.IntRange(-800, 800).Draw(t, "near")), {}} {
				if found, ok := e.Find(s, p, one.ID, near); !ok || found != one {
					t.Fatalf("Find near %v gives %+v, want %+v", near, found, one)
				}
			}
		}
		cut := from.AddDate(0, 0, rapid.IntRange(0, 365).Draw(t, "cut"))
		cut = cut.Add(time.Duration(rapid.IntRange(0, 24*60-1).Draw(t, "minute")) * time.Minute)
		union := map[int64]Task{}
		for _, part := range [][2]time.Time{{from.AddDate(-1, 0, 0), cut}, {cut, to.AddDate(1, 0, 0)}} {
			for _, task := range e.Generate(s, p, part[0], part[1]) {
				if !task.OpensAt.Before(part[1]) || task.GraceUntil.Before(part[0]) {
					t.Fatalf("%+v does not touch %v", task, part)
				}
				union[task.ID] = task
			}
		}
		parts := slices.SortedFunc(maps.Values(union), byOpening)
		if diff := cmp.Diff(all, parts, cmpopts.EquateEmpty()); diff != "" {
			t.Fatalf("the parts are not the whole:\n%s", diff)
		}
		if _, ok := e.Find(s, p, 12345, from); ok {
			t.Fatal("an unknown id is found")
		}
	})
}

// TestWallClockSurvivesClockChanges: a weekly series keeps its weekday and wall time across both changes of a year.
func TestWallClockSurvivesClockChanges(t *testing.T) {
	s := schedule(t, rule(func(r *Rule) { r.Repeat = &Repeat{Every: "P1W", Until: "P1Y"} }))
	for _, name := range []string{"Europe/Berlin", "America/New_York", "Australia/Lord_Howe"} {
		zone, err := LoadZone(name)
		if err != nil {
			t.Fatal(err)
		}
		tasks := NewEngine().Generate(s, person(name, "2026-01-05", t), from, to)
		offsets := map[int]bool{}
		for _, task := range tasks {
			opens := task.OpensAt.In(zone)
			_, offset := opens.Zone()
			offsets[offset] = true
			if opens.Weekday() != time.Monday || opens.Hour() != 18 || opens.Minute() != 0 {
				t.Errorf("%s: opens %v, want Mondays at 18:00", name, opens)
			}
		}
		if len(tasks) < 50 || len(offsets) != 2 {
			t.Errorf("%s: %d tasks in %d offsets; the test does not cross both changes", name, len(tasks), len(offsets))
		}
	}
}

func BenchmarkGenerate3Days(b *testing.B) {
	s := schedule(b, rule(func(r *Rule) { r.Repeat.Until = "P365D" }))
	p := person("Europe/Berlin", "2026-01-05", b)
	e := NewEngine()
	begin := time.Date(2026, 11, 23, 1, 0, 0, 0, time.UTC)
	b.ReportAllocs()
	for b.Loop() {
		if tasks := e.Generate(s, p, begin, begin.AddDate(0, 0, 3)); len(tasks) != 3 {
			b.Fatalf("%d tasks, want 3", len(tasks))
		}
	}
}

func BenchmarkFind(b *testing.B) {
	b.Run("OneRule", func(b *testing.B) { benchmarkFind(b, 1) })
	b.Run("LastOf25", func(b *testing.B) { benchmarkFind(b, 25) })
}

func benchmarkFind(b *testing.B, rules int) {
	var all []Rule
	for i := range rules {
		all = append(all, rule(func(r *Rule) { r.ID, r.Repeat.Until = fmt.Sprintf("rule%02d", i), "P365D" }))
	}
	s := schedule(b, all...)
	p := person("Europe/Berlin", "2026-01-05", b)
	e := NewEngine()
	now := time.Date(2026, 11, 23, 19, 0, 0, 0, time.UTC)
	tasks := e.Generate(s, p, now, now.Add(time.Second))
	id := tasks[slices.IndexFunc(tasks, func(t Task) bool { return t.Rule == all[rules-1].ID })].ID
	b.ReportAllocs()
	for b.Loop() {
		if _, ok := e.Find(s, p, id, now); !ok {
			b.Fatal("not found")
		}
	}
}
