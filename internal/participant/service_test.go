package participant

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"iter"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"gorm.io/gorm"

	"github.com/eprod/eprod/internal/audit"
	"github.com/eprod/eprod/internal/auth"
	"github.com/eprod/eprod/internal/db"
	"github.com/eprod/eprod/internal/errs"
	"github.com/eprod/eprod/internal/keyring"
	"github.com/eprod/eprod/internal/study"
	"github.com/eprod/eprod/internal/testenv"
	"github.com/eprod/eprod/internal/user"
)

const (
	theStudy = 77
	site1    = 101
	site2    = 102

	admin       = 1
	coordinator = 2 // at site 1
	monitor     = 3
)

// fakeStudies is one study with two sites and two arms.
type fakeStudies struct {
	status string
	noArms bool
}

func (f *fakeStudies) Study(_ context.Context, id int64) (study.Study, error) {
	if id != theStudy {
		return study.Study{}, errs.Absent("study")
	}
	return study.Study{ID: theStudy, Protocol: "EP-001", Title: "A study", Zone: "Asia/Shanghai", Status: f.status, Languages: []string{"zh-CN", "en"}}, nil
}

func (f *fakeStudies) StudyByProtocol(ctx context.Context, name string) (study.Study, error) {
	if name != "EP-001" && name != fmt.Sprint(theStudy) {
		return study.Study{}, errs.Absent("study")
	}
	return f.Study(ctx, theStudy)
}

func (f *fakeStudies) Site(_ context.Context, _ int64, code string) (study.Site, error) {
	switch code {
	case "S01":
		return study.Site{ID: site1, Code: code}, nil
	case "S02":
		return study.Site{ID: site2, Code: code}, nil
	}
	return study.Site{}, errs.Absent("site")
}

func (f *fakeStudies) SiteByID(_ context.Context, _, id int64) (study.Site, error) {
	return study.Site{ID: id, Code: map[int64]string{site1: "S01", site2: "S02"}[id]}, nil
}

func (f *fakeStudies) Arm(_ context.Context, _ int64, code string) (study.Arm, error) {
	if f.noArms || code != "A" && code != "B" {
		return study.Arm{}, errs.Absent("arm")
	}
	return study.Arm{Code: code}, nil
}

func (f *fakeStudies) Arms(context.Context, int64) ([]study.Arm, error) {
	if f.noArms {
		return nil, nil
	}
	return []study.Arm{{Code: "A"}, {Code: "B"}}, nil
}

type fakeGrants struct{}

func (fakeGrants) Grants(_ context.Context, who, study int64) ([]auth.Grant, error) {
	switch {
	case study != theStudy:
		return nil, nil
	case who == coordinator:
		return []auth.Grant{{Role: auth.Coordinator, Site: site1}}, nil
	case who == monitor:
		return []auth.Grant{{Role: auth.Monitor}}, nil
	}
	return nil, nil
}

type ids struct{ next func() int64 }

func (i ids) NextN(n int) ([]int64, error) {
	out := make([]int64, n)
	for k := range out {
		out[k] = i.next()
	}
	return out, nil
}

// breaking is a store of which single calls can be made to fail.
type breaking struct {
	*Store
	enrol func([]*Newcomer) map[int64]error
}

func (b *breaking) Enrol(ctx context.Context, newcomers []*Newcomer) map[int64]error {
	if b.enrol != nil {
		return b.enrol(newcomers)
	}
	return b.Store.Enrol(ctx, newcomers)
}

// world is the service over real databases.
type world struct {
	*Service
	store   *breaking
	studies *fakeStudies
	clock   *testenv.FakeClock
}

// each runs a test over every kind of database.
func each(t *testing.T, test func(t *testing.T, w *world)) {
	t.Helper()
	shards := testenv.Shards(t)
	for dialect, meta := range testenv.Databases(t, "meta") {
		t.Run(dialect, func(t *testing.T) { test(t, newWorld(t, meta, shards[dialect])) })
	}
}

