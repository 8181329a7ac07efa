package study

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/eprod/eprod/internal/audit"
	"github.com/eprod/eprod/internal/auth"
	"github.com/eprod/eprod/internal/db"
	"github.com/eprod/eprod/internal/errs"
	"github.com/eprod/eprod/internal/questionnaire"
	"github.com/eprod/eprod/internal/task"
	"github.com/eprod/eprod/internal/testenv"
)

const (
	admin    = 1
	manager  = 2
	monitor  = 3 // of nothing unless granted
	stranger = 4
)

// roster are the staff by name.
type roster map[string]int64

func (a roster) Staff(_ context.Context, username string) (int64, error) {
	if username == "silent" {
		return 0, errs.Away("staff", errors.New("down"))
	}
	if id, ok := a[username]; ok {
		return id, nil
	}
	return 0, errs.Absent("account")
}

func (a roster) Usernames(_ context.Context, ids []int64) (map[int64]string, error) {
	out := make(map[int64]string)
	for name, id := range a {
		if slices.Contains(ids, id) {
			out[id] = name
		}
	}
	return out, nil
}

type sequence struct{ next func() int64 }

func (i sequence) NextN(n int) ([]int64, error) {
	out := make([]int64, n)
	for k := range out {
		out[k] = i.next()
	}
	return out, nil
}

// world is the service over a real database.
type world struct {
	*Service
	meta  *db.DB
	store *Store
	clock *testenv.FakeClock
}

// each runs a test over every kind of database.
func each(t *testing.T, test func(t *testing.T, w *world)) {
	t.Helper()
	for dialect, meta := range testenv.Databases(t, "meta") {
		t.Run(dialect, func(t *testing.T) { test(t, newWorld(t, meta)) })
	}
}

func newWorld(t testing.TB, meta *db.DB) *world {
	t.Helper()
	w := &world{meta: meta, store: &Store{Meta: meta}, clock: testenv.Clock(time.Date(2026, 11, 23, 20, 0, 0, 0, time.UTC))}
	limits := questionnaire.DefaultLimits()
	m := &memory{values: make(map[string][]byte)}
	catalog, err := NewCatalog(DefaultCatalogConfig(), limits, w.store, m, m, w.clock.Now)
	if err != nil {
		t.Fatal(err)
	}
	w.Service = New(Parts{Shelf: w.store, Catalog: catalog, Guard: auth.Guard{Grants: w.store},
		Accounts: roster{"admin": admin, "manager": manager, "monitor": monitor, "stranger": stranger},
		Engine:   task.NewEngine(), IDs: sequence{testenv.IDs()}, Limits: limits, Now: w.clock.Now})
	return w
}

func acting(ctx context.Context, who int64) context.Context {
	p := auth.Principal{Kind: auth.KindStaff, ID: who}
	switch who {
	case admin:
		p.Role = auth.Administrator
	case manager:
		p.Role = auth.StudyManager
	case monitor, stranger:
		p.Role = auth.Monitor
	}
	return auth.With(ctx, p)
}

func (w *world) create(t testing.TB, protocol string) Study {
	t.Helper()
	s := aStudy()
	s.Protocol = protocol
	made, err := w.Create(acting(t.Context(), manager), s)
	if err != nil {
		t.Fatal(err)
	}
	return made
}

// published imports and publishes the form of a version.
func (w *world) published(t testing.TB, study int64, version string) Questionnaire {
	t.Helper()
	ctx := acting(t.Context(), manager)
	q, err := w.ImportQuestionnaire(ctx, study, form(version, "Pain?"))
	if err == nil {
		q, err = w.PublishQuestionnaire(ctx, study, q.ID)
	}
	if err != nil {
		t.Fatal(err)
	}
	return q
}

// evidence is the audit of a study as "action actor old → new", oldest first.
func (w *world) evidence(t testing.TB, study int64) []string {
	t.Helper()
	entries, err := audit.List(t.Context(), w.meta, audit.Filter{Study: study, Limit: 1000})
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, e := range slices.Backward(entries) {
		if !e.At.Equal(w.clock.Now()) || e.Zone != "UTC" || e.ActorKind != "staff" || e.RecordID == 0 {
			t.Errorf("entry %+v", e)
		}
		for _, value := range [][]byte{e.Old, e.New} {
			if value != nil && !json.Valid(value) {
				t.Errorf("%s: %s is not JSON", e.Action, value)
			}
		}
		out = append(out, fmt.Sprintf("%s %d", e.Action, e.Actor))
	}
	return out
}

