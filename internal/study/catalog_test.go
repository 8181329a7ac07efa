package study

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/eprod/eprod/internal/cache"
	"github.com/eprod/eprod/internal/errs"
	"github.com/eprod/eprod/internal/questionnaire"
	"github.com/eprod/eprod/internal/task"
)

// form is a questionnaire with one question.
func form(version, text string) []byte {
	return fmt.Appendf(nil, `{"resourceType":"Questionnaire","url":"https://example.org/q/pain","version":%q,"title":"Pain","status":"draft",
 "item":[{"linkId":"1","text":%q,"type":"integer","required":true}]}`, version, text)
}

func daily(canonical string, arms ...string) task.Design {
	return task.Design{Rules: []task.Rule{{ID: "diary", Questionnaire: canonical, Arms: arms, Anchor: "enrolment", Offset: "P0D",
		Repeat: &task.Repeat{Every: "P1D", Until: "P9D"}, Windows: []task.Window{{Opens: "18:00", Due: "20:00", Closes: "23:00", Grace: "PT2H"}}}}}
}

const canonical = "https://example.org/q/pain|1.0.0"

// shelf is one study in memory, as another process would leave it. It counts readings, and can fail or hang.
type shelf struct {
	mu        sync.Mutex
	study     Study
	sites     []Site
	forms     []Questionnaire
	body      []byte
	schedules []ScheduleVersion
	err       error
	hang      chan struct{} // closed: go on
	reads     atomic.Int64  // of the study
}

func newShelf() *shelf {
	body := form("1.0.0", "Pain?")
	return &shelf{study: Study{ID: 7, Protocol: "EP-001", Status: Active, ParticipantPin: PinRequired, ScheduleVersion: 1},
		sites: []Site{{ID: 71, Code: "S01"}}, schedules: []ScheduleVersion{{Version: 1, Design: daily(canonical)}}, body: body,
		forms: []Questionnaire{
			{ID: 700, Study: 7, URL: "https://example.org/q/pain", Version: "1.0.0", Status: Active, SHA256: sha256.Sum256(body)},
			{ID: 701, Study: 7, URL: "https://example.org/q/pain", Version: "2.0.0", Status: Draft}}}
}

func (s *shelf) ByID(ctx context.Context, id int64) (Study, error) {
	s.reads.Add(1)
	s.mu.Lock()
	study, err, hang := s.study, s.err, s.hang
	s.mu.Unlock()
	if hang != nil {
		select {
		case <-hang:
		case <-ctx.Done():
			return Study{}, errs.Away("study", ctx.Err())
		}
	}
	if err == nil && id != study.ID {
		err = errs.Absent("study")
	}
	return study, err
}

func (s *shelf) Revision(context.Context, int64) (int64, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return 1, s.err
}

func (s *shelf) ByProtocol(_ context.Context, protocol string) (Study, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err == nil && protocol != s.study.Protocol {
		return Study{}, errs.Absent("study")
	}
	return s.study, s.err
}

func (s *shelf) Sites(context.Context, int64) ([]Site, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.sites, s.err
}

func (s *shelf) Arms(context.Context, int64) ([]Arm, error) { return []Arm{{ID: 72, Code: "A"}}, nil }

func (s *shelf) Questionnaires(context.Context, int64) ([]Questionnaire, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.forms, s.err
}

func (s *shelf) Questionnaire(_ context.Context, id int64) (Questionnaire, []byte, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, q := range s.forms {
		if q.ID == id {
			return q, s.body, s.err
		}
	}
	return Questionnaire{}, nil, errs.Absent("questionnaire")
}

func (s *shelf) Schedules(context.Context, int64) ([]ScheduleVersion, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.schedules, s.err
}

func (s *shelf) set(change func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	change()
}

// memory is a cache that counts.
type memory struct {
	mu      sync.Mutex
	values  map[string][]byte
	fetches int
}

func (m *memory) Fetch(ctx context.Context, key string, load func(ctx context.Context) ([]byte, error)) ([]byte, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.fetches++
	if v, ok := m.values[key]; ok {
		return v, nil
	}
	v, err := load(ctx)
	if err == nil {
		m.values[key] = v
	}
	return v, err
}

// Get is a shared cache that is away: every reading is one of the database.
func (m *memory) Get(ctx context.Context, _ string, _ int64, load cache.Load) ([]byte, error) {
	v, _, err := load(ctx)
	return v, err
}

func (m *memory) Invalidate(context.Context, string, int64) error { return errors.New("away") }

