package notify

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/eprod/eprod/internal/task"
)

// ladderPlan has a task a day from 18:00 to 22:00 with two hours of grace, and a reminder at its opening, an hour before its end, and
// to the site when it is missed.
func ladderPlan(t testing.TB, m *task.Messages) task.Plan {
	t.Helper()
	s, findings := task.NewSchedule(1, task.Design{Messages: m, Rules: []task.Rule{{ID: "r", Questionnaire: "q|1", Anchor: "enrolment", Offset: "P0D", Repeat: &task.Repeat{Every: "P1D", Until: "P30D"},
		Windows:   []task.Window{{Opens: "18:00", Due: "20:00", Closes: "22:00", Grace: "PT2H"}},
		Reminders: []task.Reminder{{At: "opens", After: "PT0S", Channels: []string{"sms", "email"}}, {At: "closes", After: "-PT1H"}, {At: "missed", After: "PT0S"}}}}}, task.Known{})
	if len(findings) > 0 {
		t.Fatal(findings)
	}
	return task.Plan{s}
}

func july(day, hour, minute int) time.Time {
	return time.Date(2026, 7, day, hour, minute, 0, 0, time.UTC)
}

// moment is the situation of the participant's task of 8 July.
func moment(t testing.TB, now time.Time, m *task.Messages, change func(*situation)) situation {
	plan := ladderPlan(t, m)
	e := task.NewEngine()
	p := task.Person{ID: 7, Study: 3, Anchors: map[string]task.Date{"enrolment": {Year: 2026, Month: time.July, Day: 1}}, Zones: []task.ZoneChange{{Zone: "UTC"}}}
	due := e.Generate(plan, p, july(8, 12, 0), july(8, 23, 0))[0]
	version := plan.Current()
	s := situation{task: task.Reminding{Issued: task.Issued{Task: due, State: "issued"}}, ladder: plan.Ladder(&due), timing: version.Messages(), zone: time.UTC, now: now, decided: map[string]bool{}}
	if change != nil {
		change(&s)
	}
	return s
}

func TestDecide(t *testing.T) {
	at := func(s string) *task.Messages {
		return &task.Messages{Spread: "PT0S", Quiet: &task.Quiet{From: s, Until: "08:00"}}
	}
	calm := &task.Messages{Spread: "PT0S"}
	const opens, closes, missed = "opens/0s/participant", "closes/-1h0m0s/participant", "missed/0s/site"
	for _, c := range []struct {
		name   string
		now    time.Time
		m      *task.Messages
		change func(*situation)
		want   []string
		next   time.Time
	}{
		{"before it opens", july(8, 17, 0), calm, nil, nil, july(8, 18, 0)},
		{"when it opens", july(8, 18, 0), calm, nil, []string{opens + " "}, july(8, 21, 0)},
		{"again", july(8, 18, 0), calm, func(s *situation) { s.decided[opens] = true }, nil, july(8, 21, 0)},
		{"an hour before it closes", july(8, 21, 0), calm, func(s *situation) { s.decided[opens] = true }, []string{closes + " "}, july(9, 0, 0)},
		{"two at once after a downtime", july(8, 21, 30), calm, nil, []string{opens + " overtaken", closes + " "}, july(9, 0, 0)},
		{"over after a downtime", july(9, 10, 0), calm, nil, []string{opens + " closed", closes + " closed", missed + " "}, time.Time{}},
		{"long over", july(10, 10, 0), calm, nil, []string{opens + " closed", closes + " closed", missed + " stale"}, time.Time{}},
		{"answered", july(8, 18, 0), calm, func(s *situation) { s.task.Done = true }, nil, time.Time{}},
		{"taken back", july(8, 18, 0), calm, func(s *situation) { s.task.State = "cancelled" }, nil, time.Time{}},
		{"excused", july(9, 0, 0), calm, func(s *situation) { s.task.State = "excused" }, nil, time.Time{}},
		{"quiet from nine", july(8, 21, 0), at("21:00"), func(s *situation) { s.decided[opens] = true }, []string{closes + " quiet"}, july(9, 0, 0)},
		{"quiet when it opens, until eight", july(8, 18, 0), at("17:00"), nil, []string{opens + " quiet", closes + " quiet"}, july(9, 0, 0)},
		{"quiet for an hour", july(8, 18, 0), &task.Messages{Spread: "PT0S", Quiet: &task.Quiet{From: "17:30", Until: "19:00"}}, nil, nil, july(8, 19, 0)},
		{"after the quiet hour", july(8, 19, 0), &task.Messages{Spread: "PT0S", Quiet: &task.Quiet{From: "17:30", Until: "19:00"}}, nil, []string{opens + " "}, july(8, 21, 0)},
		{"late, and quiet now", july(8, 20, 30), &task.Messages{Spread: "PT0S", Quiet: &task.Quiet{From: "20:00", Until: "20:45"}}, nil, nil, july(8, 20, 45)},
		{"holiday", july(8, 18, 0), &task.Messages{Spread: "PT0S", Holidays: []string{"2026-07-08"}}, nil, []string{opens + " quiet", closes + " quiet"}, july(9, 0, 0)},
		{"in another zone's night", july(8, 18, 0), at("21:00"), func(s *situation) { s.zone = time.FixedZone("east", 8*3600) }, []string{opens + " quiet", closes + " quiet"}, july(9, 0, 0)},
		{"spread over the minute", july(8, 18, 0), &task.Messages{Spread: "PT1M"}, nil, nil, july(8, 18, 0).Add(ladderJitter(t))},
	} {
		s := moment(t, c.now, c.m, c.change)
		decisions, next := s.decide()
		var got []string
		for _, d := range decisions {
			got = append(got, d.rung.Name+" "+d.skip)
		}
		if diff := cmp.Diff(c.want, got); diff != "" || !next.Equal(c.next) {
			t.Errorf("%s: again at %v, want %v\n%s", c.name, next, c.next, diff)
		}
	}
}

