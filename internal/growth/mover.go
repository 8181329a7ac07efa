package growth

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/eprod/eprod/internal/db"
)

// Mover moves buckets. Every step may be the last of its process; Run goes on from what the shards say. Not for concurrent use.
type Mover struct {
	Store  *Store
	Shards *db.Shards
	Config Config
	Now    func() time.Time
	Logger *slog.Logger
	// Step is told before each step begins; an error of it ends the run there. Nil: nobody listens.
	Step func(step string) error
}

// run is one process' work on one move.
type run struct {
	*Mover
	move  Move
	fence int64
}

const pauseBetween = 100 * time.Millisecond // of what is asked again

// Run moves what a move has left, under a fence that is greater than that of everybody who worked on it before, and returns when
// every bucket is on the target and its old copy is gone. After an error, or a kill, it may run again, or Cancel.
func (m *Mover) Run(ctx context.Context, id, fence int64) error {
	r, err := m.take(ctx, id, fence, Moving)
	if err != nil {
		return err
	}
	var left []int
	for i, b := range r.move.Buckets {
		if b.Phase == Waiting || b.Phase == Copying {
			left = append(left, i)
		}
	}
	slices.SortStableFunc(left, func(a, b int) int { // a group has one source
		return slices.Index(m.names(), r.move.Buckets[a].Source) - slices.Index(m.names(), r.move.Buckets[b].Source)
	})
	for len(left) > 0 {
		n := 1
		for n < len(left) && n < m.Config.Group && r.move.Buckets[left[n]].Source == r.move.Buckets[left[0]].Source {
			n++
		}
		if err := r.group(ctx, left[:n]); err != nil {
			return err
		}
		left = left[n:]
	}
	if err := r.clear(ctx); err != nil {
		return err
	}
	return m.Store.Take(ctx, id, fence, Done, m.Now())
}

func (m *Mover) names() []string { return names(m.Shards) }

func (m *Mover) take(ctx context.Context, id, fence int64, state State) (*run, error) {
	move, err := m.Store.Move(ctx, id)
	if err != nil {
		return nil, err
	}
	if move.Over() {
		return nil, fmt.Errorf("move %d is over: %s", id, move.State)
	}
	if move.State == Undoing {
		state = Undoing // once begun, it is undone
	}
	if err := m.Store.Take(ctx, id, fence, state, m.Now()); err != nil {
		return nil, err
	}
	r := &run{Mover: m, move: move, fence: fence}
	if move.State == Undoing {
		return r, r.undo(ctx)
	}
	return r, nil
}

func (r *run) step(ctx context.Context, format string, args ...any) error {
	text := fmt.Sprintf(format, args...)
	r.Logger.InfoContext(ctx, "move of shards", "move", r.move.ID, "step", text)
	if r.Step != nil {
		return r.Step(text)
	}
	return ctx.Err()
}

func (m *Mover) shard(name string) (*db.DB, error) {
	for _, d := range m.Shards.All() {
		if d.Name == name {
			return d, nil
		}
	}
	return nil, fmt.Errorf("the shard %q is not in the settings of this process", name)
}

// keep writes down how far a bucket is.
func (r *run) keep(ctx context.Context, i int) error {
	return r.Store.Keep(ctx, r.move.ID, r.fence, r.move.Buckets[i], r.Now())
}

// at is a group of buckets with its two shards.
type group struct {
	*run
	copier
	places  []int // in the move's list
	buckets []int
}

// group copies and switches buckets of one source.
func (r *run) group(ctx context.Context, places []int) error {
	source, err := r.shard(r.move.Buckets[places[0]].Source)
	if err != nil {
		return err
	}
	target, err := r.shard(r.move.Target)
	if err != nil {
		return err
	}
	g := &group{run: r, copier: copier{source, target, r.fence}}
	for _, i := range places {
		b := r.move.Buckets[i].Bucket
		for _, d := range []*db.DB{source, target} {
			if err := raise(ctx, d, []int{b}, r.fence); err != nil {
				return err
			}
		}
		switched, err := g.settled(ctx, b)
		if err != nil {
			return err
		}
		if switched {
			if err := g.moved(ctx, i); err != nil {
				return err
			}
			continue
		}
		g.places, g.buckets = append(g.places, i), append(g.buckets, b)
	}
	if len(g.buckets) == 0 {
		return nil
	}
	if err := g.open(ctx); err != nil {
		return err
	}
	if err := g.copyAll(ctx); err != nil {
		return err
	}
	if err := g.verify(ctx); err != nil {
		return err
	}
	for _, i := range g.places {
		if err := g.switchOver(ctx, i); err != nil {
			return err
		}
		if err := g.moved(ctx, i); err != nil {
			return err
		}
	}
	return nil
}

// settled brings a bucket that an earlier process left half switched to one side, and reports whether that is the target.
func (g *group) settled(ctx context.Context, bucket int) (bool, error) {
	gone, err := turn(ctx, g.source, bucket, g.fence, db.Gone)
	if err != nil || gone {
		return gone, err
	}
	if _, err := turn(ctx, g.target, bucket, g.fence, db.Arriving, db.Here); err != nil {
		return false, err
	}
	_, err = turn(ctx, g.source, bucket, g.fence, db.Watched, db.Held)
	return false, err
}

