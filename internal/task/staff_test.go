package task

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"

	"github.com/eprod/eprod/internal/audit"
	"github.com/eprod/eprod/internal/auth"
	"github.com/eprod/eprod/internal/db"
	"github.com/eprod/eprod/internal/testenv"
)

func (w *world) Numbers(_ context.Context, ids []int64) (map[int64]string, error) {
	out := map[int64]string{}
	for _, id := range ids {
		out[id] = fmt.Sprintf("N%d", id)
	}
	return out, nil
}

func (w *world) NextN(n int) ([]int64, error) {
	out := make([]int64, n)
	for i := range out {
		w.ids++
		out[i] = w.ids
	}
	return out, nil
}

// office is the staff's side of tasks over real rows: 20 participants of a study, their days answered in time, late and not at all.
type office struct {
	*world
	register *register
	shards   *db.Shards
	answers  map[Key]Completion
}

func newOffice(t *testing.T, shards *db.Shards) *office {
	rules := []Rule{rule(func(r *Rule) { r.Repeat.Until = "P60D" }), utcDaily("m", "06:00", "09:00")}
	o := &office{world: newWorld(t, rules...), register: newRegister(t, rules...), shards: shards, answers: map[Key]Completion{}}
	store := &Store{Shards: shards}
	o.Service.People = o
	o.Reports, o.Service.Numbers, o.IDs, o.Completions = store, o.world, o.world, store
	people := crowd(20, "UTC", "Asia/Tokyo")
	for i := range people { // participants 7 and 8 are the ones that the world knows
		people[i].ID = int64(7 + i)
	}
	o.register.set(t, shards, o.clock.Now(), people...)
	pass1(t, o.register.generator(shards, "one", o.clock.Now))
	for i, p := range people {
		for n, task := range o.Engine.Generate(o.plan, p, time.Time{}.AddDate(1990, 0, 0), o.clock.Now()) {
			if n%3 == 0 || task.OpensAt.After(o.clock.Now()) {
				continue
			}
			c := Completion{Task: task, Submission: uuid.New(), Late: n%3 == 2 && i%2 == 0, CapturedAt: task.OpensAt, ReceivedAt: task.OpensAt.Add(time.Minute)}
			o.answers[Key{p.ID, task.ID}] = c
			if err := complete(t, shards, c); err != nil {
				t.Fatal(err)
			}
		}
	}
	return o
}

func (o *office) Person(_ context.Context, id int64) (Person, error) {
	return o.register.people[id], nil
}

// recomputed counts from the engine and the answers alone.
func (o *office) recomputed(q Query, group func(*Task) string, excused map[Key]bool) map[string]Adherence {
	out := map[string]Adherence{}
	for _, p := range o.register.people {
		for _, task := range o.Engine.Generate(o.plan, p, time.Time{}.AddDate(1990, 0, 0), o.clock.Now().Add(48*time.Hour)) {
			if task.Date.Compare(q.From) < 0 || task.Date.Compare(q.To) > 0 || q.Participant != 0 && q.Participant != p.ID || task.OpensAt.After(o.clock.Now().Add(48*time.Hour)) {
				continue
			}
			key := Key{p.ID, task.ID}
			a := out[group(&task)]
			switch c, done := o.answers[key]; {
			case done && c.Late:
				a.Late++
			case done:
				a.InTime++
			case excused[key]:
				a.Excused++
			case task.GraceUntil.Before(o.clock.Now()):
				a.Missed++
			default:
				a.Waiting++
			}
			out[group(&task)] = a
		}
	}
	return out
}