func newCatalog(t testing.TB, reader Reader) (*Catalog, *memory) {
	t.Helper()
	m := &memory{values: make(map[string][]byte)}
	c, err := NewCatalog(DefaultCatalogConfig(), questionnaire.DefaultLimits(), reader, m, m, time.Now)
	if err != nil {
		t.Fatal(err)
	}
	return c, m
}

func titleOf(t *testing.T, c *Catalog) string {
	t.Helper()
	st, err := c.Study(t.Context(), 7)
	if err != nil {
		t.Errorf("study: %v", err)
	}
	return st.Title
}

func TestCatalogSeesChangesWithinTheTTL(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newShelf()
		c, _ := newCatalog(t, s)
		for range 100 {
			titleOf(t, c)
		}
		if n := s.reads.Load(); n != 1 {
			t.Errorf("%d readings for what is known, want 1", n)
		}
		for round := range 20 { // with traffic, and after hours without
			title := fmt.Sprint("title ", round)
			s.set(func() { s.study.Title = title })
			if round%2 == 0 {
				time.Sleep(DefaultCatalogConfig().TTL)
			} else {
				time.Sleep(5 * time.Minute)
			}
			var wg sync.WaitGroup
			for range 50 {
				wg.Go(func() {
					if got := titleOf(t, c); got != title {
						t.Errorf("round %d: %q, want %q", round, got, title)
					}
				})
			}
			wg.Wait()
		}
		if n := s.reads.Load(); n > 210 { // a caller may look just before a reading ends and come just after; more do on a busy machine
			t.Errorf("%d readings for 21 rounds of 50 callers", n)
		}
	})
}

func TestCatalogReadsAnewBeforeTheTTLWhileOthersGoOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newShelf()
		c, _ := newCatalog(t, s)
		titleOf(t, c)
		time.Sleep(DefaultCatalogConfig().TTL / 2)
		hang := make(chan struct{})
		s.set(func() { s.hang, s.study.Title = hang, "new" })
		done := make(chan string)
		go func() { done <- titleOf(t, c) }()
		synctest.Wait() // the first caller reads
		for range 10 {
			if got := titleOf(t, c); got != "" {
				t.Errorf("%q while the new view is being read", got)
			}
		}
		if n := s.reads.Load(); n != 2 {
			t.Errorf("%d readings, want 2", n)
		}
		close(hang)
		if got := <-done; got != "new" {
			t.Errorf("the caller that read got %q", got)
		}
		if got := titleOf(t, c); got != "new" {
			t.Errorf("afterwards %q", got)
		}
	})
}

func TestCatalogWhileTheDatabaseIsAway(t *testing.T) {
	for name, breakIt := range map[string]func(s *shelf){
		"refusing": func(s *shelf) { s.err = errs.Away("study", errors.New("connection refused")) },
		"silent":   func(s *shelf) { s.hang = make(chan struct{}) },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newShelf()
				config := DefaultCatalogConfig()
				c, _ := newCatalog(t, s)
				titleOf(t, c)
				s.set(func() { breakIt(s) })
				began := time.Now()
				var slow time.Duration
				calls := 0
				for time.Since(began) < config.StaleFor-5*time.Second {
					at := time.Now()
					titleOf(t, c)
					slow += time.Since(at)
					calls++
					time.Sleep(100 * time.Millisecond)
				}
				// One caller at a time tries, every half TTL plus the time-out; with other callers around nobody else waits.
				if tries := s.reads.Load(); tries > int64(config.StaleFor/(config.TTL/2+config.LoadTimeout))+2 {
					t.Errorf("%d tries in %v", tries, config.StaleFor)
				}
				if most := config.LoadTimeout * 310; slow > most {
					t.Errorf("%d calls waited %v together", calls, slow)
				}
				time.Sleep(10 * time.Second)
				if _, err := c.Study(t.Context(), 7); errs.KindOf(err) != errs.Unavailable {
					t.Errorf("after StaleFor: %v, want unavailable", err)
				}
				s.set(func() { s.err, s.hang, s.study.Title = nil, nil, "back" })
				if got := titleOf(t, c); got != "back" {
					t.Errorf("once the database is back: %q", got)
				}
			})
		})
	}
}

func TestCatalogSilentDatabaseHoldsOneCaller(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newShelf()
		config := DefaultCatalogConfig()
		c, _ := newCatalog(t, s)
		titleOf(t, c)
		s.set(func() { s.hang = make(chan struct{}) })
		time.Sleep(config.TTL) // all wait once, for the load's limit
		var wg sync.WaitGroup
		for range 50 {
			wg.Go(func() { titleOf(t, c) })
		}
		wg.Wait()
		time.Sleep(config.StaleFor / 2)
		began := time.Now()
		var waited atomic.Int64
		for range 50 {
			wg.Go(func() {
				titleOf(t, c)
				if time.Since(began) > 0 {
					waited.Add(1)
				}
			})
		}
		wg.Wait()
		if n := waited.Load(); n > 1 {
			t.Errorf("%d of 50 callers waited for a silent database, want at most one", n)
		}
	})
}

