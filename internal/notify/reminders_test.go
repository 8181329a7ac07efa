package notify

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"net/http/httptest"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"gorm.io/gorm"

	"github.com/eprod/eprod/internal/db"
	"github.com/eprod/eprod/internal/errs"
	"github.com/eprod/eprod/internal/task"
	"github.com/eprod/eprod/internal/testenv"
)

// clinic is a study whose tasks are issued and reminded of for real: rows in real databases, messages through the sandbox.
type clinic struct {
	*desk
	shards    *db.Shards
	plan      task.Plan
	generator *task.Generator
	reminders *Reminders

	mu       sync.Mutex
	people   map[int64]task.Person
	contacts map[int64]Contact
	outcomes map[string]int
	arrived  map[string]time.Time // by the gateway's reference, by the clinic's clock
}

const canary = "Annegret Kanarienvogel"

func newClinic(t *testing.T, shards *db.Shards, start time.Time, plan task.Plan, order []string) *clinic {
	c := &clinic{desk: newDesk(t, shards, order), shards: shards, plan: plan, people: map[int64]task.Person{}, contacts: map[int64]Contact{}, outcomes: map[string]int{}, arrived: map[string]time.Time{}}
	c.clock = testenv.Clock(start)
	c.sandbox.config.Inbox = 100_000
	c.Now = c.clock.Now
	c.Service.ServiceParts.Now = c.clock.Now
	rows := &task.Store{Shards: shards}
	c.Gate = &StillDue{Tasks: rows, Contacts: c, Now: c.clock.Now}
	parts := task.GeneratorParts{Store: rows, Engine: task.NewEngine(), Plans: c, Studies: c, Roster: c, Owner: "test", Now: c.clock.Now, Logger: slog.New(slog.DiscardHandler)}
	c.generator = task.NewGenerator(task.DefaultGeneratorConfig(), parts)
	c.reminders = NewReminders(DefaultReminderConfig(), ReminderParts{Shards: shards, Tasks: rows, Store: &ReminderStore{Shards: shards}, Plans: c, Engine: parts.Engine, Contacts: c,
		Queue: c.Service, Budget: &Budget{Meta: testenv.SQLite(t, "meta")}, Now: c.clock.Now, Meter: c, Logger: slog.New(slog.NewTextHandler(t.Output(), nil))})
	return c
}

func (c *clinic) ActiveStudies(context.Context) ([]int64, error) { return []int64{theStudy}, nil }
func (c *clinic) Plan(context.Context, int64) (task.Plan, error) { return c.plan, nil }
func (c *clinic) Site(context.Context, int64, int64) (SiteContact, error) {
	return SiteContact{Email: "clinic@example.org", Phone: "+8613900000000", Protocol: "EP-001", Language: "en", Zone: "Europe/Berlin"}, nil
}

func (c *clinic) InBucket(_ context.Context, _ *db.DB, _ int64, bucket int, after int64, limit int) ([]task.Person, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	var out []task.Person
	for id, p := range c.people {
		if db.Bucket(id) == bucket && id > after {
			out = append(out, p)
		}
	}
	slices.SortFunc(out, func(a, b task.Person) int { return cmp.Compare(a.ID, b.ID) })
	return out[:min(limit, len(out))], nil
}

func (c *clinic) People(_ context.Context, ids []int64) ([]task.Person, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	out := make([]task.Person, 0, len(ids))
	for _, id := range ids {
		out = append(out, c.people[id])
	}
	return out, nil
}

func (c *clinic) Contacts(_ context.Context, ids []int64) (map[int64]Contact, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	out := make(map[int64]Contact, len(ids))
	for _, id := range ids {
		out[id] = c.contacts[id]
	}
	return out, nil
}

func (c *clinic) Reminder(outcome string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.outcomes[outcome]++
}

// enrol adds participants with a phone each, all of whom agree to be reached by text.
func (c *clinic) enrol(n int, zones ...string) {
	c.t.Helper()
	day := c.clock.Now().UTC()
	byShard := map[*db.DB][]int64{}
	for i := range n {
		id, zone := int64(100+i), zones[i%len(zones)]
		c.people[id] = task.Person{ID: id, Study: theStudy, Anchors: map[string]task.Date{"enrolment": {Year: day.Year(), Month: day.Month(), Day: day.Day()}}, Zones: []task.ZoneChange{{Zone: zone}}}
		c.contacts[id] = Contact{Study: theStudy, Site: 30, Number: fmt.Sprintf("N-%d", id), Phone: fmt.Sprintf("+861380%07d", id), Consents: map[string]bool{"sms": true}, Language: "en", Zone: zone}
		byShard[c.shards.For(id)] = append(byShard[c.shards.For(id)], id)
	}
	for shard, ids := range byShard {
		if err := shard.Tx(c.t.Context(), func(tx *gorm.DB) error { return task.Refresh(tx, theStudy, ids, c.clock.Now()) }); err != nil {
			c.t.Fatal(err)
		}
	}
	if _, err := c.generator.Once(c.t.Context()); err != nil {
		c.t.Fatal(err)
	}
}

