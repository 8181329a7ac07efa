package notify

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/eprod/eprod/internal/db"
	"github.com/eprod/eprod/internal/errs"
	"github.com/eprod/eprod/internal/task"
	"github.com/eprod/eprod/internal/trace"
)

// Contact is how a participant can be reached, and where.
type Contact struct {
	Study, Site    int64
	Number         string // participant number
	Phone, Email   string
	Consents       map[string]bool // by channel
	Language, Zone string          // that apply now
	LeftStudy      bool
}

// SiteContact is where a site is told of what its participants have missed.
type SiteContact struct{ Email, Phone, Protocol, Language, Zone string }

// Contacts reads how people can be reached, as it is now: a consent that was withdrawn counts at once.
type Contacts interface {
	// Contacts returns those of the participants that exist.
	Contacts(ctx context.Context, participants []int64) (map[int64]Contact, error)
	Site(ctx context.Context, study, site int64) (SiteContact, error)
}

// Tasks are the rows of tasks; see task.Store.
type Tasks interface {
	Remindable(ctx context.Context, shard *db.DB, now, lease time.Time, limit int) ([]task.Reminding, error)
	Unanswered(ctx context.Context, key task.Key, now time.Time) (bool, error)
}

// Plans returns the versions of a study's schedule.
type Plans interface {
	Plan(ctx context.Context, study int64) (task.Plan, error)
}

// Queue takes messages; see Service.Queue.
type Queue interface {
	Queue(ctx context.Context, r Request) (status Status, fresh bool, err error)
}

// Spending grants messages of a study's daily budget; see Budget.Take.
type Spending interface {
	Take(ctx context.Context, study int64, channel Channel, day string, n, limit int) (granted int, err error)
}

// ReminderMeter counts what became of reminders.
type ReminderMeter interface{ Reminder(outcome string) }

// ReminderConfig bounds the reminding.
type ReminderConfig struct {
	Interval time.Duration `koanf:"interval"` // how often reminders that are due are looked for
	Batch    int           `koanf:"batch"`    // tasks that are taken from one shard at once
	Lease    time.Duration `koanf:"lease"`    // after which tasks that somebody had taken are looked at again
	Workers  int           `koanf:"workers"`  // messages that are written down at once
}

// DefaultReminderConfig returns settings for thousands of reminders in one minute.
func DefaultReminderConfig() ReminderConfig {
	return ReminderConfig{Interval: time.Second, Batch: 500, Lease: time.Minute, Workers: 8}
}

// Validate returns every problem at once, each as "key: value: what would be right".
func (c ReminderConfig) Validate() error {
	var problems []error
	bad := func(format string, args ...any) { problems = append(problems, fmt.Errorf(format, args...)) }
	if c.Interval < 10*time.Millisecond || c.Interval > time.Minute {
		bad("interval: %v: must be between 10ms and 1m", c.Interval)
	}
	if c.Lease < time.Second {
		bad("lease: %v: must be 1s or more", c.Lease)
	}
	if c.Batch < 1 || c.Batch > 5000 {
		bad("batch: %d: must be between 1 and 5000", c.Batch)
	}
	if c.Workers < 1 || c.Workers > 64 {
		bad("workers: %d: must be between 1 and 64", c.Workers)
	}
	return errors.Join(problems...)
}

// ReminderParts are what reminding needs. All are required.
type ReminderParts struct {
	Shards   *db.Shards
	Tasks    Tasks
	Store    *ReminderStore
	Plans    Plans
	Engine   *task.Engine
	Contacts Contacts
	Queue    Queue
	Budget   Spending
	Now      func() time.Time
	Meter    ReminderMeter
	Logger   *slog.Logger
}

// Reminders decides who is reminded of what and when. Any number of processes may run one: a task is one's at a time, and a message
// that two write down is one.
type Reminders struct {
	ReminderParts
	config ReminderConfig
}

// NewReminders returns reminders.
func NewReminders(config ReminderConfig, parts ReminderParts) *Reminders {
	return &Reminders{ReminderParts: parts, config: config}
}

// Run reminds until ctx ends; it finishes the batch in hand.
func (r *Reminders) Run(ctx context.Context) error {
	tick := time.NewTicker(r.config.Interval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		r.Once(ctx)
	}
}

