package task

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

func TestLadder(t *testing.T) {
	r := rule(func(r *Rule) {
		r.Reminders = []Reminder{{At: "missed", After: "PT1H"}, {At: "closes", After: "-PT1H", Channels: []string{"email", "sms"}}, {At: "opens", After: "PT0S"}, {At: "due", After: "PT0S", To: "site", Channels: []string{"sms"}}}
	})
	plan := schedule(t, r)
	due := NewEngine().Generate(plan, person("UTC", "2026-07-01", t), from, to)[0]
	var got []string
	for _, g := range plan.Ladder(&due) {
		got = append(got, g.At.Format("02T15:04 ")+g.Name+" "+g.Kind)
		if len(g.Channels) == 0 {
			t.Errorf("%s has no channel", g.Name)
		}
	}
	want := []string{"01T18:00 opens/0s/participant opens", "01T20:00 due/0s/site due", "01T22:00 closes/-1h0m0s/participant closes", "02T02:00 missed/1h0m0s/site missed"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	due.ScheduleVersion = 9
	if l := plan.Ladder(&due); l != nil {
		t.Errorf("the ladder of an unknown version: %v", l)
	}
	for name, change := range map[string]func(*Rule){
		"duplicate_reminder": func(r *Rule) { r.Reminders = append(r.Reminders, Reminder{At: "opens", After: "PT0H"}) },
		"invalid_reminder":   func(r *Rule) { r.Reminders[0].Channels = []string{"pigeon"} },
		"invalid_duration":   func(r *Rule) { r.Reminders[0].After = "P30D" },
		"too_many":           func(r *Rule) { r.Reminders = make([]Reminder, maxReminders+1) },
	} {
		bad := r
		bad.Reminders = append([]Reminder(nil), r.Reminders...)
		change(&bad)
		if _, f := NewSchedule(1, Design{Rules: []Rule{bad}}, Known{}); len(f) != 1 || f[0].Code != name {
			t.Errorf("%s: %+v", name, f)
		}
	}
}

func timing(t testing.TB, m *Messages) Timing {
	t.Helper()
	s, findings := NewSchedule(1, Design{Rules: []Rule{rule(nil)}, Messages: m}, Known{})
	if len(findings) > 0 {
		t.Fatal(findings)
	}
	return s.Messages()
}

func TestAllowed(t *testing.T) {
	night, noon := &Messages{Quiet: &Quiet{From: "21:00", Until: "08:00"}, Holidays: []string{"2026-12-25", "2026-12-26"}}, &Messages{Quiet: &Quiet{From: "12:00", Until: "14:00"}}
	for _, c := range []struct {
		messages       *Messages
		zone, at, want string
	}{
		{nil, "Europe/Berlin", "2026-12-25T03:00:00Z", "2026-12-25T03:00:00Z"},
		{night, "Europe/Berlin", "2026-07-01T18:59:59Z", "2026-07-01T18:59:59Z"},
		{night, "Europe/Berlin", "2026-07-01T19:00:00Z", "2026-07-02T06:00:00Z"},
		{night, "Europe/Berlin", "2026-07-02T01:00:00Z", "2026-07-02T06:00:00Z"},
		{night, "Asia/Shanghai", "2026-07-01T19:00:00Z", "2026-07-02T00:00:00Z"},
		{night, "Europe/Berlin", "2026-12-24T21:00:00Z", "2026-12-27T07:00:00Z"},
		{night, "Europe/Berlin", "2026-12-25T11:00:00Z", "2026-12-27T07:00:00Z"},
		{night, "Europe/Berlin", "2026-10-24T22:30:00Z", "2026-10-25T07:00:00Z"}, // the clocks are put back
		{noon, "Europe/Berlin", "2026-07-01T10:00:00Z", "2026-07-01T12:00:00Z"},
		{noon, "Europe/Berlin", "2026-07-01T12:00:00Z", "2026-07-01T12:00:00Z"},
	} {
		zone, err := LoadZone(c.zone)
		if err != nil {
			t.Fatal(err)
		}
		m := timing(t, c.messages)
		if got := m.Allowed(instantOf(t, c.at), zone).Format(time.RFC3339); instantOf(t, got) != instantOf(t, c.want) {
			t.Errorf("%s at %s: %s, want %s", c.zone, c.at, got, c.want)
		}
	}
	for pointer, m := range map[string]*Messages{
		"/messages/quiet":         {Quiet: &Quiet{From: "08:00", Until: "08:00"}},
		"/messages/quiet/from":    {Quiet: &Quiet{From: "8", Until: "09:00"}},
		"/messages/holidays/1":    {Holidays: []string{"2026-12-25", "25.12."}},
		"/messages/budget/pigeon": {Budget: map[string]int{"pigeon": 5}},
		"/messages/spread":        {Spread: "PT1H"},
	} {
		if _, f := NewSchedule(1, Design{Rules: []Rule{rule(nil)}, Messages: m}, Known{}); len(f) != 1 || f[0].Pointer != pointer {
			t.Errorf("%s: %+v", pointer, f)
		}
	}
}

// TestAllowedProperties: what is allowed is not quiet, not earlier, and asked again the same; the spread is kept.
func TestAllowedProperties(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		clockOf := func(label string) string { return clockText(clock(rapid.IntRange(0, 24*60-1).Draw(t, label))) }
		q := Quiet{From: clockOf("from"), Until: clockOf("until")}
		if q.From == q.Until {
			t.Skip()
		}
		s, f := NewSchedule(1, Design{Rules: []Rule{rule(nil)}, Messages: &Messages{Quiet: &q, Holidays: []string{"2026-03-29", "2026-11-01"}}}, Known{})
		if len(f) > 0 {
			t.Fatal(f)
		}
		m := s.Messages()
		zone, err := LoadZone(rapid.SampledFrom(zones).Draw(t, "zone"))
		if err != nil {
			t.Fatal(err)
		}
		at := from.Add(time.Duration(rapid.IntRange(0, 366*24*60).Draw(t, "at")) * time.Minute)
		got := m.Allowed(at, zone)
		local := got.In(zone)
		now := clock(local.Hour()*60 + local.Minute())
		quiet := m.QuietFrom < m.QuietUntil && now >= m.QuietFrom && now < m.QuietUntil || m.QuietFrom > m.QuietUntil && (now >= m.QuietFrom || now < m.QuietUntil)
		if got.IsZero() || got.Before(at) || quiet || m.Holidays[dateOf(local)] || got.Sub(at) > 4*24*time.Hour {
			t.Fatalf("at %v by %v with %+v: %v", at, zone, q, local)
		}
		if again := m.Allowed(got, zone); again != got {
			t.Fatalf("%v becomes %v", got, again)
		}
		id := rapid.Int64Range(1, 1<<60).Draw(t, "participant")
		if j := m.Jitter(id); j < 0 || j >= m.Spread || j != m.Jitter(id) {
			t.Fatalf("jitter %v of %v", j, m.Spread)
		}
	})
	m := Timing{Spread: time.Minute}
	seconds := map[int]int{}
	for id := range int64(60_000) {
		seconds[int(m.Jitter(7_000_000_000_000_000_000+id*4096)/time.Second)]++
	}
	for s := range 60 {
		if n := seconds[s]; n < 800 || n > 1200 {
			t.Errorf("%d of 60,000 in second %d, want about 1,000", n, s)
		}
	}
}

func clockText(c clock) string {
	return time.Date(2026, 1, 1, int(c)/60, int(c)%60, 0, 0, time.UTC).Format("15:04")
}