func ladderJitter(t testing.TB) time.Duration {
	plan := ladderPlan(t, &task.Messages{Spread: "PT1M"})
	version := plan.Current()
	timing := version.Messages()
	j := timing.Jitter(7)
	if j <= 0 || j >= time.Minute {
		t.Fatalf("jitter %v", j)
	}
	return j
}

// TestDecideProperties: whenever somebody looks, a participant gets at most one message at once, none in the quiet hours or after the end,
// never the same twice, and all that is left is decided in the end.
func TestDecideProperties(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		clock := func(label string) string {
			return fmt.Sprintf("%02d:%02d", rapid.IntRange(0, 23).Draw(rt, label), rapid.IntRange(0, 59).Draw(rt, label))
		}
		m := &task.Messages{Quiet: &task.Quiet{From: clock("from"), Until: clock("until")}}
		if m.Quiet.From == m.Quiet.Until {
			m.Quiet = nil
		}
		sent := map[string]int{}
		decided := map[string]bool{}
		now := july(8, rapid.IntRange(0, 23).Draw(rt, "begin"), 0)
		for range 200 {
			s := moment(t, now, m, func(s *situation) { s.decided = decided })
			decisions, next := s.decide()
			toParticipant := 0
			for _, d := range decisions {
				if decided[d.rung.Name] {
					rt.Fatalf("%s is decided twice", d.rung.Name)
				}
				decided[d.rung.Name] = true
				if d.skip != "" {
					continue
				}
				sent[d.rung.Name]++
				if d.rung.To == task.ToParticipant {
					toParticipant++
					if at := s.timing.Allowed(now, s.zone); !at.Equal(now) || now.After(s.task.GraceUntil) || now.Before(d.rung.At) {
						rt.Fatalf("sent %s at %v", d.rung.Name, now)
					}
				}
			}
			if toParticipant > 1 {
				rt.Fatalf("%d messages at once", toParticipant)
			}
			if next.IsZero() {
				if len(decided) != 3 {
					rt.Fatalf("nobody looks again, and only %v are decided", decided)
				}
				return
			}
			if !next.After(now) {
				rt.Fatalf("at %v somebody is to look again at %v", now, next)
			}
			now = next.Add(time.Duration(rapid.IntRange(0, 600).Draw(rt, "delay")) * time.Minute)
		}
		rt.Fatal("this goes on for ever")
	})
}

func TestPurposes(t *testing.T) {
	for _, rung := range []string{"opens/0s/participant", "missed/0s/site"} {
		p := purpose(9_223_372_036_854_775_807, rung, "email")
		id, toParticipant, ok := reminderOf(p)
		if !ok || id != 9_223_372_036_854_775_807 || toParticipant != strings.HasSuffix(rung, "participant") || len(p) > 128 {
			t.Errorf("%s: %d, %v, %v", p, id, toParticipant, ok)
		}
	}
	for _, other := range []string{"", "invitation", "task/", "task/x/opens", "tasks/1/opens"} {
		if _, _, ok := reminderOf(other); ok {
			t.Errorf("%q is taken for a reminder", other)
		}
	}
}

func TestUntilText(t *testing.T) {
	berlin, err := task.LoadZone("Europe/Berlin")
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		deadline, now time.Time
		want          string
	}{{july(8, 20, 0), july(8, 16, 0), "22:00"}, {july(8, 22, 30), july(8, 16, 0), "2026-07-09 00:30"}, {july(8, 22, 30), july(8, 22, 10), "00:30"}} {
		if got := untilText(c.deadline, c.now, berlin); got != c.want {
			t.Errorf("%v at %v: %q, want %q", c.deadline, c.now, got, c.want)
		}
	}
}