// Once looks at every task whose reminder is due now, and returns how many there were.
func (r *Reminders) Once(ctx context.Context) int {
	total := 0
	for _, shard := range r.Shards.All() {
		for ctx.Err() == nil {
			n, err := r.batch(context.WithoutCancel(ctx), shard)
			total += n
			if err != nil {
				r.Logger.WarnContext(ctx, "reminders wait", "database", shard.Name, "error", err)
				break
			}
			if n < r.config.Batch {
				break
			}
		}
	}
	return total
}

// round is one batch of tasks that were claimed together.
type round struct {
	*Reminders
	now, lease time.Time
	contacts   map[int64]Contact
	plans      map[int64]task.Plan
	decided    map[task.Key]map[string]bool
}

func (r *Reminders) batch(ctx context.Context, shard *db.DB) (int, error) {
	now := r.Now().UTC().Truncate(time.Microsecond)
	b := round{Reminders: r, now: now, lease: now.Add(r.config.Lease), plans: make(map[int64]task.Plan)}
	due, err := r.Tasks.Remindable(ctx, shard, now, b.lease, r.config.Batch)
	if err != nil || len(due) == 0 {
		return 0, err
	}
	ctx, span := trace.Begin(ctx, "remind", trace.Internal)
	span.Set(trace.String("db.namespace", shard.Name), trace.Int("eprod.tasks", int64(len(due))))
	err = b.remind(ctx, shard, due)
	span.End(err)
	return len(due), err
}

// remind decides about the tasks of a batch, and writes down what was decided.
func (b *round) remind(ctx context.Context, shard *db.DB, due []task.Reminding) error {
	if err := b.read(ctx, shard, due); err != nil {
		return err
	}
	var reminded []Reminded
	var settled []Settled
	var wanted []wish
	for i := range due {
		t := &due[i]
		key := task.Key{Participant: t.Participant, Task: t.ID}
		contact, known := b.contacts[t.Participant]
		if !known || contact.LeftStudy {
			settled = append(settled, Settled{Key: key, Study: t.Study})
			continue
		}
		plan := b.plans[t.Study]
		version := plan.Current()
		s := situation{task: *t, ladder: plan.Ladder(&t.Task), timing: version.Messages(), zone: b.Engine.Zone(contact.Zone), decided: b.decided[key], now: b.now}
		decisions, next := s.decide()
		settled = append(settled, Settled{key, t.Study, next})
		for _, d := range decisions {
			list, skipped := b.addressed(ctx, t, &d, &contact)
			wanted, reminded = append(wanted, list...), append(reminded, skipped...)
		}
	}
	sent, err := b.send(ctx, wanted)
	reminded = append(reminded, sent...)
	if err != nil {
		// What was written down is there; the tasks are looked at again when the lease ends, and nothing is written twice.
		return err
	}
	for _, m := range reminded {
		b.Meter.Reminder(m.Outcome)
	}
	return b.Store.Settle(ctx, shard, reminded, settled, b.lease)
}

// read gets what the decisions about a batch need.
func (b *round) read(ctx context.Context, shard *db.DB, due []task.Reminding) (err error) {
	people := make([]int64, 0, len(due))
	keys := make([]task.Key, 0, len(due))
	seen := make(map[int64]bool)
	for i := range due {
		t := &due[i]
		keys = append(keys, task.Key{Participant: t.Participant, Task: t.ID})
		if !seen[t.Participant] {
			seen[t.Participant] = true
			people = append(people, t.Participant)
		}
		if _, known := b.plans[t.Study]; !known {
			if b.plans[t.Study], err = b.Plans.Plan(ctx, t.Study); err != nil {
				return err
			}
		}
	}
	if b.contacts, err = b.Contacts.Contacts(ctx, people); err != nil {
		return err
	}
	b.decided, err = b.Store.Decided(ctx, shard, keys)
	return err
}

// wish is a message that is to be written down.
type wish struct {
	reminded Reminded
	request  Request
	limit    int // messages of the study's day on its channel
	limited  bool
}

// addressed turns a decision into a message for each of its channels, or into the reason why there is none.
func (b *round) addressed(ctx context.Context, t *task.Reminding, d *decision, contact *Contact) (wanted []wish, skipped []Reminded) {
	plan := b.plans[t.Study]
	version := plan.Current()
	timing := version.Messages()
	for _, channel := range d.rung.Channels {
		m := Reminded{t.Participant, t.ID, t.Study, d.rung.Name, channel, d.skip, 0, b.now}
		w := wish{request: Request{Study: t.Study, Participant: t.Participant, Channel: Channel(channel), Purpose: purpose(t.ID, d.rung.Name, channel), Template: templateOf(&d.rung)}}
		w.limit, w.limited = timing.Budget[channel], false
		if _, w.limited = timing.Budget[channel]; m.Outcome == "" {
			m.Outcome = b.address(ctx, t, d, contact, &w.request)
		}
		if m.Outcome != "" {
			skipped = append(skipped, m)
			continue
		}
		w.reminded = m
		wanted = append(wanted, w)
	}
	return wanted, skipped
}