func TestAdherence(t *testing.T) {
	each(t, func(t *testing.T, shards *db.Shards) {
		o := newOffice(t, shards)
		ctx := as(t.Context(), auth.KindStaff, admin)
		excused := map[Key]bool{}
		for key := range rowsOf(t, shards) {
			if _, done := o.answers[key]; !done && key.Task%2 == 0 || len(excused) == 0 && !done {
				if err := (&Store{Shards: shards}).Excuse(ctx, key, true, o.clock.Now(), audit.Entry{ID: key.Task, At: o.clock.Now(), Zone: "UTC", Action: "task.excuse", Record: "task"}); err != nil {
					t.Fatal(err)
				}
				excused[key] = true
			}
		}
		july := func(d int) Date { return Date{2026, time.July, d} }
		for name, c := range map[string]struct {
			q     Query
			group func(*Task) string
			key   func(*Adherence) string
		}{
			"study":           {Query{From: july(1), To: july(31), By: ByStudy}, func(*Task) string { return "" }, func(*Adherence) string { return "" }},
			"three days":      {Query{From: july(4), To: july(6), By: ByStudy}, func(*Task) string { return "" }, func(*Adherence) string { return "" }},
			"participants":    {Query{From: july(1), To: july(31), By: ByParticipant}, func(t *Task) string { return fmt.Sprint(t.Participant) }, func(a *Adherence) string { return fmt.Sprint(a.Participant) }},
			"days":            {Query{From: july(1), To: july(9), By: ByDay}, func(t *Task) string { return t.Date.String() }, func(a *Adherence) string { return a.Date }},
			"days of one":     {Query{From: july(1), To: july(9), By: ByDay, Participant: 8}, func(t *Task) string { return t.Date.String() }, func(a *Adherence) string { return a.Date }},
			"windows":         {Query{From: july(1), To: july(9), By: ByWindow}, func(t *Task) string { return fmt.Sprint(t.Rule, t.Window) }, func(a *Adherence) string { return fmt.Sprint(a.Rule, a.Window) }},
			"before it began": {Query{From: Date{2020, 1, 1}, To: Date{2020, 2, 1}, By: ByStudy}, nil, nil},
		} {
			c.q.Study = theStudy
			r, err := o.Adherence(ctx, c.q, 0, 1000)
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			if c.group == nil {
				if len(r.Lines) != 0 || r.Total != (Adherence{}) || r.Total.Rate() != 0 {
					t.Errorf("%s: %+v", name, r)
				}
				continue
			}
			got := map[string]Adherence{}
			for _, a := range r.Lines {
				key := c.key(&a)
				a.Participant, a.Date, a.Rule, a.Window = 0, "", "", 0
				got[key] = a
			}
			if diff := cmp.Diff(o.recomputed(c.q, c.group, excused), got); diff != "" || len(got) != len(r.Lines) {
				t.Errorf("%s: %d lines\n%s", name, len(r.Lines), diff)
			}
		}
		first, err := o.Adherence(ctx, Query{Study: theStudy, From: july(1), To: july(9), By: ByDay}, 0, 4)
		second, err2 := o.Adherence(ctx, Query{Study: theStudy, From: july(1), To: july(9), By: ByDay}, 4, 400)
		if err != nil || err2 != nil || !first.More || second.More || first.Total != second.Total || first.Lines[3].Date >= second.Lines[0].Date {
			t.Errorf("pages: %+v and %+v, %v, %v", first, second, err, err2)
		}
		for _, c := range []struct {
			who  int64
			q    Query
			want string
		}{
			{stranger, Query{From: july(1), To: july(2), By: ByDay}, "not_found"}, {admin, Query{From: july(2), To: july(1), By: ByDay}, "invalid_parameter"},
			{admin, Query{From: Date{2020, 1, 1}, To: july(1), By: ByDay}, "invalid_parameter"}, {admin, Query{From: july(1), To: july(2), By: "x"}, "invalid_parameter"},
		} {
			c.q.Study = theStudy
			if _, err := o.Adherence(as(t.Context(), auth.KindStaff, c.who), c.q, 0, 10); code(err) != c.want {
				t.Errorf("%+v: %v, want %s", c, err, c.want)
			}
		}
	})
}

