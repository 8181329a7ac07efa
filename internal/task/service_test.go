package task

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/eprod/eprod/internal/auth"
	"github.com/eprod/eprod/internal/errs"
	"github.com/eprod/eprod/internal/testenv"
)

const (
	theStudy  = 3
	here      = 30 // site of participant 7
	elsewhere = 31 // site of participant 8

	admin       = 1
	coordinator = 2 // at site here
	monitor     = 4 // of the whole study
	stranger    = 5
)

// world is the service over a study in memory, parts of which can be made to fail.
type world struct {
	*Service
	clock *testenv.FakeClock
	plan  Plan
	done  map[int64]Done
	asked [][]int64 // ids that Done was asked for
	away  map[string]error
	ids   int64
}

func newWorld(t testing.TB, rules ...Rule) *world {
	w := &world{clock: testenv.Clock(time.Date(2026, 7, 8, 12, 0, 0, 0, time.UTC)), done: map[int64]Done{}, away: map[string]error{}}
	if len(rules) > 0 {
		w.plan = schedule(t, rules...)
	}
	w.Service = &Service{Engine: NewEngine(), Plans: w, People: w, Questionnaires: w, Completions: w, Guard: auth.Guard{Grants: w}, Now: w.clock.Now}
	return w
}

func (w *world) Plan(context.Context, int64) (Plan, error) {
	return w.plan, w.away["schedule"]
}

func (w *world) Person(_ context.Context, id int64) (Person, error) {
	enrolled := Date{2026, time.June, 1}
	p := Person{ID: id, Study: theStudy, Arm: "A", Anchors: map[string]Date{"enrolment": enrolled}, Zones: []ZoneChange{{Zone: "Europe/Berlin"}}}
	return p, w.away["person"]
}

func (w *world) Site(_ context.Context, id int64) (study, site int64, err error) {
	switch id {
	case 7:
		return theStudy, here, w.away["site"]
	case 8:
		return theStudy, elsewhere, w.away["site"]
	}
	return 0, 0, errs.Absent("participant")
}

func (w *world) QuestionnaireID(_ context.Context, study int64, canonical string) (int64, error) {
	if study != theStudy || canonical != "q|1" {
		return 0, errs.Absent("questionnaire")
	}
	return 700, w.away["questionnaire"]
}

func (w *world) Done(_ context.Context, _ int64, ids []int64) (map[int64]Done, error) {
	w.asked = append(w.asked, ids)
	return w.done, w.away["done"]
}

func (w *world) Grants(_ context.Context, user, study int64) ([]auth.Grant, error) {
	switch {
	case study != theStudy:
		return nil, nil
	case user == coordinator:
		return []auth.Grant{{Role: auth.Coordinator, Site: here}}, nil
	case user == monitor:
		return []auth.Grant{{Role: auth.Monitor}}, nil
	}
	return nil, nil
}

func as(ctx context.Context, kind auth.Kind, id int64) context.Context {
	p := auth.Principal{Kind: kind, ID: id}
	if kind == auth.KindStaff && id == admin {
		p.Role = auth.Administrator
	}
	return auth.With(ctx, p)
}

func code(err error) string {
	if err == nil {
		return "ok"
	}
	if e, ok := errs.As(err); ok {
		return e.Code
	}
	return "internal: " + err.Error()
}