// address fills in to whom and what, or says why not.
func (b *round) address(ctx context.Context, t *task.Reminding, d *decision, contact *Contact, r *Request) string {
	addresses := map[Channel]string{SMS: contact.Phone, Email: contact.Email}
	zone, language := b.Engine.Zone(contact.Zone), contact.Language
	if d.rung.To == task.ToSite {
		site, err := b.Contacts.Site(ctx, contact.Study, contact.Site)
		if err != nil {
			b.Logger.WarnContext(ctx, "a site's address cannot be read", "study", contact.Study, "error", err)
			return SkipAddress
		}
		addresses, language = map[Channel]string{SMS: site.Phone, Email: site.Email}, site.Language
		r.Params = map[string]string{"study": site.Protocol, "number": contact.Number, "until": untilText(t.ClosesAt, b.now, b.Engine.Zone(site.Zone))}
	} else {
		if !contact.Consents[string(r.Channel)] {
			return SkipConsent
		}
		r.Params = map[string]string{"until": untilText(t.ClosesAt, b.now, zone)}
	}
	if r.To, r.Language = addresses[r.Channel], language; r.To == "" {
		return SkipAddress
	}
	return ""
}

// send writes messages down, as many as the budgets allow.
func (b *round) send(ctx context.Context, wanted []wish) ([]Reminded, error) {
	type purse struct {
		study   int64
		channel Channel
	}
	granted, counted := make(map[purse]int), make(map[purse]int)
	day := b.now.Format(time.DateOnly)
	for i := range wanted {
		if w := &wanted[i]; w.limited {
			counted[purse{w.request.Study, w.request.Channel}]++
		}
	}
	for p, n := range counted {
		limit := 0
		for i := range wanted {
			if w := &wanted[i]; w.request.Study == p.study && w.request.Channel == p.channel {
				limit = w.limit
			}
		}
		got, err := b.Budget.Take(ctx, p.study, p.channel, day, n, limit)
		if err != nil {
			return nil, err
		}
		granted[p] = got
	}
	out := make([]Reminded, len(wanted))
	var all errgroup.Group
	all.SetLimit(b.config.Workers)
	for i := range wanted {
		w := &wanted[i]
		out[i] = w.reminded
		if w.limited {
			p := purse{w.request.Study, w.request.Channel}
			if granted[p] == 0 {
				out[i].Outcome = SkipBudget
				continue
			}
			granted[p]--
		}
		all.Go(func() error {
			status, _, err := b.Queue.Queue(ctx, w.request)
			switch kind := errs.KindOf(err); {
			case db.IsClosed(err):
				out[i].Outcome = SkipStudy
				return nil
			case err != nil && kind == errs.Unprocessable:
				out[i].Outcome = SkipGateway
				return nil
			case err != nil && kind == errs.Invalid: // the message itself is wrong, and will be
				b.Logger.WarnContext(ctx, "a reminder cannot be sent", "participant", w.request.Participant, "task", w.reminded.Task, "error", err)
				out[i].Outcome = SkipAddress
				return nil
			}
			out[i].Outcome, out[i].Message = queued, status.ID
			return err
		})
	}
	return out, all.Wait()
}

// StillDue is the gate for reminders. It is safe for concurrent use.
type StillDue struct {
	Tasks    Tasks
	Contacts Contacts
	Now      func() time.Time
}

// Wanted reports whether a message that was written down is still to be sent: a reminder of a task that was answered, taken back or
// closed meanwhile is not, and neither is one to somebody who has withdrawn the consent. Other messages always are.
func (w *StillDue) Wanted(ctx context.Context, d Delivery) (bool, error) {
	id, toParticipant, ok := reminderOf(d.Purpose)
	if !ok || !toParticipant {
		return true, nil
	}
	waiting, err := w.Tasks.Unanswered(ctx, task.Key{Participant: d.Participant, Task: id}, w.Now())
	if err != nil || !waiting {
		return false, err
	}
	contacts, err := w.Contacts.Contacts(ctx, []int64{d.Participant})
	if err != nil {
		return false, err
	}
	return contacts[d.Participant].Consents[string(d.Channel)], nil
}
