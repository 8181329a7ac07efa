package participant

import (
	"errors"
	"fmt"
	"iter"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/eprod/eprod/internal/audit"
	"github.com/eprod/eprod/internal/errs"
	"github.com/eprod/eprod/internal/study"
)

func TestEnrol(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		ctx := as(t.Context(), coordinator)
		o, err := w.Enrol(ctx, theStudy, anna(), "request-1")
		if err != nil {
			t.Fatal(err)
		}
		if o.Link != "https://epro.example.org/activate#"+o.Code || o.Number != "0001" {
			t.Errorf("outcome %+v", o)
		}
		p, site, err := w.Get(ctx, theStudy, o.ID)
		if err != nil {
			t.Fatal(err)
		}
		if len(p.WrappedKey) == 0 {
			t.Error("no data key")
		}
		now := w.clock.Now()
		wanted := &Participant{ID: o.ID, Study: theStudy, Site: site1, Number: "0001", Arm: "A", Zone: "Europe/Berlin", Language: "en", Status: Enrolled,
			Version: 1, CreatedAt: now, WrappedKey: p.WrappedKey}
		wanted.Anchors, _ = readAnchors(nil, map[string]string{"surgery": "2026-12-01", "enrolment": "2026-11-23"}, nil)
		wanted.Zones = append(wanted.Zones, p.Zones[0])
		if diff := cmp.Diff(wanted, p); diff != "" || site != "S01" || !p.Zones[0].From.Equal(now) || p.Zones[0].Zone != "Europe/Berlin" {
			t.Errorf("site %s, zones %v (-want +got):\n%s", site, p.Zones, diff)
		}
		profile, err := w.Profiles.Get(ctx, o.ID)
		if err != nil || profile.Key == nil || profile.Person.Arm != "A" {
			t.Errorf("profile %+v, %v", profile, err)
		}
		entries, err := audit.List(ctx, w.store.Shards.For(o.ID), audit.Filter{Study: theStudy})
		if err != nil || len(entries) != 1 || entries[0].Action != "participant.enrol" || entries[0].Actor != coordinator ||
			entries[0].RecordID != o.ID || entries[0].Source != "request-1" || !strings.Contains(string(entries[0].New), `"number":"0001"`) {
			t.Errorf("audit %+v, %v", entries, err)
		}
		if strings.Contains(string(entries[0].New), o.Code) {
			t.Error("the audit trail holds the activation code")
		}
		id, studyID, err := w.Lookup(ctx, "EP-001", "0001")
		if id != o.ID || studyID != theStudy || err != nil {
			t.Errorf("Lookup = %d, %d, %v", id, studyID, err)
		}
		_, _, err = w.Lookup(ctx, "EP-001", "0002")
		want(t, "lookup of nobody", err, "not_found")
	})
}

func TestEnrolFillsFromTheStudy(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		ctx := as(t.Context(), admin)
		w.studies.noArms = true
		o, err := w.Enrol(ctx, theStudy, Enrolment{Number: "1", Site: "S02"}, "")
		if err != nil {
			t.Fatal(err)
		}
		p, _, err := w.Get(ctx, theStudy, o.ID)
		if err != nil || p.Zone != "Asia/Shanghai" || p.Language != "zh-CN" || p.Arm != "" || p.Anchors["enrolment"].String() != "2026-11-24" {
			t.Errorf("%+v, %v", p, err)
		}
	})
}

