package study

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/eprod/eprod/internal/audit"
	"github.com/eprod/eprod/internal/auth"
	"github.com/eprod/eprod/internal/db"
	"github.com/eprod/eprod/internal/errs"
	"github.com/eprod/eprod/internal/questionnaire"
	"github.com/eprod/eprod/internal/task"
	"github.com/eprod/eprod/internal/testenv"
)

// desk is the service over a real metadata database, with a clock and accounts of the test.
type desk struct {
	*Service
	meta  *db.DB
	clock *testenv.FakeClock
	store *counting
}

// counting counts and may refuse the catalog's readings.
type counting struct {
	*Store
	reads atomic.Int32
	away  atomic.Bool
}

func (c *counting) ByID(ctx context.Context, id int64) (Study, error) {
	c.reads.Add(1)
	if c.away.Load() {
		return Study{}, errs.Away("metadata", errors.New("down"))
	}
	return c.Store.ByID(ctx, id)
}

type accounts map[string]int64

func (a accounts) Staff(_ context.Context, name string) (int64, error) {
	if id, ok := a[name]; ok {
		return id, nil
	}
	return 0, errs.Absent("account")
}
func (a accounts) Usernames(_ context.Context, ids []int64) (map[int64]string, error) {
	out := map[int64]string{}
	for name, id := range a {
		if slices.Contains(ids, id) {
			out[id] = name
		}
	}
	return out, nil
}

type ids func() int64

func (f ids) NextN(n int) ([]int64, error) {
	out := make([]int64, n)
	for i := range out {
		out[i] = f()
	}
	return out, nil
}

type noCache struct{}

func (noCache) Fetch(ctx context.Context, _ string, load func(context.Context) ([]byte, error)) ([]byte, error) {
	return load(ctx)
}

func newDesk(t *testing.T, meta *db.DB) *desk {
	t.Helper()
	d := &desk{meta: meta, clock: testenv.Clock(time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)), store: &counting{Store: &Store{Meta: meta}}}
	catalog, err := NewCatalog(DefaultCatalogConfig(), questionnaire.DefaultLimits(), d.store, noCache{}, d.clock.Now)
	if err != nil {
		t.Fatal(err)
	}
	d.Service = New(Parts{Shelf: d.store, Catalog: catalog, Guard: auth.Guard{Grants: d.store}, Accounts: accounts{"ann": 11, "bob": 12}, Engine: task.NewEngine(),
		IDs: ids(testenv.IDs()), Limits: questionnaire.DefaultLimits(), Now: d.clock.Now})
	return d
}

func eachDesk(t *testing.T, test func(t *testing.T, d *desk)) {
	for dialect, meta := range testenv.Databases(t, "meta") {
		t.Run(dialect, func(t *testing.T) { test(t, newDesk(t, meta)) })
	}
}

func as(t *testing.T, id int64, role auth.Role) context.Context {
	return auth.With(t.Context(), auth.Principal{Kind: auth.KindStaff, ID: id, Role: role})
}

func good() Study {
	return Study{Protocol: "EP-001", Title: "A study", Zone: "Asia/Shanghai", Languages: []string{"zh-CN", "en"}, ParticipantPin: PinOptional}
}

func fhir(version, text string) []byte {
	return fmt.Appendf(nil, `{"resourceType":"Questionnaire","url":"https://example.org/q","version":%q,"status":"draft","title":"Q","item":[{"linkId":"a","type":"string","text":%q}]}`, version, text)
}

func rules(canonical string) []task.Rule {
	return []task.Rule{{ID: "r", Questionnaire: canonical, Anchor: "enrolment", Offset: "P0D", Repeat: &task.Repeat{Every: "P1D", Until: "P9D"}, Windows: []task.Window{{Opens: "08:00", Due: "12:00", Closes: "20:00"}}}}
}

func wantCode(t *testing.T, err error, code string) {
	t.Helper()
	if refusal, ok := errs.As(err); !ok || refusal.Code != code {
		t.Errorf("got %v, want %s", err, code)
	}
}