func (w *world) lock(t testing.TB, study Study, status string) {
	t.Helper()
	current, err := w.store.ByID(t.Context(), study.ID)
	if err != nil {
		t.Fatal(err)
	}
	is := current
	is.Status = status
	is.Version++
	if err := w.store.Update(t.Context(), current, is, audit.Entry{ID: w.IDs.(sequence).next(), At: w.clock.Now(), Zone: "UTC", ActorKind: "staff", RecordID: study.ID, Study: study.ID}); err != nil {
		t.Fatal(err)
	}
}

func TestFromDraftToActive(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		ctx := acting(t.Context(), manager)
		st := w.create(t, "EP-001")
		if st.ID == 0 || st.Status != Draft || st.Version != 1 || !st.CreatedAt.Equal(w.clock.Now()) {
			t.Errorf("created %+v", st)
		}
		_, err := w.Publish(ctx, st.ID)
		wantBecause(t, "publish an empty study", err, "invalid_field", "/sites missing", "/schedule missing")
		site, err := w.AddSite(ctx, st.ID, "S01", "Clinic")
		want(t, "site", err, "ok")
		_, err = w.AddArm(ctx, st.ID, "A", "Arm A")
		want(t, "arm", err, "ok")
		_, err = w.AddSite(ctx, st.ID, "S01", "Another")
		want(t, "site with a code that is taken", err, "already_exists")
		_, err = w.Publish(ctx, st.ID)
		wantBecause(t, "publish without a schedule", err, "invalid_field", "/schedule missing")

		_, err = w.PutSchedule(ctx, st.ID, daily(canonical, "B"), time.Time{})
		wantBecause(t, "schedule of unknown things", err, "invalid_schedule", "/rules/0/arms/0 unknown_arm", "/rules/0/questionnaire unknown_questionnaire")
		q, err := w.ImportQuestionnaire(ctx, st.ID, form("1.0.0", "Pain?"))
		want(t, "import", err, "ok")
		_, err = w.PutSchedule(ctx, st.ID, daily(canonical, "A"), time.Time{})
		wantBecause(t, "schedule of a draft", err, "invalid_schedule", "/rules/0/questionnaire unknown_questionnaire")
		_, err = w.Catalog.Definition(ctx, st.ID, canonical)
		want(t, "definition of a draft", err, "invalid_response")
		_, err = w.PublishQuestionnaire(ctx, st.ID, q.ID)
		want(t, "publish the questionnaire", err, "ok")
		_, err = w.Catalog.Definition(ctx, st.ID, canonical) // the clock stands still: only Forget can tell
		want(t, "definition right after publishing", err, "ok")
		schedule, err := w.PutSchedule(ctx, st.ID, daily(canonical, "A"), time.Time{})
		want(t, "schedule", err, "ok")
		if seen, err := w.Catalog.Plan(ctx, st.ID); err != nil || seen.Current().Version != 1 || schedule.Version != 1 {
			t.Errorf("schedule %d, seen as %v, %v", schedule.Version, seen, err)
		}
		active, err := w.Publish(ctx, st.ID)
		want(t, "publish", err, "ok")
		seen, err := w.Catalog.Study(ctx, st.ID)
		if err != nil || active.Status != Active || seen.Status != Active {
			t.Errorf("published %+v, seen as %+v, %v", active, seen, err)
		}
		again, err := w.Publish(ctx, st.ID)
		if diff := cmp.Diff(active, again); err != nil || diff != "" {
			t.Errorf("published again: %v\n%s", err, diff)
		}
		if seen, err := w.Catalog.SiteByID(ctx, st.ID, site.ID); err != nil || seen != site {
			t.Errorf("site %v, %v", seen, err)
		}
		if _, err = w.PutSchedule(ctx, st.ID, daily(canonical), time.Time{}); err != nil {
			t.Errorf("amendment: %v", err)
		}
		if old, err := w.store.Schedules(ctx, st.ID); err != nil || len(old) != 2 || !slices.Equal(old[0].Design.Rules[0].Arms, []string{"A"}) {
			t.Errorf("the first version became %v, %v", old, err)
		}
		wanted := []string{"study.create 2", "staff.grant 2", "site.create 2", "arm.create 2", "questionnaire.import 2", "questionnaire.publish 2",
			"schedule.put 2", "study.publish 2", "schedule.put 2"}
		if diff := cmp.Diff(wanted, w.evidence(t, st.ID)); diff != "" {
			t.Errorf("evidence: %s", diff)
		}
	})
}