func TestEnrolRefuses(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		if _, err := w.Enrol(as(t.Context(), admin), theStudy, anna(), ""); err != nil {
			t.Fatal(err)
		}
		before := w.everything(t)
		for name, c := range map[string]struct {
			who    int64
			study  int64
			status string
			change func(*Enrolment)
			want   string
			found  string
		}{
			"taken number":       {who: admin, want: "already_exists"},
			"several findings":   {who: admin, change: func(e *Enrolment) { *e = Enrolment{Number: " ", Site: "S09", Arm: "Z", Zone: "X", Language: "de"} }, want: "invalid_field", found: "/number invalid_number, /zone unknown_zone, /language unknown_language, /site unknown_site, /arm unknown_arm"},
			"no arm":             {who: admin, change: func(e *Enrolment) { e.Number, e.Arm = "2", "" }, want: "invalid_field", found: "/arm unknown_arm"},
			"another site":       {who: coordinator, change: func(e *Enrolment) { e.Number, e.Site = "2", "S02" }, want: "forbidden"},
			"reader":             {who: monitor, change: func(e *Enrolment) { e.Number = "2" }, want: "forbidden"},
			"no rights":          {who: 9, change: func(e *Enrolment) { e.Number = "2" }, want: "not_found"},
			"another study":      {who: coordinator, study: 78, change: func(e *Enrolment) { e.Number = "2" }, want: "not_found"},
			"study is not there": {who: admin, study: 78, change: func(e *Enrolment) { e.Number = "2" }, want: "not_found"},
			"locked study":       {who: admin, status: study.Locked, change: func(e *Enrolment) { e.Number = "2" }, want: "study_locked"},
		} {
			t.Run(name, func(t *testing.T) {
				e := anna()
				if c.change != nil {
					c.change(&e)
				}
				w.studies.status = study.Active
				if c.status != "" {
					w.studies.status = c.status
				}
				if c.study == 0 {
					c.study = theStudy
				}
				_, err := w.Enrol(as(t.Context(), c.who), c.study, e, "")
				want(t, name, err, c.want)
				if e, _ := errs.As(err); e != nil && pointers(e.Findings) != c.found {
					t.Errorf("findings %s, want %s", pointers(e.Findings), c.found)
				}
			})
		}
		if diff := cmp.Diff(before, w.everything(t)); diff != "" {
			t.Errorf("a refusal left something behind:\n%s", diff)
		}
	})
}

// TestEnrolHeals lets the process "end" between the two writes: the same enrolment again must complete, under the id of the reservation.
func TestEnrolHeals(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		ctx := as(t.Context(), admin)
		w.store.enrol = func(newcomers []*Newcomer) map[int64]error {
			failed := make(map[int64]error)
			for _, n := range newcomers {
				failed[n.ID] = errs.Away("shard", errors.New("down"))
			}
			return failed
		}
		_, err := w.Enrol(ctx, theStudy, anna(), "")
		want(t, "shard away", err, "unavailable")
		reserved, err := w.store.IDByNumber(ctx, theStudy, "0001")
		if err != nil {
			t.Fatal(err)
		}
		w.store.enrol = nil
		o, err := w.Enrol(ctx, theStudy, anna(), "")
		if err != nil || o.ID != reserved {
			t.Fatalf("again: %+v, %v; want participant %d", o, err, reserved)
		}
		_, err = w.Enrol(ctx, theStudy, anna(), "")
		want(t, "a third time", err, "already_exists")
		if e, _ := errs.As(err); e.Members["id"] != fmt.Sprint(reserved) {
			t.Errorf("members %v, want the id", e.Members)
		}
	})
}

func TestEnrolRace(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		ctx := as(t.Context(), admin)
		results := make(chan error, 8)
		for range cap(results) {
			go func() {
				_, err := w.Enrol(ctx, theStudy, anna(), "")
				results <- err
			}()
		}
		good := 0
		for range cap(results) {
			if err := <-results; err == nil {
				good++
			} else if code(err) != "already_exists" {
				t.Errorf("racer: %v", err)
			}
		}
		if n := w.everything(t); good != 1 || n["participant"] != 1 || n["participant_number"] != 1 || n["audit"] != 1 {
			t.Errorf("%d succeeded, %v", good, n)
		}
	})
}

func lines(n int, change func(i int, l *Line)) iter.Seq[Line] {
	return func(yield func(Line) bool) {
		for i := range n {
			e := anna()
			e.Number = fmt.Sprintf("%04d", i)
			l := Line{Line: i + 1, Enrolment: e}
			if change != nil {
				change(i, &l)
			}
			if !yield(l) {
				return
			}
		}
	}
}