func TestForgetOutrunsAReadingThatBeganBefore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newShelf()
		c, _ := newCatalog(t, s)
		hang := make(chan struct{})
		s.set(func() { s.hang = hang })
		old := make(chan string)
		go func() { old <- titleOf(t, c) }()
		synctest.Wait() // the reading has the old title in its hands
		s.set(func() { s.hang, s.study.Title = nil, "changed" })
		c.Forget(t.Context(), 7)
		if got := titleOf(t, c); got != "changed" {
			t.Errorf("right after the change: %q", got)
		}
		close(hang)
		<-old
		if got := titleOf(t, c); got != "changed" {
			t.Errorf("once the old reading has come back: %q", got)
		}
	})
}

func TestCatalogFindsWhatIsNew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newShelf()
		c, _ := newCatalog(t, s)
		ctx := t.Context()
		site, err := c.Site(ctx, 7, "S01")
		want(t, "site", err, "ok")
		if site.ID != 71 {
			t.Errorf("site %v", site)
		}
		s.set(func() { s.sites = append(s.sites, Site{ID: 73, Code: "S02"}) })
		time.Sleep(DefaultCatalogConfig().TTL / 4)
		site, err = c.Site(ctx, 7, "S02") // well before the TTL
		want(t, "site that another process added", err, "ok")
		if site.ID != 73 {
			t.Errorf("site %v", site)
		}
		site, err = c.SiteByID(ctx, 7, 73)
		want(t, "site by id", err, "ok")
		if site.Code != "S02" {
			t.Errorf("site %v", site)
		}
		_, err = c.Arm(ctx, 7, "A")
		want(t, "arm", err, "ok")
		_, err = c.Arm(ctx, 7, "B")
		want(t, "unknown arm", err, "not_found")
		arms, err := c.Arms(ctx, 7)
		if err != nil || len(arms) != 1 {
			t.Errorf("arms %v, %v", arms, err)
		}
		pin, err := c.PinRequired(ctx, 7)
		if err != nil || !pin {
			t.Errorf("pin %v, %v", pin, err)
		}
		_, err = c.Study(ctx, 8)
		want(t, "unknown study", err, "not_found")
	})
}

func TestStudyByProtocol(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newShelf()
		c, _ := newCatalog(t, s)
		for _, name := range []string{"EP-001", "7"} {
			st, err := c.StudyByProtocol(t.Context(), name)
			want(t, name, err, "ok")
			if st.ID != 7 {
				t.Errorf("%s: %v", name, st)
			}
		}
		for _, name := range []string{"EP-002", "8", ""} {
			_, err := c.StudyByProtocol(t.Context(), name)
			want(t, name, err, "not_found")
		}
		s.set(func() { s.err = errs.Away("study", errors.New("down")) })
		time.Sleep(time.Minute)
		_, err := c.StudyByProtocol(t.Context(), "EP-001")
		want(t, "while the database is away", err, "ok")
		s.set(func() { s.err, s.study.Protocol = nil, "12345" })
		c.Forget(t.Context(), 7)
		st, err := c.StudyByProtocol(t.Context(), "12345")
		if err != nil || st.ID != 7 {
			t.Errorf("a protocol number of digits: %v, %v", st, err)
		}
	})
}

func TestPlan(t *testing.T) {
	s := newShelf()
	c, _ := newCatalog(t, s)
	got, err := c.Plan(t.Context(), 7)
	if err != nil || len(got) != 1 || got.Current().Version != 1 || got.Rules() != 1 {
		t.Fatalf("schedule %v, %v", got, err)
	}
	p := task.Person{ID: 1, Anchors: map[string]task.Date{"enrolment": {Year: 2026, Month: 11, Day: 23}}, Zones: []task.ZoneChange{{Zone: "UTC"}}}
	from := time.Date(2026, 11, 23, 0, 0, 0, 0, time.UTC)
	if tasks := task.NewEngine().Generate(got, p, from, from.AddDate(0, 0, 30)); len(tasks) != 10 {
		t.Errorf("%d tasks, want 10", len(tasks))
	}
	s.set(func() { s.schedules = nil })
	c.Forget(t.Context(), 7)
	if got, err = c.Plan(t.Context(), 7); err != nil || len(got) != 0 || got.Rules() != 0 {
		t.Errorf("without a schedule: %v, %v", got, err)
	}
}