func TestExcuse(t *testing.T) {
	each(t, func(t *testing.T, shards *db.Shards) {
		o := newOffice(t, shards)
		staff := as(t.Context(), auth.KindStaff, coordinator)
		var missed, answered Task
		for _, task := range o.Engine.Generate(o.plan, o.register.people[7], time.Time{}.AddDate(1990, 0, 0), o.clock.Now()) {
			if _, done := o.answers[Key{7, task.ID}]; done {
				answered = task
			} else if task.GraceUntil.Before(o.clock.Now()) {
				missed = task
			}
		}
		for _, c := range []struct {
			name        string
			ctx         context.Context
			participant int64
			task        int64
			excused     bool
			reason      string
			want        string
		}{
			{"without a reason", staff, 7, missed.ID, true, " ", "invalid_field"},
			{"by a monitor", as(t.Context(), auth.KindStaff, monitor), 7, missed.ID, true, "in hospital", "forbidden"},
			{"at another site", staff, 8, missed.ID, true, "in hospital", "not_found"},
			{"no such task", staff, 7, 12345, true, "in hospital", "task_not_issued"},
			{"an answered one", staff, 7, answered.ID, true, "in hospital", "task_completed"},
			{"not excused yet", staff, 7, missed.ID, false, "a mistake", "ok"},
			{"a missed one", staff, 7, missed.ID, true, "in hospital", "ok"},
			{"again", staff, 7, missed.ID, true, "in hospital", "ok"},
		} {
			if err := o.Excuse(c.ctx, theStudy, c.participant, c.task, c.excused, c.reason, "request-1"); code(err) != c.want {
				t.Errorf("%s: %v, want %s", c.name, err, c.want)
			}
		}
		state := func() State {
			t.Helper()
			list, err := o.Of(staff, theStudy, 7, missed.OpensAt.Add(-time.Hour), missed.OpensAt.Add(time.Hour))
			if err != nil {
				t.Fatal(err)
			}
			for _, l := range list {
				if l.ID == missed.ID {
					return l.State
				}
			}
			return ""
		}
		if got := state(); got != Excused {
			t.Errorf("state %s, want excused", got)
		}
		pass1(t, o.register.generator(shards, "one", o.clock.Now))
		if got := state(); got != Excused {
			t.Errorf("after another pass %s, want excused", got)
		}
		if err := o.Excuse(staff, theStudy, 7, missed.ID, false, "a mistake", "request-2"); err != nil || state() != Missed {
			t.Errorf("taken back: %v, %s", err, state())
		}
		entries, err := audit.List(t.Context(), shards.For(7), audit.Filter{Study: theStudy, Record: "task"})
		if err != nil || len(entries) != 2 || entries[1].Action != "task.excuse" || entries[1].Reason != "in hospital" || entries[1].Participant != 7 || entries[0].Action != "task.unexcuse" {
			t.Errorf("evidence %+v, %v", entries, err)
		}
		if err := o.Excuse(staff, theStudy, 7, missed.ID, true, "in hospital", "request-3"); err != nil {
			t.Fatal(err)
		}
		if err := complete(t, shards, Completion{Task: missed, Submission: uuid.New(), CapturedAt: missed.OpensAt, ReceivedAt: missed.ClosesAt}); err != nil || state() != Completed {
			t.Errorf("an answer that came after all: %v, %s", err, state())
		}
	})
}

type drafts struct {
	was, is Plan
	at      time.Time
}

func (d drafts) Amended(context.Context, int64, Design, time.Time) (was, is Plan, at time.Time, err error) {
	return d.was, d.is, d.at, nil
}

func (w *world) InStudy(_ context.Context, _, after int64, limit int) ([]Person, error) {
	var out []Person
	for id := after + 1; id <= 9 && len(out) < limit; id++ {
		if id >= 7 {
			p, err := w.Person(context.Background(), id)
			if err != nil {
				return nil, err
			}
			out = append(out, p)
		}
	}
	return out, nil
}