func TestMine(t *testing.T) {
	w := newWorld(t, rule(nil))
	me := as(t.Context(), auth.KindParticipant, 7)
	yesterday := identity(7, "r", Date{2026, time.July, 7}.days(), 0)
	late := Done{Late: true, ReceivedAt: time.Date(2026, 7, 7, 21, 30, 0, 0, time.UTC)}
	w.done[yesterday] = late
	for _, now := range []struct {
		at    time.Time
		today State
	}{{time.Date(2026, 7, 8, 12, 0, 0, 0, time.UTC), Scheduled}, {time.Date(2026, 7, 8, 16, 0, 0, 0, time.UTC), Open}, {time.Date(2026, 7, 8, 23, 0, 0, 1, time.UTC), Missed}} {
		w.clock.Advance(now.at.Sub(w.clock.Now()))
		list, err := w.Mine(me, time.Time{}, time.Time{})
		if err != nil {
			t.Fatal(err)
		}
		states := map[string]State{}
		for i, l := range list {
			states[l.Date.String()] = l.State
			if l.Participant != 7 || l.Study != theStudy || l.QuestionnaireID != 700 {
				t.Errorf("%+v is not the participant's", l)
			}
			if i > 0 && !list[i-1].OpensAt.Before(l.OpensAt) {
				t.Errorf("%v stands after %v", l.OpensAt, list[i-1].OpensAt)
			}
			if want := map[bool]Done{true: late}[l.ID == yesterday]; l.Done != want {
				t.Errorf("%s done as %+v, want %+v", l.Date, l.Done, want)
			}
		}
		for date, want := range map[string]State{"2026-07-02": Missed, "2026-07-06": Missed, "2026-07-07": Completed, "2026-07-08": now.today, "2026-07-09": Scheduled, "2026-07-14": Scheduled} {
			if states[date] != want {
				t.Errorf("at %v: %s is %q, want %s", now.at, date, states[date], want)
			}
		}
	}
}

// TestRange: what is listed touches the range; without one it is a week either way.
func TestRange(t *testing.T) {
	at := func(s string) time.Time {
		if s == "" {
			return time.Time{}
		}
		when, err := time.Parse(time.RFC3339, s)
		if err != nil {
			t.Fatal(err)
		}
		return when
	}
	for _, c := range []struct{ name, from, to, first, last, code string }{
		{"default", "", "", "2026-07-01", "2026-07-14", "ok"},
		{"from alone", "2026-06-20T12:00:00Z", "", "2026-06-20", "2026-07-03", "ok"},
		{"to alone", "", "2026-07-03T00:00:00Z", "2026-07-01", "2026-07-02", "ok"},
		{"to alone before the default from", "", "2026-07-01T00:00:00Z", "", "", "invalid_parameter"},
		{"grace counts", "2026-07-02T23:00:00Z", "2026-07-03T16:00:00Z", "2026-07-02", "2026-07-02", "ok"},
		{"grace is over, to is not in", "2026-07-02T23:00:00.000001Z", "2026-07-03T16:00:00.000001Z", "2026-07-03", "2026-07-03", "ok"},
		{"between windows", "2026-07-03T00:00:00Z", "2026-07-03T16:00:00Z", "", "", "ok"},
		{"other offset", "2026-07-03T02:00:00+02:00", "2026-07-03T18:00:01+02:00", "2026-07-03", "2026-07-03", "ok"},
		{"longest", "2026-06-01T00:00:00Z", "2027-07-06T00:00:00Z", "2026-06-01", "2026-08-24", "ok"},
		{"too long", "2026-06-01T00:00:00Z", "2027-07-06T00:00:01Z", "", "", "invalid_parameter"},
		{"all of history", "0001-01-01T00:00:01Z", "9999-12-31T23:59:59Z", "", "", "invalid_parameter"},
		{"empty", "2026-07-03T00:00:00Z", "2026-07-03T00:00:00Z", "", "", "invalid_parameter"},
		{"inverted", "2026-07-03T00:00:00Z", "2026-07-02T00:00:00Z", "", "", "invalid_parameter"},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t, rule(nil))
			list, err := w.Mine(as(t.Context(), auth.KindParticipant, 7), at(c.from), at(c.to))
			if code(err) != c.code || errs.KindOf(err) != errs.Invalid && err != nil {
				t.Fatalf("%v, want %s", err, c.code)
			}
			first, last := "", ""
			if len(list) > 0 {
				first, last = list[0].Date.String(), list[len(list)-1].Date.String()
			}
			if first != c.first || last != c.last {
				t.Errorf("%s to %s, want %s to %s", first, last, c.first, c.last)
			}
		})
	}
}

