package participant

import (
	"context"
	"crypto/rand"
	"fmt"
	"log/slog"
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
	book    *book
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
	w.book = newBook(w.clock)
	w.Service = New(config, Parts{
		Locks: w.book, Staff: names{}, Logger: slog.New(slog.DiscardHandler),
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

func asParticipant(ctx context.Context, id int64) context.Context {
	return auth.With(ctx, auth.Principal{Kind: auth.KindParticipant, ID: id})
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
		count(shard, "participant", "participant_account", "participant_zone", "participant_facts", "task_refresh", "audit")
	}
	return out
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