func TestFindings(t *testing.T) {
	for name, c := range map[string]struct {
		change  func(*Study)
		pointer string
	}{
		"Good": {func(*Study) {}, ""}, "Protocol": {func(s *Study) { s.Protocol = "a b" }, "/protocol"}, "Title": {func(s *Study) { s.Title = " " }, "/title"},
		"Zone": {func(s *Study) { s.Zone = "Local" }, "/zone"}, "NoLanguage": {func(s *Study) { s.Languages = nil }, "/languages"},
		"Language": {func(s *Study) { s.Languages = []string{"en", "englisch-"} }, "/languages/1"}, "Pin": {func(s *Study) { s.ParticipantPin = "maybe" }, "/settings/participantPin"},
	} {
		s := good()
		c.change(&s)
		got := s.findings()
		if c.pointer == "" && len(got) > 0 || c.pointer != "" && (len(got) != 1 || got[0].Pointer != c.pointer) {
			t.Errorf("%s: %+v", name, got)
		}
	}
}

// TestDesign walks from an empty database to an active study, with every change in the audit trail.
func TestDesign(t *testing.T) {
	eachDesk(t, func(t *testing.T, d *desk) {
		admin, manager, stranger := as(t, 1, auth.Administrator), as(t, 11, auth.StudyManager), as(t, 12, auth.Coordinator)
		_, err := d.Create(stranger, good())
		wantCode(t, err, "forbidden")
		st, err := d.Create(manager, good())
		if err != nil {
			t.Fatal(err)
		}
		_, err = d.Create(admin, good())
		wantCode(t, err, "already_exists")
		_, err = d.Get(stranger, st.ID)
		wantCode(t, err, "not_found")
		if list, err := d.List(stranger, 0, 10); err != nil || len(list) != 0 {
			t.Errorf("a stranger sees %v (%v)", list, err)
		}
		_, err = d.Publish(manager, st.ID)
		if refusal, ok := errs.As(err); !ok || len(refusal.Findings) != 2 {
			t.Errorf("published without site and schedule: %v", err)
		}
		if _, err := d.AddSite(manager, st.ID, "S01", "Site"); err != nil {
			t.Fatal(err)
		}
		_, err = d.AddSite(manager, st.ID, "S01", "Again")
		wantCode(t, err, "already_exists")
		q, err := d.ImportQuestionnaire(manager, st.ID, fhir("1", "one"))
		if err != nil {
			t.Fatal(err)
		}
		_, err = d.PutSchedule(manager, st.ID, rules(q.Canonical()))
		wantCode(t, err, "invalid_schedule") // it is a draft
		if same, err := d.ImportQuestionnaire(manager, st.ID, fhir("1", "one")); err != nil || same.ID != q.ID {
			t.Errorf("the same bytes: %+v %v", same, err)
		}
		if other, err := d.ImportQuestionnaire(manager, st.ID, fhir("1", "two")); err != nil || other.ID != q.ID {
			t.Errorf("other bytes of a draft: %+v %v", other, err)
		}
		if q, err = d.PublishQuestionnaire(manager, st.ID, q.ID); err != nil || q.Status != Active {
			t.Fatalf("%+v %v", q, err)
		}
		_, err = d.ImportQuestionnaire(manager, st.ID, fhir("1", "three"))
		wantCode(t, err, "already_exists")
		_, err = d.ImportQuestionnaire(manager, st.ID, []byte(strings.Replace(string(fhir("2", "x")), "string", "strange", 1)))
		wantCode(t, err, "invalid_questionnaire")
		for version := range int64(2) {
			if s, err := d.PutSchedule(manager, st.ID, rules(q.Canonical())); err != nil || s.Version != version+1 {
				t.Fatalf("schedule %+v %v", s, err)
			}
		}
		if _, err := d.AddStaff(manager, st.ID, "bob", auth.Coordinator, "S01"); err != nil {
			t.Fatal(err)
		}
		_, err = d.AddStaff(manager, st.ID, "nobody", auth.Coordinator, "")
		wantCode(t, err, "invalid_field")
		if got, err := d.Get(stranger, st.ID); err != nil || got.Protocol != "EP-001" {
			t.Errorf("with a right at one site: %+v %v", got, err)
		}
		_, err = d.AddSite(stranger, st.ID, "S02", "x")
		wantCode(t, err, "forbidden")
		if st, err = d.Publish(manager, st.ID); err != nil || st.Status != Active {
			t.Fatalf("%+v %v", st, err)
		}
		title := "Changed"
		_, err = d.Update(manager, st.ID, st.Version-1, Change{Title: &title})
		wantCode(t, err, "stale")
		if _, err := d.Update(manager, st.ID, st.Version, Change{Title: &title}); err != nil {
			t.Fatal(err)
		}
		entries, err := audit.List(t.Context(), d.meta, audit.Filter{Study: st.ID})
		if err != nil {
			t.Fatal(err)
		}
		var actions []string
		for _, e := range entries {
			actions = append(actions, e.Action)
			if e.Actor != 11 {
				t.Errorf("%s by %d", e.Action, e.Actor)
			}
		}
		slices.Reverse(actions)
		want := "study.create staff.grant site.create questionnaire.import questionnaire.replace questionnaire.publish schedule.put schedule.put staff.grant study.publish study.update"
		if got := strings.Join(actions, " "); got != want {
			t.Errorf("audit trail %s\nwant %s", got, want)
		}
	})
}