func newWorld(t testing.TB, meta *db.DB, shards *db.Shards) *world {
	t.Helper()
	w := &world{clock: testenv.Clock(time.Date(2026, 11, 23, 20, 0, 0, 0, time.UTC)), studies: &fakeStudies{status: study.Active}}
	w.store = &breaking{Store: &Store{Meta: meta, Shards: shards}}
	ring, err := keyring.New([]keyring.MasterKey{{ID: 1, Secret: []byte("0123456789abcdef0123456789abcdef")}}, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	config := DefaultConfig()
	config.ImportBatch, config.ImportLines, config.ImportLine = 7, 1000, 512
	known, err := NewProfiles(DefaultProfileConfig(), w.store, ring, w.clock.Now)
	if err != nil {
		t.Fatal(err)
	}
	w.Service = New(config, Parts{
		Shelf: w.store, Studies: w.studies, Guard: auth.Guard{Grants: fakeGrants{}}, Profiles: known, Keys: ring,
		IDs: ids{testenv.IDs()}, Random: rand.Reader, Now: w.clock.Now, PublicURL: "https://epro.example.org/",
	})
	return w
}

func as(ctx context.Context, who int64) context.Context {
	p := auth.Principal{Kind: auth.KindStaff, ID: who}
	if who == admin {
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

func want(t *testing.T, what string, err error, wanted string) {
	t.Helper()
	if code(err) != wanted {
		t.Errorf("%s: %v, want %s", what, err, wanted)
	}
}

func anna() Enrolment {
	return Enrolment{Number: "0001", Site: "S01", Arm: "A", Zone: "Europe/Berlin", Language: "en", Anchors: map[string]string{"surgery": "2026-12-01"}}
}

// everything returns what the databases hold of participants, in counts.
func (w *world) everything(t *testing.T) map[string]int64 {
	t.Helper()
	out := make(map[string]int64)
	count := func(d *db.DB, tables ...string) {
		for _, table := range tables {
			var n int64
			if err := d.Read(t.Context()).Table(table).Count(&n).Error; err != nil {
				t.Fatal(err)
			}
			out[table] += n
		}
	}
	count(w.store.Meta, "participant_number")
	for _, shard := range w.store.Shards.All() {
		count(shard, "participant", "participant_account", "participant_zone", "participant_anchor", "audit")
	}
	return out
}

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
		wanted.Anchors, _ = readAnchors(nil, map[string]string{"surgery": "2026-12-01", "enrolment": "2026-11-23"})
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

func text(s string) *string { return &s }

func TestUpdate(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		ctx := as(t.Context(), coordinator)
		o, err := w.Enrol(ctx, theStudy, anna(), "")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := w.Profiles.Get(ctx, o.ID); err != nil {
			t.Fatal(err)
		}
		w.clock.Advance(time.Hour)
		is, _, err := w.Update(ctx, theStudy, o.ID, 1, Change{Zone: text("Asia/Tokyo"), Arm: text("B"), Anchors: map[string]string{"surgery": "2026-12-02", "relapse": "2027-01-01"}, Reason: "moved"}, "request-2")
		if err != nil {
			t.Fatal(err)
		}
		got, _, err := w.Get(ctx, theStudy, o.ID)
		if diff := cmp.Diff(is, got); diff != "" || err != nil {
			t.Errorf("%v (-returned +stored):\n%s", err, diff)
		}
		if got.Version != 2 || got.Zone != "Asia/Tokyo" || got.Arm != "B" || got.Anchors["surgery"].String() != "2026-12-02" || got.Anchors["relapse"].String() != "2027-01-01" ||
			got.Anchors["enrolment"].String() != "2026-11-23" || len(got.Zones) != 2 || !got.Zones[1].From.Equal(w.clock.Now()) {
			t.Errorf("%+v", got)
		}
		if p, err := w.Profiles.Get(ctx, o.ID); err != nil || len(p.Person.Zones) != 2 {
			t.Errorf("the profile is old: %+v, %v", p, err)
		}
		_, _, err = w.Update(ctx, theStudy, o.ID, 1, Change{Language: text("zh-CN")}, "")
		want(t, "old version", err, "stale")
		for name, c := range map[string]struct {
			change Change
			want   string
		}{
			"zone":     {Change{Zone: text("Nowhere")}, "invalid_field"},
			"language": {Change{Language: text("de")}, "invalid_field"},
			"status":   {Change{Status: text(ActiveStatus)}, "invalid_field"},
			"arm":      {Change{Arm: text("Z")}, "invalid_field"},
			"no arm":   {Change{Arm: text("")}, "invalid_field"},
			"site":     {Change{Site: text("S09")}, "invalid_field"},
			"anchor":   {Change{Anchors: map[string]string{"surgery": "soon"}}, "invalid_field"},
			"reason":   {Change{Reason: strings.Repeat("x", maxReason+1)}, "invalid_field"},
			"no right": {Change{Site: text("S02")}, "forbidden"},
		} {
			_, _, err := w.Update(ctx, theStudy, o.ID, 2, c.change, "")
			want(t, name, err, c.want)
		}
		_, _, err = w.Update(as(t.Context(), monitor), theStudy, o.ID, 2, Change{}, "")
		want(t, "reader", err, "forbidden")
		entries, err := audit.List(ctx, w.store.Shards.For(o.ID), audit.Filter{Record: "participant", RecordID: o.ID})
		if err != nil || len(entries) != 2 || entries[0].Reason != "moved" || !strings.Contains(string(entries[0].Old), "Europe/Berlin") {
			t.Errorf("audit %+v, %v", entries, err)
		}
	})
}

func TestWithdraw(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		ctx := as(t.Context(), admin)
		o, err := w.Enrol(ctx, theStudy, anna(), "")
		if err != nil {
			t.Fatal(err)
		}
		p, _, err := w.Update(ctx, theStudy, o.ID, 1, Change{Status: text(Withdrawn)}, "")
		if err != nil || p.Status != Withdrawn {
			t.Fatal(p, err)
		}
		accounts := &user.Store{Meta: w.store.Meta, Shards: w.store.Shards}
		if a, err := accounts.Account(ctx, o.ID); err != nil || !a.Closed || a.Activation != nil {
			t.Errorf("account %+v, %v; want it closed", a, err)
		}
		_, err = w.Renew(ctx, theStudy, o.ID, "")
		want(t, "new code for someone who left", err, "participant_withdrawn")
		_, _, err = w.Update(ctx, theStudy, o.ID, 2, Change{Status: text(ActiveStatus)}, "")
		want(t, "back", err, "invalid_field")
	})
}