// open announces a group to every process and lets its writers note whom they change. It begins nothing while a study is being
// closed anywhere; and once the first of the group has set off, none can be on these shards.
func (g *group) open(ctx context.Context) error {
	for {
		if err := g.announce(ctx); err != nil {
			return err
		}
		if err := g.step(ctx, "watch %s", BucketList(g.buckets)); err != nil {
			return err
		}
		off, err := g.watch(ctx)
		if err != nil || off {
			return err
		}
		g.Logger.InfoContext(ctx, "a study is being closed; the buckets set off afterwards", "buckets", BucketList(g.buckets))
		if err := g.withdraw(ctx); err != nil {
			return err
		}
	}
}

func (g *group) announce(ctx context.Context) error {
	if err := g.step(ctx, "announce %s", BucketList(g.buckets)); err != nil {
		return err
	}
	if err := g.stillness(ctx); err != nil {
		return err
	}
	version, err := g.Store.Change(ctx, g.move.ID, g.fence, g.buckets, func(int) (string, string) { return g.source.Name, g.target.Name })
	if err != nil {
		return err
	}
	for _, i := range g.places {
		g.move.Buckets[i].Phase = Copying
		if err := g.keep(ctx, i); err != nil {
			return err
		}
	}
	return g.everybody(ctx, version, g.target.Name)
}

// watch lets the writers of the group note whom they change. It reports false where a study has begun to be closed since nothing was.
func (g *group) watch(ctx context.Context) (bool, error) {
	for _, b := range g.buckets {
		for _, side := range []struct {
			shard    *db.DB
			to, from db.BucketStanding
		}{{g.target, db.Arriving, db.Away}, {g.source, db.Watched, db.Here}} {
			off, err := setOff(ctx, side.shard, b, g.fence, side.to, side.from)
			if err != nil || !off {
				return false, err
			}
		}
	}
	return true, nil
}

// withdraw leaves no bucket of the group on its way whose writers do not note: the study that is being closed waits for it.
func (g *group) withdraw(ctx context.Context) error {
	for _, b := range g.buckets {
		watched, err := turn(ctx, g.source, b, g.fence, db.Watched)
		if err != nil {
			return err
		}
		if !watched {
			if err := g.uncopy(ctx, b); err != nil {
				return err
			}
		}
	}
	return nil
}

// stillness waits until no study is being closed. Whoever closes one waits until nothing is on its way on any shard, so nothing may be
// while this waits: what was switched is cleared first, and a group that was begun before goes on.
func (g *group) stillness(ctx context.Context) error {
	for {
		busy := false
		for _, d := range g.Shards.All() {
			one, err := closing(ctx, d)
			if err != nil {
				return err
			}
			busy = busy || one
		}
		if !busy {
			return nil
		}
		begun, err := g.begun(ctx)
		if err != nil || begun {
			return err
		}
		if err := g.clear(ctx); err != nil {
			return err
		}
		if err := wait(ctx, g.Config.Poll); err != nil {
			return err
		}
	}
}

// begun reports whether an earlier process has left buckets of the group on their way.
func (g *group) begun(ctx context.Context) (bool, error) {
	source, err := g.source.Standings(ctx)
	if err != nil {
		return false, err
	}
	target, err := g.target.Standings(ctx)
	return slices.ContainsFunc(g.buckets, func(b int) bool { return source[b] == db.Watched || target[b] == db.Arriving }), err
}

// everybody waits until every process that is alive goes by a version of the map. One whose beat stops for as long as its lease is
// dead, or reads nothing without asking the shards. A process that does not know the shard by that name is behind as well.
func (m *Mover) everybody(ctx context.Context, version int64, knows string) error {
	type pulse struct {
		beat int64
		at   time.Time
	}
	pulses := make(map[string]pulse)
	began, told := time.Now(), time.Duration(0)
	for {
		all, err := m.Store.Processes(ctx)
		if err != nil {
			return err
		}
		behind := 0
		for _, p := range all {
			now := time.Now()
			was, seen := pulses[p.ID]
			if !seen || was.beat != p.Beat {
				was = pulse{p.Beat, now}
				pulses[p.ID] = was
			}
			if p.Version >= version && slices.Contains(p.Knows, knows) {
				continue
			}
			if now.Sub(was.at) < m.Config.Lease+m.Config.Lease/4 {
				behind++
				if waiting := now.Sub(began); waiting > told+10*time.Second {
					told = waiting
					m.Logger.WarnContext(ctx, "a process is waited for", "process", p.ID, "version", p.Version, "knows", p.Knows)
				}
				continue
			}
			m.Logger.WarnContext(ctx, "a process is silent; it is not waited for any longer", "process", p.ID)
			if err := m.Store.Leave(ctx, p.ID); err != nil {
				return err
			}
		}
		if behind == 0 {
			return nil
		}
		if err := wait(ctx, min(pauseBetween, m.Config.Poll)); err != nil {
			return err
		}
	}
}

// moved writes a switched bucket into the map.
func (g *group) moved(ctx context.Context, i int) error {
	b := &g.move.Buckets[i]
	if _, err := g.Store.Change(ctx, g.move.ID, g.fence, []int{b.Bucket}, func(int) (string, string) { return g.target.Name, g.source.Name }); err != nil {
		return err
	}
	b.Phase = Switched
	return g.keep(ctx, i)
}

func wait(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