func (c *clinic) tasks(id int64) []task.Task {
	now := c.clock.Now()
	return task.NewEngine().Generate(c.plan, c.people[id], now.AddDate(0, 0, -2), now.AddDate(0, 0, 2))
}

func (c *clinic) complete(t task.Task) {
	c.t.Helper()
	err := c.shards.For(t.Participant).Tx(c.t.Context(), func(tx *gorm.DB) error {
		return task.Complete(tx, []task.Completion{{Task: t, Submission: uuid.New(), CapturedAt: c.clock.Now(), ReceivedAt: c.clock.Now()}})
	})
	if err != nil {
		c.t.Fatal(err)
	}
}

// to advances the clock in steps, and lets reminders and messages work at each of them.
func (c *clinic) to(until time.Time, step time.Duration) {
	for c.clock.Now().Before(until) {
		c.clock.Advance(min(step, until.Sub(c.clock.Now())))
		c.reminders.Once(c.t.Context())
		c.Once(c.t.Context())
		for _, m := range c.sandbox.Inbox() {
			if _, known := c.arrived[m.Reference]; !known {
				c.arrived[m.Reference] = c.clock.Now()
			}
		}
	}
}

// sent returns what the gateway took, by number.
func (c *clinic) sent() map[string][]SandboxMessage {
	out := map[string][]SandboxMessage{}
	for _, m := range c.sandbox.Inbox() {
		out[m.To] = append(out[m.To], m)
	}
	return out
}

func eveningPlan(t testing.TB, m *task.Messages) task.Plan {
	t.Helper()
	s, findings := task.NewSchedule(1, task.Design{Messages: m, Rules: []task.Rule{{ID: "r", Questionnaire: "q|1", Anchor: "enrolment", Offset: "P0D", Repeat: &task.Repeat{Every: "P1D", Until: "P30D"},
		Windows:   []task.Window{{Opens: "20:00", Due: "21:00", Closes: "22:00", Grace: "PT1H"}},
		Reminders: []task.Reminder{{At: "opens", After: "PT0S"}, {At: "closes", After: "-PT30M"}}}}}, task.Known{})
	if len(findings) > 0 {
		t.Fatal(findings)
	}
	return task.Plan{s}
}

var fiveZones = []string{"Asia/Shanghai", "Asia/Kolkata", "Europe/Berlin", "America/Sao_Paulo", "America/New_York"}

// TestEvening: everybody's questionnaire opens at 20:00 by their own clocks, in five zones, while the gateway refuses, hangs and fails. Each
// participant gets each reminder once and in its minute where the gateway works; none comes in the quiet hours, after the answer or
// without consent; nothing personal is in a text. The long run has 10,000 participants.
func TestEvening(t *testing.T) {
	n := 200
	if os.Getenv("EPROD_TEST_LONG") != "" {
		n = 10_000
	}
	for dialect, shards := range testenv.Shards(t) {
		t.Run(dialect, func(t *testing.T) {
			start := july(8, 0, 30)
			c := newClinic(t, shards, start, eveningPlan(t, &task.Messages{Quiet: &task.Quiet{From: "21:45", Until: "08:00"}}), []string{TwilioName})
			c.enrol(n, fiveZones...)
			early, later, refusing := map[int64]bool{}, map[int64]bool{}, map[int64]bool{}
			for id := range c.people {
				switch {
				case id/5%10 == 1:
					early[id] = true // answers two minutes after the opening
				case id/5%10 == 2:
					later[id] = true // answers before the second reminder
				case id/5%10 == 3:
					refusing[id] = true
					contact := c.contacts[id]
					contact.Consents = map[string]bool{"email": true}
					c.contacts[id] = contact
				}
			}
			for z, name := range fiveZones {
				zone, err := task.LoadZone(name)
				if err != nil {
					t.Fatal(err)
				}
				opens := time.Date(2026, 7, 8, 20, 0, 0, 0, zone)
				mine := func(yield func(id int64)) {
					for id := range c.people {
						if int(id-100)%len(fiveZones) == z {
							yield(id)
						}
					}
				}
				c.to(opens.Add(-time.Second), 20*time.Minute)
				switch name {
				case "Europe/Berlin": // the gateway hangs for the minute, and takes some of what it does not answer
					c.command(SandboxCommand{Mode: ModeHang, Accept: true, Receipts: SandboxReceipts{Outcome: "none"}})
				case "America/Sao_Paulo": // it fails, and takes nothing
					c.command(SandboxCommand{Mode: ModeFail, Receipts: SandboxReceipts{Outcome: "none"}})
				default:
					c.command(SandboxCommand{Receipts: SandboxReceipts{Outcome: "none"}})
				}
				c.to(opens.Add(time.Minute), 10*time.Second)
				c.command(SandboxCommand{Receipts: SandboxReceipts{Outcome: "none"}})
				mine(func(id int64) {
					if early[id] {
						for _, one := range c.tasks(id) {
							if one.Date.Day == 8 {
								c.complete(one)
							}
						}
					}
				})
				c.to(opens.Add(80*time.Minute), 2*time.Minute)
				mine(func(id int64) {
					if later[id] {
						for _, one := range c.tasks(id) {
							if one.Date.Day == 8 {
								c.complete(one)
							}
						}
					}
				})
				c.to(opens.Add(100*time.Minute), 2*time.Minute)
			}
			c.judge(n, early, later, refusing)
		})
	}
}