func TestActivationAndRenewal(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		ctx := as(t.Context(), admin)
		o, err := w.Enrol(ctx, theStudy, anna(), "")
		if err != nil {
			t.Fatal(err)
		}
		shard := w.store.Shards.For(o.ID)
		for range 2 {
			if err := shard.Tx(ctx, func(tx *gorm.DB) error { return Activate(tx, o.ID) }); err != nil {
				t.Fatal(err)
			}
			p, _, err := w.Get(ctx, theStudy, o.ID)
			if err != nil || p.Status != ActiveStatus || p.Version != 2 {
				t.Errorf("%+v, %v", p, err)
			}
		}
		again, err := w.Renew(ctx, theStudy, o.ID, "")
		if err != nil || again.Code == o.Code || again.Number != "0001" || !strings.HasSuffix(again.Link, "#"+again.Code) {
			t.Errorf("%+v, %v", again, err)
		}
		_, err = w.Renew(as(t.Context(), monitor), theStudy, o.ID, "")
		want(t, "reader", err, "forbidden")
	})
}

func TestListAndVisibility(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		ctx := as(t.Context(), admin)
		var all []Outcome
		site := func(i int, l *Line) {
			if i%3 == 0 {
				l.Site = "S02"
			}
		}
		if err := w.Import(ctx, theStudy, lines(25, site), "", func(o []Outcome) error { all = append(all, slices.Clone(o)...); return nil }); err != nil {
			t.Fatal(err)
		}
		read := func(who int64) (numbers []string) {
			t.Helper()
			var after int64
			for {
				page, codes, more, err := w.List(as(t.Context(), who), theStudy, after, 4)
				if err != nil {
					t.Fatal(err)
				}
				for _, p := range page {
					if p.ID <= after {
						t.Fatalf("%d follows %d", p.ID, after)
					}
					after = p.ID
					if codes[p.Site] == "" {
						t.Errorf("no code for site %d", p.Site)
					}
					numbers = append(numbers, p.Number)
				}
				if !more {
					return numbers
				}
			}
		}
		if got := read(admin); len(got) != 25 {
			t.Errorf("administrator sees %d", len(got))
		}
		if got := read(coordinator); len(got) != 16 || slices.Contains(got, "0003") {
			t.Errorf("coordinator of site 1 sees %v", got)
		}
		_, _, _, err := w.List(as(t.Context(), 9), theStudy, 0, 10)
		want(t, "stranger lists", err, "not_found")
		_, _, err = w.Get(as(t.Context(), coordinator), theStudy, all[0].ID)
		want(t, "participant of another site", err, "not_found")
		_, _, err = w.Get(as(t.Context(), coordinator), theStudy, all[1].ID)
		want(t, "participant of the own site", err, "ok")
		_, _, err = w.Get(ctx, 78, all[1].ID)
		want(t, "through another study", err, "not_found")
	})
}

func TestReserveConverges(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		ctx := t.Context()
		next := testenv.IDs()
		results := make(chan map[string]int64, 6)
		for range cap(results) {
			go func() {
				proposed := make(map[string]int64)
				for i := range 40 {
					proposed[fmt.Sprint(i)] = next()
				}
				got, err := w.store.Reserve(ctx, theStudy, proposed)
				if err != nil {
					t.Errorf("reserve: %v", err)
				}
				results <- got
			}()
		}
		first := <-results
		for range cap(results) - 1 {
			if diff := cmp.Diff(first, <-results); diff != "" {
				t.Errorf("two callers were told different ids:\n%s", diff)
			}
		}
	})
}