func TestImport(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		ctx := as(t.Context(), admin)
		bad := func(i int, l *Line) {
			switch i {
			case 3:
				l.Site = "S09"
			case 5:
				l.Number = "0004" // the line before, in the same batch
			case 12:
				l.Number = "0004" // a line of an earlier batch
			case 13:
				l.Err = errs.InvalidJSON("broken")
			}
		}
		run := func(lines iter.Seq[Line]) []Outcome {
			t.Helper()
			var got []Outcome
			if err := w.Import(ctx, theStudy, lines, "request-1", func(o []Outcome) error { got = append(got, slices.Clone(o)...); return nil }); err != nil {
				t.Fatal(err)
			}
			return got
		}
		first := run(lines(30, bad))
		wrong := map[int]string{3: "invalid_field", 5: "already_exists", 12: "already_exists", 13: "invalid_json"}
		codes := make(map[string]bool)
		for i, o := range first {
			if o.Line != i+1 || code(o.Err) != (map[bool]string{true: wrong[i], false: "ok"})[wrong[i] != ""] {
				t.Errorf("line %d: %+v", i+1, o)
			}
			if o.Err == nil && (o.ID == 0 || o.Code == "" || codes[o.Code]) {
				t.Errorf("line %d: %+v lacks id or a code of its own", i+1, o)
			}
			codes[o.Code] = true
		}
		if first[5].ID != first[4].ID || first[12].ID != first[4].ID {
			t.Errorf("a taken number must name its participant: %d %d, want %d", first[5].ID, first[12].ID, first[4].ID)
		}
		if n := w.everything(t); len(first) != 30 || n["participant"] != 26 || n["participant_number"] != 26 || n["participant_account"] != 26 || n["audit"] != 26 {
			t.Errorf("%d lines, %v", len(first), n)
		}
		again := run(lines(30, nil))
		for i, o := range again {
			switch wanted := wrong[i] != ""; {
			case wanted && o.Err != nil:
				t.Errorf("line %d: %v, now it is good", i+1, o.Err)
			case !wanted && (code(o.Err) != "already_exists" || o.ID != first[i].ID || o.Code != ""):
				t.Errorf("line %d again: %+v", i+1, o)
			}
		}
	})
}

func TestImportWithOneShardAway(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		ctx := as(t.Context(), admin)
		w.store.enrol = func(newcomers []*Newcomer) map[int64]error {
			var near []*Newcomer
			failed := make(map[int64]error)
			for _, n := range newcomers {
				if w.store.Shards.Index(n.ID) == 0 {
					failed[n.ID] = errs.Away("shard0", errors.New("down"))
				} else {
					near = append(near, n)
				}
			}
			for id, err := range w.store.Store.Enrol(ctx, near) {
				failed[id] = err
			}
			return failed
		}
		tally := make(map[string]int)
		count := func(o []Outcome) error {
			for _, one := range o {
				tally[code(one.Err)]++
			}
			return nil
		}
		if err := w.Import(ctx, theStudy, lines(60, nil), "", count); err != nil {
			t.Fatal(err)
		}
		away := tally["unavailable"]
		if away == 0 || tally["ok"] == 0 || away+tally["ok"] != 60 {
			t.Errorf("%v", tally)
		}
		w.store.enrol = nil
		clear(tally)
		if err := w.Import(ctx, theStudy, lines(60, nil), "", count); err != nil {
			t.Fatal(err)
		}
		if tally["ok"] != away || tally["already_exists"] != 60-away || w.everything(t)["participant"] != 60 {
			t.Errorf("restarted: %v", tally)
		}
	})
}

func TestImportStops(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		gone := errors.New("the client has gone")
		err := w.Import(as(t.Context(), admin), theStudy, lines(30, nil), "", func([]Outcome) error { return gone })
		if !errors.Is(err, gone) {
			t.Errorf("%v, want the failure to write", err)
		}
		if n := w.everything(t)["participant"]; n != 7 {
			t.Errorf("%d participants, want those of the first batch", n)
		}
		want(t, "without the right", w.Import(as(t.Context(), monitor), theStudy, lines(1, nil), "", nil), "forbidden")
	})
}