// judge holds what the gateway took against what every participant was to get on 8 July.
func (c *clinic) judge(n int, early, later, refusing map[int64]bool) {
	t := c.t
	t.Helper()
	got := c.sent()
	late, prompt := map[string]int{}, map[string]int{}
	for id := range c.people {
		contact := c.contacts[id]
		zone, err := task.LoadZone(contact.Zone)
		if err != nil {
			t.Fatal(err)
		}
		kinds := map[string]int{}
		for _, m := range got[contact.Phone] {
			at := c.arrived[m.Reference].In(zone)
			kinds[m.Text[:20]]++
			if minute := at.Hour()*60 + at.Minute(); minute >= 21*60+45 || minute < 8*60 {
				t.Errorf("%d of %s is reminded at %v, in the quiet hours", id, contact.Zone, at)
			}
			if strings.Contains(m.Text+m.Params, canary) || strings.Contains(m.Text+m.Params, contact.Number) {
				t.Errorf("a message says who is meant: %s", m.Text+m.Params)
			}
			if at.Hour() == 20 && at.Minute() == 0 {
				prompt[contact.Zone]++
			} else if at.Hour() == 20 {
				late[contact.Zone]++
			}
		}
		total := 0
		for template, k := range kinds {
			total += k
			if k > 1 {
				t.Errorf("%d of %s got %s %d times", id, contact.Zone, template, k)
			}
		}
		most, least := 2, 1
		switch {
		case refusing[id]:
			most, least = 0, 0
		case early[id] || later[id]:
			most, least = 1, 0
		}
		if total > most || total < least {
			t.Errorf("%d of %s (answers early %v, later %v) got %d messages, want %d to %d", id, contact.Zone, early[id], later[id], total, least, most)
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	t.Logf("%d participants: first reminders in their minute %v, after it %v; decided %v", n, prompt, late, c.outcomes)
	for _, zone := range fiveZones[:2] { // where the gateway has always worked, everybody's came in its minute
		if want := n / len(fiveZones) * 9 / 10; prompt[zone] != want || late[zone] != 0 {
			t.Errorf("%s: %d came in their minute, %d after it; want %d", zone, prompt[zone], late[zone], want)
		}
	}
	if c.outcomes[queued] == 0 || c.outcomes[SkipConsent] == 0 {
		t.Errorf("decided %v: the test has not what it needs", c.outcomes)
	}
}

// TestReminderBudget: never more than the study's budget, and the rest says why.
func TestReminderBudget(t *testing.T) {
	for dialect, shards := range testenv.Shards(t) {
		t.Run(dialect, func(t *testing.T) {
			c := newClinic(t, shards, july(8, 12, 0), eveningPlan(t, &task.Messages{Budget: map[string]int{"sms": 7}}), []string{AliyunName})
			c.command(SandboxCommand{Receipts: SandboxReceipts{Outcome: "none"}})
			c.enrol(30, "UTC")
			c.to(july(8, 20, 3), 30*time.Second+time.Hour*0)
			if sent := len(c.sandbox.Inbox()); sent != 7 || c.outcomes[queued] != 7 || c.outcomes[SkipBudget] != 23 {
				t.Errorf("%d sent, decided %v; want 7 and 23", sent, c.outcomes)
			}
		})
	}
}

// TestOnlyWhoIsWaitedFor: what is in the queue of a gateway that stands still is not sent to those who have answered, or do not want it any
// more, by the time it works again.
func TestOnlyWhoIsWaitedFor(t *testing.T) {
	for dialect, shards := range testenv.Shards(t) {
		t.Run(dialect, func(t *testing.T) {
			c := newClinic(t, shards, july(8, 19, 0), eveningPlan(t, nil), []string{AliyunName})
			c.command(SandboxCommand{Mode: ModeThrottle, Receipts: SandboxReceipts{Outcome: "none"}})
			c.enrol(3, "UTC")
			c.to(july(8, 20, 2), 20*time.Second)
			if sent := len(c.sandbox.Inbox()); sent != 0 || c.outcomes[queued] != 3 {
				t.Fatalf("%d sent, decided %v", sent, c.outcomes)
			}
			for _, one := range c.tasks(100) {
				if one.Date.Day == 8 {
					c.complete(one)
				}
			}
			withdrawn := c.contacts[101]
			withdrawn.Consents = nil
			c.mu.Lock()
			c.contacts[101] = withdrawn
			c.mu.Unlock()
			c.command(SandboxCommand{Receipts: SandboxReceipts{Outcome: "none"}})
			c.to(july(8, 20, 20), 20*time.Second)
			if inbox := c.sandbox.Inbox(); len(inbox) != 1 || inbox[0].To != c.contacts[102].Phone {
				t.Errorf("sent %+v", inbox)
			}
			if gone := c.counted(" not_wanted"); gone != 2 {
				t.Errorf("%d were given up, want 2", gone)
			}
		})
	}
}

// TestRemindersAtOnce: two processes, one of which loses its answers, decide and send each reminder once; what a dead one had taken is
// taken over when its lease ends.
func TestRemindersAtOnce(t *testing.T) {
	for dialect, shards := range testenv.Shards(t) {
		t.Run(dialect, func(t *testing.T) {
			c := newClinic(t, shards, july(8, 19, 0), eveningPlan(t, nil), []string{AliyunName})
			c.command(SandboxCommand{Receipts: SandboxReceipts{Outcome: "none"}})
			c.enrol(60, "UTC")
			dying := NewReminders(c.reminders.config, c.reminders.ReminderParts)
			dying.Queue = forgetful{c.Service}
			dying.config.Batch, c.reminders.config.Batch = 5, 5
			c.clock.Advance(61 * time.Minute)
			var wg sync.WaitGroup
			for _, r := range []*Reminders{dying, c.reminders, c.reminders} {
				wg.Go(func() { r.Once(t.Context()) })
			}
			wg.Wait()
			c.clock.Advance(2 * time.Minute) // the leases of what failed are over
			for range 3 {
				c.reminders.Once(t.Context())
				c.Once(t.Context())
			}
			got := c.sent()
			for _, contact := range c.contacts {
				if n := len(got[contact.Phone]); n != 1 {
					t.Errorf("%s got %d messages", contact.Number, n)
				}
			}
			for id := range c.people {
				for _, one := range c.tasks(id) {
					if one.Date.Day != 8 {
						continue
					}
					kept, err := c.reminders.Store.Of(t.Context(), task.Key{Participant: id, Task: one.ID})
					if err != nil || len(kept) != 1 || kept[0].Outcome != queued || kept[0].Message == 0 {
						t.Errorf("of %d is kept %+v, %v", id, kept, err)
					}
				}
			}
		})
	}
}

// forgetful writes messages down and says that it could not.
type forgetful struct{ *Service }

func (f forgetful) Queue(ctx context.Context, r Request) (Status, bool, error) {
	if _, _, err := f.Service.Queue(ctx, r); err != nil {
		return Status{}, false, err
	}
	return Status{}, false, errs.Away("the answer", nil)
}

// TestRemindersAtTheDoor: staff see what became of each reminder, and why one was not sent.
func TestRemindersAtTheDoor(t *testing.T) {
	shards := testenv.Shards(t)["sqlite"]
	w := newDesk(t, shards, nil)
	key := task.Key{Participant: someone, Task: 5}
	store := &ReminderStore{Shards: shards}
	kept := []Reminded{{someone, 5, theStudy, "opens/0s/participant", "email", SkipConsent, 0, july(8, 20, 0)}, {someone, 5, theStudy, "opens/0s/participant", "sms", queued, 9, july(8, 20, 0)}}
	for range 2 { // the second changes nothing
		if err := store.Settle(t.Context(), shards.For(someone), kept, []Settled{{Key: key, Study: 3}}, july(8, 20, 1)); err != nil {
			t.Fatal(err)
		}
	}
	server := w.door()
	if err := server.CheckDocument(); err != nil {
		t.Error(err)
	}
	for who, want := range map[string]string{"staff 2": `{"rung":"opens/0s/participant","channel":"sms","outcome":"queued","message":"9","decidedAt":"2026-07-08T20:00:00Z"}`, "staff 9": `"not_found"`} {
		r := httptest.NewRequest("GET", "/api/v1/studies/3/participants/7/tasks/5/reminders", nil)
		r.Header.Set("X-Caller", who)
		rec := httptest.NewRecorder()
		server.Handler().ServeHTTP(rec, r)
		if !strings.Contains(rec.Body.String(), want) {
			t.Errorf("%s: %d %s, want %s", who, rec.Code, rec.Body, want)
		}
	}
}