func TestNoSchedule(t *testing.T) {
	w := newWorld(t)
	list, err := w.Mine(as(t.Context(), auth.KindParticipant, 7), time.Time{}, time.Time{})
	if err != nil || len(list) != 0 {
		t.Errorf("%v, %v", list, err)
	}
}

// TestWhoSees: a participant sees itself, staff only the sites of their rights; the rest does not exist for them.
func TestWhoSees(t *testing.T) {
	w := newWorld(t, rule(nil))
	staff := func(id int64) context.Context { return as(t.Context(), auth.KindStaff, id) }
	participant := as(t.Context(), auth.KindParticipant, 7)
	for _, c := range []struct {
		name               string
		ctx                context.Context
		study, participant int64
		code               string
	}{
		{"own site", staff(coordinator), theStudy, 7, "ok"},
		{"other site", staff(coordinator), theStudy, 8, "not_found"},
		{"whole study", staff(monitor), theStudy, 8, "ok"},
		{"administrator", staff(admin), theStudy, 8, "ok"},
		{"no rights", staff(stranger), theStudy, 7, "not_found"},
		{"by way of another study", staff(admin), theStudy + 1, 7, "not_found"},
		{"nobody there", staff(admin), theStudy, 9, "not_found"},
		{"a participant, itself", participant, theStudy, 7, "forbidden"},
		{"anonymous", t.Context(), theStudy, 7, "unauthenticated"},
	} {
		list, err := w.Of(c.ctx, c.study, c.participant, time.Time{}, time.Time{})
		if code(err) != c.code || (len(list) == 14) != (err == nil) {
			t.Errorf("%s: %d tasks, %v, want %s", c.name, len(list), err, c.code)
		}
	}
	for name, c := range map[string]struct {
		ctx  context.Context
		code string
	}{"staff": {staff(admin), "forbidden"}, "anonymous": {t.Context(), "unauthenticated"}, "participant": {participant, "ok"}} {
		if _, err := w.Mine(c.ctx, time.Time{}, time.Time{}); code(err) != c.code {
			t.Errorf("%s asks for its own: %v, want %s", name, err, c.code)
		}
	}
}

// TestPartsAway: what is asked for elsewhere keeps its kind of failure on the way, and nothing is listed without it.
func TestPartsAway(t *testing.T) {
	for _, part := range []string{"schedule", "person", "site", "questionnaire", "done"} {
		w := newWorld(t, rule(nil))
		down := errors.New("down")
		w.away[part] = errs.Away(part, down)
		list, err := w.Of(as(t.Context(), auth.KindStaff, admin), theStudy, 7, time.Time{}, time.Time{})
		if list != nil || errs.KindOf(err) != errs.Unavailable || !errors.Is(err, down) {
			t.Errorf("%s: %v, %v", part, list, err)
		}
	}
	w := newWorld(t, rule(func(r *Rule) { r.Questionnaire = "q|2" }))
	if _, err := w.Mine(as(t.Context(), auth.KindParticipant, 7), time.Time{}, time.Time{}); err == nil {
		t.Error("a rule without its questionnaire is listed")
	}
}

// TestAsksOnceForAll: completions are asked for in one call, for exactly the listed tasks.
func TestAsksOnceForAll(t *testing.T) {
	w := newWorld(t, rule(nil))
	list, err := w.Mine(as(t.Context(), auth.KindParticipant, 7), time.Time{}, time.Time{})
	if err != nil {
		t.Fatal(err)
	}
	ids := make([]int64, len(list))
	for i, l := range list {
		ids[i] = l.ID
	}
	if diff := cmp.Diff([][]int64{ids}, w.asked); diff != "" {
		t.Error(diff)
	}
}