// active returns a desk with an active study and its questionnaire.
func active(t *testing.T) (*desk, Study, Questionnaire) {
	t.Helper()
	d := newDesk(t, testenv.SQLite(t, "meta"))
	ctx := as(t, 11, auth.StudyManager)
	st, err := d.Create(ctx, good())
	if err != nil {
		t.Fatal(err)
	}
	q, err := d.ImportQuestionnaire(ctx, st.ID, fhir("1", "one"))
	if err != nil {
		t.Fatal(err)
	}
	if q, err = d.PublishQuestionnaire(ctx, st.ID, q.ID); err != nil {
		t.Fatal(err)
	}
	if _, err := d.AddSite(ctx, st.ID, "S01", "Site"); err != nil {
		t.Fatal(err)
	}
	if _, err := d.PutSchedule(ctx, st.ID, rules(q.Canonical())); err != nil {
		t.Fatal(err)
	}
	if st, err = d.Publish(ctx, st.ID); err != nil {
		t.Fatal(err)
	}
	return d, st, q
}

func TestCatalogSeesOwnChangesAtOnce(t *testing.T) {
	d, st, q := active(t)
	ctx := as(t, 11, auth.StudyManager)
	if s, err := d.Catalog.Schedule(t.Context(), st.ID); err != nil || s.Version != 1 {
		t.Fatalf("%+v %v", s, err)
	}
	if _, err := d.PutSchedule(ctx, st.ID, rules(q.Canonical())); err != nil {
		t.Fatal(err)
	}
	if s, err := d.Catalog.Schedule(t.Context(), st.ID); err != nil || s.Version != 2 {
		t.Errorf("%+v %v", s, err)
	}
	if required, err := d.Catalog.PinRequired(t.Context(), st.ID); err != nil || required {
		t.Errorf("%v %v", required, err)
	}
	if byName, err := d.Catalog.StudyByProtocol(t.Context(), "EP-001"); err != nil || byName.ID != st.ID {
		t.Errorf("%+v %v", byName, err)
	}
}

// TestCatalogSeesOthers: another process' change is seen after the TTL; what is missing is looked for at once.
func TestCatalogSeesOthers(t *testing.T) {
	d, st, _ := active(t)
	if _, err := d.Catalog.Site(t.Context(), st.ID, "S01"); err != nil {
		t.Fatal(err)
	}
	other := newDesk(t, d.meta)
	other.IDs = d.IDs
	if _, err := other.AddSite(as(t, 11, auth.StudyManager), st.ID, "S02", "Other"); err != nil {
		t.Fatal(err)
	}
	d.clock.Advance(time.Second) // less than the TTL
	if s, err := d.Catalog.Site(t.Context(), st.ID, "S02"); err != nil || s.Code != "S02" {
		t.Errorf("a site that another process added: %+v %v", s, err)
	}
	_, err := d.Catalog.Site(t.Context(), st.ID, "S99")
	wantCode(t, err, "not_found")
	_, err = d.Catalog.Definition(t.Context(), st.ID, "https://example.org/q|9")
	wantCode(t, err, "invalid_response")
}

