package task

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/eprod/eprod/internal/db"
)

// Studies tells which studies tasks are issued for: the active ones.
type Studies interface {
	ActiveStudies(ctx context.Context) ([]int64, error)
}

// Roster reads participants of a shard.
type Roster interface {
	// InBucket returns a study's participants of a bucket with ids above after, by id, up to limit.
	InBucket(ctx context.Context, shard *db.DB, study int64, bucket int, after int64, limit int) ([]Person, error)
	// People returns those of the ids that exist.
	People(ctx context.Context, ids []int64) ([]Person, error)
}

// GeneratorConfig bounds the issuing of tasks.
type GeneratorConfig struct {
	Horizon  time.Duration `koanf:"horizon"`  // how far ahead tasks are issued
	Step     time.Duration `koanf:"step"`     // by how much the horizon may fall short before it is moved on
	Interval time.Duration `koanf:"interval"` // how often the generator looks for work: the delay until a change is seen in the rows
	Lease    time.Duration `koanf:"lease"`    // how long a bucket stays with an instance that has stopped working
	Batch    int           `koanf:"batch"`    // participants of one transaction
}

// DefaultGeneratorConfig returns settings for some hundred thousand participants.
func DefaultGeneratorConfig() GeneratorConfig {
	return GeneratorConfig{Horizon: 48 * time.Hour, Step: 6 * time.Hour, Interval: 2 * time.Second, Lease: 30 * time.Second, Batch: 200}
}

// Validate returns every problem at once, each as "key: value: what would be right".
func (c GeneratorConfig) Validate() error {
	var problems []error
	bad := func(format string, args ...any) { problems = append(problems, fmt.Errorf(format, args...)) }
	if c.Step < time.Minute || c.Horizon <= c.Step || c.Horizon > 31*24*time.Hour {
		bad("horizon: %v: must be longer than step, %v, which is at least 1m, and at most 744h", c.Horizon, c.Step)
	}
	if c.Interval < 10*time.Millisecond {
		bad("interval: %v: must be 10ms or more", c.Interval)
	}
	if c.Lease < time.Second {
		bad("lease: %v: must be 1s or more", c.Lease)
	}
	if c.Batch < 1 || c.Batch > 2000 {
		bad("batch: %d: must be between 1 and 2000", c.Batch)
	}
	return errors.Join(problems...)
}

// GeneratorParts are what the generator needs. All are required.
type GeneratorParts struct {
	Store   *Store
	Engine  *Engine
	Plans   Plans
	Studies Studies
	Roster  Roster
	Owner   string // names this process among those that share the buckets
	Now     func() time.Time
	Logger  *slog.Logger
}

// Generator issues tasks as rows: ahead of their time as far as the horizon, and anew where what they follow from has changed. Any
// number of processes may run one: a bucket is one's at a time, and what two write twice is the same.
type Generator struct {
	GeneratorParts
	config GeneratorConfig
}

// NewGenerator returns a generator.
func NewGenerator(config GeneratorConfig, parts GeneratorParts) *Generator {
	return &Generator{GeneratorParts: parts, config: config}
}