func TestCreate(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		st := w.create(t, "EP-001")
		got, err := w.Get(acting(t.Context(), manager), st.ID)
		if diff := cmp.Diff(st, got); err != nil || diff != "" {
			t.Errorf("read back: %v\n%s", err, diff)
		}
		grants, err := w.store.Grants(t.Context(), manager, st.ID)
		if diff := cmp.Diff([]auth.Grant{{Role: auth.StudyManager}}, grants); err != nil || diff != "" {
			t.Errorf("the creator's rights: %v\n%s", err, diff)
		}
		_, err = w.Create(acting(t.Context(), manager), st)
		want(t, "a protocol number that is taken", err, "already_exists")
		other := aStudy()
		other.Protocol = "ep-001"
		_, err = w.Create(acting(t.Context(), manager), other)
		want(t, "protocol numbers tell case", err, "ok")
		_, err = w.Create(acting(t.Context(), manager), Study{})
		want(t, "an empty study", err, "invalid_field")
		_, err = w.Create(acting(t.Context(), monitor), other)
		want(t, "without the right", err, "forbidden")
		_, err = w.Create(t.Context(), other)
		want(t, "nobody", err, "unauthenticated")
	})
}

func TestUpdate(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		ctx := acting(t.Context(), manager)
		st := w.create(t, "EP-001")
		text := func(s string) *string { return &s }
		is, err := w.Update(ctx, st.ID, 1, Change{Title: text("Another"), Zone: text("Europe/Berlin"), ParticipantPin: text(PinOptional), Languages: []string{"de"}})
		wanted := st
		wanted.Title, wanted.Zone, wanted.ParticipantPin, wanted.Languages, wanted.Version = "Another", "Europe/Berlin", PinOptional, []string{"de"}, 2
		if diff := cmp.Diff(wanted, is); err != nil || diff != "" {
			t.Errorf("change: %v\n%s", err, diff)
		}
		if got, err := w.Get(ctx, st.ID); err != nil || !cmp.Equal(wanted, got) {
			t.Errorf("read back: %v, %v", got, err)
		}
		if pin, err := w.Catalog.PinRequired(ctx, st.ID); err != nil || pin {
			t.Errorf("the PIN rule is seen as %v, %v", pin, err)
		}
		_, err = w.Update(ctx, st.ID, 1, Change{Title: text("Late")})
		want(t, "an old version", err, "stale")
		_, err = w.Update(ctx, st.ID, 2, Change{Zone: text("Mars/Base")})
		wantBecause(t, "a bad zone", err, "invalid_field", "/zone unknown_zone")
		if got, err := w.Get(ctx, st.ID); err != nil || !cmp.Equal(wanted, got) {
			t.Errorf("after refusals: %v, %v", got, err)
		}
		entries, err := audit.List(ctx, w.meta, audit.Filter{Study: st.ID, Record: "study", Limit: 1})
		if err != nil || len(entries) != 1 || !bytes.Contains(entries[0].Old, []byte(`"title":"A study"`)) || !bytes.Contains(entries[0].New, []byte(`"title":"Another"`)) {
			t.Errorf("evidence %+v, %v", entries, err)
		}
	})
}

func TestTwoChangesAtOnce(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		ctx := acting(t.Context(), manager)
		st := w.create(t, "EP-001")
		var wg sync.WaitGroup
		results := make([]string, 8)
		for i := range results {
			wg.Go(func() {
				title := fmt.Sprint("title ", i)
				_, err := w.Update(ctx, st.ID, 1, Change{Title: &title})
				results[i] = code(err)
			})
		}
		wg.Wait()
		slices.Sort(results)
		if diff := cmp.Diff(append([]string{"ok"}, slices.Repeat([]string{"stale"}, 7)...), results); diff != "" {
			t.Error(diff)
		}
		if got := w.evidence(t, st.ID); len(got) != 3 {
			t.Errorf("evidence of one change: %v", got)
		}
	})
}
