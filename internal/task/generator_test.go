package task

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"
	"github.com/google/uuid"
	"gorm.io/gorm"

	"github.com/eprod/eprod/internal/db"
	"github.com/eprod/eprod/internal/testenv"
)

// register is the participants and the schedule of one study in memory.
type register struct {
	mu     sync.Mutex
	plan   Plan
	people map[int64]Person
	active bool
	asked  chan struct{} // one token for every reading, if set

	buckets map[int][]Person // people by bucket, where there are many
}

func (r *register) ActiveStudies(context.Context) ([]int64, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.active {
		return nil, nil
	}
	return []int64{theStudy}, nil
}

func (r *register) Plan(context.Context, int64) (Plan, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.plan, nil
}

func (r *register) InBucket(_ context.Context, _ *db.DB, study int64, bucket int, after int64, limit int) ([]Person, error) {
	if r.asked != nil {
		<-r.asked
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.buckets != nil {
		list := r.buckets[bucket]
		from, _ := slices.BinarySearchFunc(list, after+1, func(p Person, id int64) int { return cmp.Compare(p.ID, id) })
		return list[from:min(len(list), from+limit)], nil
	}
	var out []Person
	for id, p := range r.people {
		if p.Study == study && db.Bucket(id) == bucket && id > after {
			out = append(out, p)
		}
	}
	slices.SortFunc(out, func(a, b Person) int { return cmp.Compare(a.ID, b.ID) })
	return out[:min(limit, len(out))], nil
}

func (r *register) People(_ context.Context, ids []int64) ([]Person, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	var out []Person
	for _, id := range ids {
		if p, ok := r.people[id]; ok {
			out = append(out, p)
		}
	}
	return out, nil
}

// set changes participants and asks for their tasks, as participant does.
func (r *register) set(t testing.TB, shards *db.Shards, at time.Time, people ...Person) {
	t.Helper()
	r.mu.Lock()
	for _, p := range people {
		r.people[p.ID] = p
	}
	r.mu.Unlock()
	byShard := map[*db.DB][]int64{}
	for _, p := range people {
		byShard[shards.For(p.ID)] = append(byShard[shards.For(p.ID)], p.ID)
	}
	for shard, ids := range byShard {
		if err := shard.Tx(t.Context(), func(tx *gorm.DB) error { return Refresh(tx, theStudy, ids, at) }); err != nil {
			t.Fatal(err)
		}
	}
}

func (r *register) generator(shards *db.Shards, owner string, now func() time.Time) *Generator {
	config := DefaultGeneratorConfig()
	config.Batch = 7
	return NewGenerator(config, GeneratorParts{Store: &Store{Shards: shards}, Engine: NewEngine(), Plans: r, Studies: r, Roster: r, Owner: owner, Now: now,
		Logger: slog.New(slog.DiscardHandler)})
}

// rows returns every row by participant and task.
func rowsOf(t testing.TB, shards *db.Shards) map[Key]issuedRow {
	t.Helper()
	out := map[Key]issuedRow{}
	for _, shard := range shards.All() {
		var rows []issuedRow
		if err := shard.Read(t.Context()).Table("task").Select(issuedSelect).Find(&rows).Error; err != nil {
			t.Fatal(err)
		}
		for _, r := range rows {
			out[Key{r.ParticipantID, r.ID}] = r
		}
	}
	return out
}

// agree holds the rows against the engine: every due task up to the horizon has its row, once and as the engine says; every other row
// is taken back, or excused, or completed.
func (r *register) agree(t testing.TB, what string, shards *db.Shards, until time.Time) {
	t.Helper()
	e := NewEngine()
	rows := rowsOf(t, shards)
	due := map[Key]bool{}
	for _, p := range r.people {
		for _, one := range e.Generate(r.plan, p, time.Time{}.AddDate(1990, 0, 0), until) {
			if one.Optional || !one.CancelledAt.IsZero() {
				continue
			}
			key := Key{p.ID, one.ID}
			due[key] = true
			row, ok := rows[key]
			if !ok {
				t.Fatalf("%s: %s of %d on %s has no row", what, one.Rule, p.ID, one.Date)
			}
			got, err := row.issued()
			if err != nil {
				t.Fatal(err)
			}
			one.OfflineUntil = time.Time{}
			if diff := gocmp.Diff(one, got.Task); diff != "" || got.State == rowCancelled {
				t.Fatalf("%s: %s of %d on %s, %s:\n%s", what, one.Rule, p.ID, one.Date, got.State, diff)
			}
		}
	}
	r.explained(t, what, rows, until)
	for key, row := range rows {
		if !due[key] && row.State == rowIssued && row.OpensAt < until.UnixMicro() {
			t.Fatalf("%s: the row of %s of %d on %s is issued and not due", what, row.Rule, key.Participant, row.Date)
		}
	}
}

// explained holds what is explained of random participants and dates against the rows.
func (r *register) explained(t testing.TB, what string, rows map[Key]issuedRow, until time.Time) {
	t.Helper()
	e := NewEngine()
	for range 50 {
		var p Person
		for _, p = range r.people { // some
			break
		}
		day := Date{2026, time.July, 1}.AddDays(rand.IntN(20))
		got := map[int64]bool{}
		for _, x := range e.Explain(r.plan, p, day) {
			if (x.Why == WhyDue) != (len(x.Tasks) > 0) || x.Detail == "" {
				t.Fatalf("%s: %s on %s of %d is %s with %d tasks: %q", what, x.Rule.ID, day, p.ID, x.Why, len(x.Tasks), x.Detail)
			}
			for _, one := range x.Tasks {
				got[one.ID] = true
				if row, ok := rows[Key{p.ID, one.ID}]; one.OpensAt.Before(until) && one.CancelledAt.IsZero() && (!ok || row.State == rowCancelled) {
					t.Fatalf("%s: %s on %s of %d is explained as due and has the row %+v", what, x.Rule.ID, day, p.ID, row)
				}
			}
		}
		for key, row := range rows {
			if key.Participant == p.ID && row.Date == day.String() && row.State == rowIssued && !got[key.Task] {
				t.Fatalf("%s: the row %+v of %d is not explained", what, row, p.ID)
			}
		}
	}
}

func crowd(n int, zoneNames ...string) []Person {
	var out []Person
	for i := range n {
		out = append(out, Person{ID: int64(1000 + i), Study: theStudy, Arm: string(rune('A' + i%2)), Anchors: map[string]Date{"enrolment": {2026, time.July, 1 + i%5}},
			Zones: []ZoneChange{{Zone: zoneNames[i%len(zoneNames)]}}})
	}
	return out
}

var generatorStart = time.Date(2026, 7, 8, 12, 0, 0, 0, time.UTC)

func newRegister(t testing.TB, rules ...Rule) *register {
	return &register{plan: schedule(t, rules...), people: map[int64]Person{}, active: true}
}

func pass1(t testing.TB, g *Generator) Work {
	t.Helper()
	work, err := g.Once(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return work
}

// TestIssuing: the rows follow everything that tasks follow from, and a pass without a change writes nothing.
func TestIssuing(t *testing.T) {
	each(t, func(t *testing.T, shards *db.Shards) {
		clock := testenv.Clock(generatorStart)
		reminding := rule(func(r *Rule) {
			r.Repeat.Until = "P20D"
			r.Reminders = []Reminder{{At: "closes", After: "-PT1H"}, {At: "opens", After: "PT0S"}}
		})
		r := newRegister(t, reminding)
		g := r.generator(shards, "one", clock.Now)
		horizon := func() time.Time { return clock.Now().Add(g.config.Horizon - g.config.Step) }
		r.active = false
		r.set(t, shards, clock.Now(), crowd(40, "Europe/Berlin", "Asia/Shanghai", "America/New_York")...)
		if work := pass1(t, g); work != (Work{}) {
			t.Errorf("a draft has tasks: %+v", work)
		}
		r.active = true
		if work := pass1(t, g); work.Participants != 40 || work.Created == 0 || work.Moved+work.Cancelled != 0 {
			t.Errorf("first pass: %+v", work)
		}
		r.agree(t, "first pass", shards, horizon())
		for _, row := range rowsOf(t, shards) {
			over := row.GraceUntil < clock.Now().Add(-staleAfter).UnixMicro()
			if want := row.OpensAt; !over && row.RemindAt != want || over && row.RemindAt != 0 {
				t.Errorf("row %+v is looked at at %d", row, row.RemindAt)
			}
		}
		if work := pass1(t, g); work != (Work{}) {
			t.Errorf("nothing has changed: %+v", work)
		}
		for range 4 {
			clock.Advance(7 * time.Hour)
			if work := pass1(t, g); work.Participants != 40 || work.Moved+work.Cancelled != 0 {
				t.Errorf("the horizon moves on: %+v", work)
			}
			r.agree(t, "later", shards, horizon())
		}
		moved := r.people[1000]
		moved.Zones = append(slices.Clone(moved.Zones), ZoneChange{clock.Now(), "Pacific/Auckland"})
		left := r.people[1001]
		left.Left = clock.Now()
		other := r.people[1002]
		other.Earlier, other.Anchors = []Facts{{clock.Now(), other.Arm, other.Anchors}}, map[string]Date{}
		clock.Advance(time.Second)
		r.set(t, shards, clock.Now(), moved, left, other)
		if work := pass1(t, g); work.Participants != 3 || work.Moved == 0 || work.Cancelled == 0 {
			t.Errorf("three have changed: %+v", work)
		}
		r.agree(t, "changed facts", shards, horizon())
		other.Earlier = append(slices.Clone(other.Earlier), Facts{clock.Now(), other.Arm, other.Anchors})
		other.Anchors = map[string]Date{"enrolment": {2026, time.July, 3}}
		r.set(t, shards, clock.Now(), other)
		if work := pass1(t, g); work.Participants != 1 || work.Moved == 0 {
			t.Errorf("what was taken back is due again: %+v", work)
		}
		r.agree(t, "due again", shards, horizon())
		next := schedule(t, rule(func(r *Rule) { r.Repeat.Until, r.Windows[0].Opens = "P20D", "17:00" }), utcDaily("new", "06:00", "09:00"))[0]
		next.Version, next.From = 2, clock.Now()
		r.plan = append(r.plan, next)
		if work := pass1(t, g); work.Participants != 40 || work.Moved == 0 || work.Created == 0 {
			t.Errorf("an amendment: %+v", work)
		}
		r.agree(t, "amended", shards, horizon())
		if work := pass1(t, g); work != (Work{}) {
			t.Errorf("nothing has changed since: %+v", work)
		}
	})
}

// TestCompletedTasksAreNeverTakenBack, whatever becomes of the facts that made them due.
func TestCompletedTasksAreNeverTakenBack(t *testing.T) {
	each(t, func(t *testing.T, shards *db.Shards) {
		clock := testenv.Clock(generatorStart)
		r := newRegister(t, rule(nil))
		g := r.generator(shards, "one", clock.Now)
		p := crowd(1, "UTC")[0]
		r.set(t, shards, clock.Now(), p)
		pass1(t, g)
		clock.Advance(7 * time.Hour) // the day's window is open
		due := NewEngine().Generate(r.plan, p, clock.Now(), clock.Now().Add(time.Second))[0]
		if err := complete(t, shards, Completion{Task: due, Submission: uuid.New(), CapturedAt: clock.Now(), ReceivedAt: clock.Now()}); err != nil {
			t.Fatal(err)
		}
		p.Left = clock.Now()
		clock.Advance(time.Minute)
		r.set(t, shards, clock.Now(), p)
		pass1(t, g)
		if row := rowsOf(t, shards)[Key{p.ID, due.ID}]; row.State != rowIssued {
			t.Errorf("the completed task became %s", row.State)
		}
	})
}

// TestGeneratorsAtOnce: two instances that are stopped at any moment, and whose leases lapse, issue every task exactly once; the work is
// shared between them.
func TestGeneratorsAtOnce(t *testing.T) {
	each(t, func(t *testing.T, shards *db.Shards) {
		clock := testenv.Clock(generatorStart)
		r := newRegister(t, rule(func(r *Rule) { r.Repeat.Until = "P60D" }), utcDaily("m", "06:00", "09:00"))
		r.set(t, shards, clock.Now(), crowd(300, "Europe/Berlin", "Asia/Kathmandu", "America/Sao_Paulo")...)
		shared := map[string]int{}
		created := 0
		var mu sync.Mutex
		random := rand.New(rand.NewPCG(1, 2))
		until := time.Time{}
		for round := range 12 {
			ctx, cancel := context.WithCancel(t.Context())
			var wg sync.WaitGroup
			stop := random.IntN(30) // readings until both are stopped; the last rounds run to their end
			r.asked = make(chan struct{}, 10_000)
			for range cap(r.asked) {
				r.asked <- struct{}{}
			}
			for _, owner := range []string{"one", "two"} {
				wg.Go(func() {
					g := r.generator(shards, owner, clock.Now)
					work, err := g.Once(ctx)
					if err != nil && ctx.Err() == nil {
						t.Errorf("%s: %v", owner, err)
					}
					mu.Lock()
					defer mu.Unlock()
					shared[owner] += work.Participants
					created += work.Created
				})
			}
			for round < 10 && len(r.asked) > cap(r.asked)-stop {
				if done := make(chan struct{}); true {
					go func() { wg.Wait(); close(done) }()
					select {
					case <-done:
						stop = 0
					case <-time.After(time.Millisecond):
					}
				}
			}
			if round < 10 {
				cancel()
			}
			wg.Wait()
			cancel()
			until = clock.Now().Add(DefaultGeneratorConfig().Horizon - DefaultGeneratorConfig().Step)
			clock.Advance(time.Duration(1+random.IntN(8)) * time.Hour) // the leases have lapsed
			if round == 5 {
				next := schedule(t, rule(func(r *Rule) { r.Repeat.Until, r.Windows[0].Opens = "P60D", "17:30" }))[0]
				next.Version, next.From = 2, clock.Now()
				r.mu.Lock()
				r.plan = append(slices.Clone(r.plan), next)
				r.mu.Unlock()
			}
		}
		r.agree(t, "at the end", shards, until)
		if shared["one"] == 0 || shared["two"] == 0 {
			t.Errorf("the work was not shared: %v", shared)
		}
		t.Logf("participants looked at %v, %d rows created", shared, created)
	})
}

// TestDowntime: after 36 hours without a generator every window has its row; those that are over are missed, and nobody is reminded of
// what has closed a day ago.
func TestDowntime(t *testing.T) {
	each(t, func(t *testing.T, shards *db.Shards) {
		clock := testenv.Clock(generatorStart)
		r := newRegister(t, rule(func(r *Rule) { r.Reminders = []Reminder{{At: "opens", After: "PT0S"}, {At: "missed", After: "PT0S"}} }))
		g := r.generator(shards, "one", clock.Now)
		g.config.Horizon = 24 * time.Hour
		r.set(t, shards, clock.Now(), crowd(20, "UTC")...)
		pass1(t, g)
		clock.Advance(36 * time.Hour)
		pass1(t, g)
		r.agree(t, "after downtime", shards, clock.Now().Add(18*time.Hour))
		now := clock.Now()
		states := map[State]int{}
		for _, row := range rowsOf(t, shards) {
			one, err := row.issued()
			if err != nil {
				t.Fatal(err)
			}
			state := one.StateAt(now, false)
			states[state]++
			if (state == Open) != (!now.Before(one.OpensAt) && !now.After(one.GraceUntil)) {
				t.Errorf("%s is %s at %v", row.Date, state, now)
			}
			if now.Sub(one.GraceUntil) > staleAfter && row.RemindAt != 0 && one.OpensAt.After(generatorStart) {
				t.Errorf("somebody is to be reminded of %s, which closed at %v", row.Date, one.ClosesAt)
			}
		}
		if states[Missed] == 0 || states[Scheduled] == 0 {
			t.Errorf("states %v: the test has not what it needs", states)
		}
	})
}

func TestBucketLeases(t *testing.T) {
	each(t, func(t *testing.T, shards *db.Shards) {
		s := &Store{Shards: shards}
		now := generatorStart
		for i, c := range []struct {
			owner string
			after time.Duration
			want  bool
		}{{"one", 0, true}, {"two", 10 * time.Second, false}, {"one", 20 * time.Second, true}, {"two", 45 * time.Second, false}, {"two", 51 * time.Second, true}, {"one", 52 * time.Second, false}} {
			at := now.Add(c.after)
			if got, err := s.Lease(t.Context(), 7, "tasks", c.owner, at, at.Add(30*time.Second)); err != nil || got != c.want {
				t.Errorf("%d: %s after %v: %v, %v", i, c.owner, c.after, got, err)
			}
		}
		if got, err := s.Lease(t.Context(), 7, "reminders", "three", now, now.Add(time.Second)); err != nil || !got {
			t.Errorf("another purpose: %v, %v", got, err)
		}
		var wg sync.WaitGroup
		var mu sync.Mutex
		winners := 0
		for i := range 8 {
			wg.Go(func() {
				got, err := s.Lease(t.Context(), 8, "tasks", fmt.Sprint(i), now, now.Add(time.Minute))
				if err != nil {
					t.Error(err)
				}
				mu.Lock()
				defer mu.Unlock()
				if got {
					winners++
				}
			})
		}
		wg.Wait()
		if winners != 1 {
			t.Errorf("%d have the bucket", winners)
		}
	})
}

// TestGeneratorAtScale issues three tasks a day for many participants and says what it cost; the long run has 100,000 of them.
func TestGeneratorAtScale(t *testing.T) {
	each(t, func(t *testing.T, shards *db.Shards) {
		n := 2000
		if os.Getenv("EPROD_TEST_LONG") != "" {
			n = 100_000
		}
		clock := testenv.Clock(generatorStart)
		r := newRegister(t, utcDaily("m", "06:00", "09:00"), utcDaily("n", "12:00", "14:00"), utcDaily("e", "18:00", "22:00"))
		people := crowd(n, "Europe/Berlin", "Asia/Shanghai", "America/New_York")
		for i := range people {
			people[i].Anchors["enrolment"] = Date{2026, time.July, 8}
		}
		r.buckets = make(map[int][]Person)
		for _, p := range people {
			r.buckets[db.Bucket(p.ID)] = append(r.buckets[db.Bucket(p.ID)], p)
		}
		r.set(t, shards, clock.Now(), people...)
		g := r.generator(shards, "one", clock.Now)
		g.config.Batch = DefaultGeneratorConfig().Batch
		total := Work{}
		began, cpu := time.Now(), processTime(t)
		for {
			work := pass1(t, g)
			if work == (Work{}) {
				break
			}
			total.add(work)
		}
		t.Logf("%d participants: %d rows in %v, %v CPU of this process", n, total.Created, time.Since(began), processTime(t)-cpu)
		if total.Created < 5*n {
			t.Errorf("%d rows, want at least %d", total.Created, 5*n)
		}
		day := Work{}
		began, cpu = time.Now(), processTime(t)
		for range 4 {
			clock.Advance(6 * time.Hour)
			day.add(pass1(t, g))
		}
		t.Logf("a day more: %d rows in %v, %v CPU of this process", day.Created, time.Since(began), processTime(t)-cpu)
		if day.Created != 3*n {
			t.Errorf("%d rows for a day, want %d", day.Created, 3*n)
		}
	})
}

func processTime(t testing.TB) time.Duration {
	t.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		t.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// TestNewZoneData: what had opened by older data stays; what had not moves.
func TestNewZoneData(t *testing.T) {
	each(t, func(t *testing.T, shards *db.Shards) {
		clock := testenv.Clock(generatorStart.Add(7 * time.Hour)) // the day's window is open
		r := newRegister(t, rule(nil))
		g := r.generator(shards, "one", clock.Now)
		r.set(t, shards, clock.Now(), crowd(1, "UTC")...)
		pass1(t, g)
		old := func(tx *gorm.DB) error {
			if err := tx.Exec("UPDATE task SET zone_data = '1999a', opens_at = opens_at - 3600000000").Error; err != nil {
				return err
			}
			return tx.Exec("UPDATE task_horizon SET plan_mark = 1").Error
		}
		for _, shard := range shards.All() {
			if err := shard.Tx(t.Context(), old); err != nil {
				t.Fatal(err)
			}
		}
		if work := pass1(t, g); work.Moved == 0 || work.Created+work.Cancelled != 0 {
			t.Errorf("after newer data: %+v", work)
		}
		for _, row := range rowsOf(t, shards) {
			opens := db.Time(row.OpensAt)
			if opened := opens.Before(clock.Now()); opened != (row.ZoneData == "1999a") || opened != (opens.Hour() == 17) {
				t.Errorf("%s opens at %v by %s", row.Date, opens, row.ZoneData)
			}
		}
	})
}