// TestCatalogOutlivesTheDatabase: what was known stays known for a while, and no longer.
func TestCatalogOutlivesTheDatabase(t *testing.T) {
	d, st, q := active(t)
	if _, err := d.Catalog.Definition(t.Context(), st.ID, q.Canonical()); err != nil {
		t.Fatal(err)
	}
	d.store.away.Store(true)
	d.clock.Advance(time.Minute)
	if definition, err := d.Catalog.Definition(t.Context(), st.ID, q.Canonical()); err != nil || definition.Version() != "1" {
		t.Errorf("after a minute: %v", err)
	}
	d.clock.Advance(time.Hour)
	if _, err := d.Catalog.Study(t.Context(), st.ID); errs.KindOf(err) != errs.Unavailable {
		t.Errorf("after an hour: %v, want Unavailable", err)
	}
}

func TestCatalogReadsOnce(t *testing.T) {
	d, st, q := active(t)
	d.Catalog.Forget(st.ID)
	before := d.store.reads.Load()
	var callers sync.WaitGroup
	for range 100 {
		callers.Go(func() {
			if _, err := d.Catalog.Schedule(t.Context(), st.ID); err != nil {
				t.Error(err)
			}
		})
	}
	callers.Wait()
	if n := d.store.reads.Load() - before; n > 3 {
		t.Errorf("%d readings for 100 callers", n)
	}
	if _, err := d.Catalog.Definition(t.Context(), st.ID, q.Canonical()); err != nil {
		t.Fatal(err)
	}
	ctx := t.Context()
	allocs := testing.AllocsPerRun(100, func() { _, _ = d.Catalog.Definition(ctx, st.ID, q.Canonical()) })
	if allocs > 2 {
		t.Errorf("a warm lookup makes %.0f allocations", allocs)
	}
}

func TestServed(t *testing.T) {
	d, st, q := active(t)
	mine := auth.With(t.Context(), auth.Principal{Kind: auth.KindParticipant, ID: 5, Study: st.ID})
	p, err := d.Served(mine, q.ID)
	if err != nil || !strings.Contains(string(p.Body), `"linkId":"a"`) || len(p.ETag) < 10 {
		t.Errorf("%+v %v", p, err)
	}
	_, err = d.Served(auth.With(t.Context(), auth.Principal{Kind: auth.KindParticipant, ID: 6, Study: st.ID + 1}), q.ID)
	wantCode(t, err, "not_found")
	_, err = d.Served(t.Context(), q.ID)
	wantCode(t, err, "unauthenticated")
	draft, err := d.ImportQuestionnaire(as(t, 11, auth.StudyManager), st.ID, fhir("2", "two"))
	if err != nil {
		t.Fatal(err)
	}
	_, err = d.Served(mine, draft.ID)
	wantCode(t, err, "not_found")
}

func TestPreview(t *testing.T) {
	d, st, _ := active(t)
	p := task.Person{Anchors: map[string]task.Date{"enrolment": {Year: 2026, Month: 11, Day: 1}}, Zones: []task.ZoneChange{{Zone: "Europe/Berlin"}}}
	from := time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC)
	tasks, err := d.Preview(as(t, 11, auth.StudyManager), st.ID, nil, p, from, from.AddDate(0, 1, 0))
	if err != nil || len(tasks) != 10 || tasks[0].OpensAt.Format(time.RFC3339) != "2026-11-01T07:00:00Z" {
		t.Errorf("%d tasks %v", len(tasks), err)
	}
	_, err = d.Preview(as(t, 12, auth.Monitor), st.ID, nil, p, from, from.AddDate(0, 1, 0))
	wantCode(t, err, "not_found")
	_, err = d.Preview(as(t, 11, auth.StudyManager), st.ID, nil, p, from, from.AddDate(9, 0, 0))
	wantCode(t, err, "invalid_field")
}