// Run issues tasks until ctx ends; it finishes the transaction in hand.
func (g *Generator) Run(ctx context.Context) error {
	tick := time.NewTicker(g.config.Interval)
	defer tick.Stop()
	for {
		if _, err := g.Once(ctx); err != nil && ctx.Err() == nil {
			g.Logger.WarnContext(ctx, "tasks wait to be issued", "error", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// Work is what one pass has done.
type Work struct{ Participants, Created, Moved, Cancelled int }

func (w *Work) add(o Work) {
	w.Participants += o.Participants
	w.Created += o.Created
	w.Moved += o.Moved
	w.Cancelled += o.Cancelled
}

const purposeTasks = "tasks"

// Once does what there is to do now, on every shard that answers.
func (g *Generator) Once(ctx context.Context) (Work, error) {
	var total Work
	studies, err := g.Studies.ActiveStudies(ctx)
	if err != nil || len(studies) == 0 {
		return total, err
	}
	plans := make(map[int64]Plan, len(studies))
	var problems []error
	for _, study := range studies {
		plan, err := g.Plans.Plan(ctx, study)
		if err != nil {
			problems = append(problems, fmt.Errorf("schedule of study %d: %w", study, err))
			continue
		}
		plans[study] = plan
	}
	for _, shard := range g.Store.Shards.All() {
		if ctx.Err() != nil {
			break
		}
		p := pass{g, shard, plans, map[int]bool{}}
		done, err := p.wishes(ctx, studies)
		total.add(done)
		problems = append(problems, err)
		done, err = p.horizons(ctx, studies)
		total.add(done)
		problems = append(problems, err)
	}
	return total, errors.Join(problems...)
}

// pass is one look at one shard.
type pass struct {
	*Generator
	shard *db.DB
	plans map[int64]Plan
	held  map[int]bool // buckets asked for in this pass
}

// hold takes or renews the lease of a bucket.
func (p *pass) hold(ctx context.Context, bucket int) (bool, error) {
	if mine, asked := p.held[bucket]; asked && !mine {
		return false, nil
	}
	now := p.Now()
	mine, err := p.Store.Lease(ctx, bucket, purposeTasks, p.Owner, now, now.Add(p.config.Lease))
	p.held[bucket] = mine
	return mine, err
}

// wishes issues anew what was asked for.
func (p *pass) wishes(ctx context.Context, studies []int64) (Work, error) {
	var total Work
	wishes, err := p.Store.Wishes(ctx, p.shard, studies, 50*p.config.Batch)
	for len(wishes) > 0 && err == nil && ctx.Err() == nil {
		n := 1
		for n < len(wishes) && n < p.config.Batch && wishes[n].Bucket == wishes[0].Bucket && wishes[n].Study == wishes[0].Study {
			n++
		}
		batch := wishes[:n]
		wishes = wishes[n:]
		plan, known := p.plans[batch[0].Study]
		if !known || !p.here(batch[0].Bucket) {
			continue
		}
		mine, failed := p.hold(ctx, batch[0].Bucket)
		if err = failed; err != nil || !mine {
			continue
		}
		ids := make([]int64, n)
		for i, w := range batch {
			ids[i] = w.Participant
		}
		people, failed := p.Roster.People(ctx, ids)
		if err = failed; err != nil {
			break
		}
		now := p.instant()
		first := &Horizon{batch[0].Bucket, batch[0].Study, plan.Mark(), now.Add(p.config.Horizon)}
		done, failed := p.issue(ctx, plan, batch[0].Study, batch[0].Bucket, people, time.Time{}, issue{at: now, wishes: batch, first: first})
		total.add(done)
		err = stayed(failed)
	}
	return total, err
}

// here reports whether a bucket is on the shard; what there is of others is a copy.
func (p *pass) here(bucket int) bool { return p.Store.Shards.ForBucket(bucket) == p.shard }

// stayed is an error but for that of a bucket that has moved: there it goes on with the next pass.
func stayed(err error) error {
	if db.IsMoved(err) {
		return nil
	}
	return err
}

func (p *pass) instant() time.Time { return p.Now().UTC().Truncate(time.Microsecond) }

// horizons moves the horizon of buckets on, and looks again at those whose plan has changed.
func (p *pass) horizons(ctx context.Context, studies []int64) (Work, error) {
	var total Work
	for _, study := range studies {
		plan, known := p.plans[study]
		if !known || ctx.Err() != nil {
			continue
		}
		mark := plan.Mark()
		behind, err := p.Store.Behind(ctx, p.shard, study, mark, p.Now().Add(p.config.Horizon-p.config.Step))
		if err != nil {
			return total, err
		}
		for _, h := range behind {
			if ctx.Err() != nil {
				break
			}
			if !p.here(h.Bucket) {
				continue
			}
			mine, err := p.hold(ctx, h.Bucket)
			if err != nil {
				return total, err
			}
			if !mine {
				continue
			}
			done, err := p.bucket(ctx, plan, mark, h)
			total.add(done)
			if err := stayed(err); err != nil {
				return total, err
			}
		}
	}
	return total, nil
}

// bucket issues what a study's participants of one bucket have up to the horizon. Where it stops half-way the next pass begins
// anew: what is there stays.
func (p *pass) bucket(ctx context.Context, plan Plan, mark int64, h Horizon) (Work, error) {
	var total Work
	now := p.instant()
	from := h.Until // as far as the rows go
	if h.Mark != mark {
		from = time.Time{}
	}
	h.Mark, h.Until = mark, now.Add(p.config.Horizon)
	for after := int64(0); ; {
		people, err := p.Roster.InBucket(ctx, p.shard, h.Study, h.Bucket, after, p.config.Batch)
		if err != nil {
			return total, err
		}
		last := len(people) < p.config.Batch
		what := issue{at: now}
		if last {
			what.horizon = &h
		}
		done, err := p.issue(ctx, plan, h.Study, h.Bucket, people, from, what)
		total.add(done)
		if err != nil || last {
			return total, err
		}
		after = people[len(people)-1].ID
		if mine, err := p.hold(ctx, h.Bucket); err != nil || !mine || ctx.Err() != nil {
			return total, err
		}
	}
}

// issue sets the rows of people, all of one study and bucket, right from an instant (zero: all) to the horizon, in one transaction.
func (p *pass) issue(ctx context.Context, plan Plan, study int64, bucket int, people []Person, from time.Time, what issue) (Work, error) {
	var work Work
	now := what.at
	computed := make([][]Task, len(people))
	ids := make([]int64, len(people))
	begin := from
	if begin.IsZero() {
		begin = now.AddDate(-30, 0, 0)
	}
	for i, person := range people {
		ids[i] = person.ID
		for _, t := range p.Engine.Generate(plan, person, begin, now.Add(p.config.Horizon)) {
			if from.IsZero() || !t.OpensAt.Before(from) {
				computed[i] = append(computed[i], t)
			}
		}
	}
	err := p.Store.issue(context.WithoutCancel(ctx), p.shard, study, bucket, ids, from, func(rows map[int64]map[int64]Issued) *issue {
		i := what
		i.remind = make(map[int64]time.Time)
		for n, person := range people {
			d := difference(rows[person.ID], computed[n], now)
			i.create, i.move = append(i.create, d.Create...), append(i.move, d.Move...)
			for _, id := range d.Cancel {
				i.cancel = append(i.cancel, Key{person.ID, id})
			}
		}
		for _, list := range [][]Task{i.create, i.move} {
			for n := range list {
				i.remind[list[n].ID] = reminded(plan.Ladder(&list[n]), &list[n], now)
			}
		}
		work = Work{len(people), len(i.create), len(i.move), len(i.cancel)}
		return &i
	})
	if err != nil {
		return Work{}, err
	}
	return work, nil
}