func TestAmendmentDryRun(t *testing.T) {
	gone := utcDaily("gone", "06:00", "09:00")
	gone.Repeat.Until = "P38D"
	w := newWorld(t, rule(nil), gone)
	w.IDs, w.Service.Numbers, w.Pages = w, w, w
	at := time.Date(2026, 7, 8, 17, 0, 0, 0, time.UTC) // in mid-window, in Berlin
	design := Design{Rules: []Rule{rule(func(r *Rule) { r.Windows[0].Closes = "22:30" }), rule(func(r *Rule) { r.ID = "new" })}}
	next := version(t, 2, at.Format(time.RFC3339), design, Known{})
	w.Drafts = drafts{w.plan, append(w.plan[:1:1], next), at}
	got, err := w.Amend(as(t.Context(), auth.KindStaff, admin), theStudy, design, at, 5, 0, 2)
	if err != nil || len(got.Participants) != 2 || !got.More || got.Participants[1].Number != "N8" {
		t.Fatalf("%+v, %v", got, err)
	}
	// Open: the 8th stays; the 9th to 13th move (the 13th opens at 16:00 UTC, within the five days), as many are new, and today's new one
	// begins late. The morning rule had one day left.
	p := got.Participants[0]
	if p.Kept != 1 || len(p.Moved) != 5 || len(p.Created) != 6 || len(p.Cancelled) != 1 || p.Created[0].Rule != "new" || p.Cancelled[0].Rule != "gone" {
		t.Errorf("kept %d, moved %v, created %v, cancelled %v", p.Kept, shown(p.Moved), shown(p.Created), shown(p.Cancelled))
	}
	if _, err := w.Amend(as(t.Context(), auth.KindStaff, admin), theStudy, design, at, 400, 0, 500_000); code(err) != "invalid_parameter" {
		t.Errorf("a dry run without bounds: %v", err)
	}
}

func TestStaffAtTheDoor(t *testing.T) {
	for dialect, shards := range testenv.Shards(t) {
		if dialect != "sqlite" {
			continue // the rows are tested over both
		}
		o := newOffice(t, shards)
		o.Pages = o.world
		o.Drafts = drafts{o.plan, o.plan, o.clock.Now()}
		door := o.door(t)
		if err := door.CheckDocument(); err != nil {
			t.Error(err)
		}
		var missed int64
		for key := range rowsOf(t, shards) {
			if _, done := o.answers[key]; !done && key.Participant == 7 {
				missed = key.Task
			}
		}
		call := func(method, path, body string) (int, string) {
			r := httptest.NewRequest(method, path, strings.NewReader(body))
			r.Header.Set("X-Caller", "staff 1")
			r.Header.Set("Content-Type", "application/json")
			rec := httptest.NewRecorder()
			door.Handler().ServeHTTP(rec, r)
			return rec.Code, rec.Body.String()
		}
		excusal := fmt.Sprintf("%s/%d/excusal", of7, missed)
		rules := `{"rules":[{"id":"r","questionnaire":"q|1","anchor":"enrolment","offset":"P0D","windows":[{"opens":"08:00","due":"09:00","closes":"10:00"}]}]}`
		for _, c := range []struct {
			method, path, body string
			status             int
			want               string
		}{
			{"GET", "/api/v1/studies/3/adherence?by=participant&from=2026-07-01&to=2026-07-08&limit=3", "", 200, `"number":"N7"`},
			{"GET", "/api/v1/studies/3/adherence?by=window&from=2026-07-01&to=2026-07-08", "", 200, `"window":0`},
			{"GET", "/api/v1/studies/3/adherence?by=day&cursor=2&from=2026-07-01&to=2026-07-08", "", 200, `"date":"2026-07-03"`},
			{"GET", "/api/v1/studies/3/adherence", "", 200, `"from":"2026-06-08","to":"2026-07-08"`},
			{"GET", "/api/v1/studies/3/adherence?by=moon", "", 400, "invalid_parameter"},
			{"GET", "/api/v1/studies/3/adherence?from=yesterday", "", 400, "invalid_parameter"},
			{"GET", "/api/v1/studies/3/adherence?cursor=-1", "", 400, "invalid_parameter"},
			{"PUT", excusal, `{"reason":"in hospital"}`, 204, ""},
			{"PUT", excusal, `{}`, 422, "/reason"},
			{"POST", excusal + "/withdraw", `{"reason":"a mistake"}`, 204, ""},
			{"POST", "/api/v1/studies/3/schedule/amendment?limit=2", rules, 200, `"nextCursor":"8"`},
			{"POST", "/api/v1/studies/3/schedule/amendment?days=0", rules, 400, "invalid_parameter"},
		} {
			if status, body := call(c.method, c.path, c.body); status != c.status || !strings.Contains(body, c.want) {
				t.Errorf("%s %s: %d %s, want %d %s", c.method, c.path, status, body, c.status, c.want)
			}
		}
		if status, _ := call(http.MethodGet, "/api/v1/studies/3/adherence?limit=0", ""); status != 400 {
			t.Errorf("limit 0: %d", status)
		}
	}
}
