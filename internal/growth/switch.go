package growth

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/eprod/eprod/internal/db"
	"github.com/eprod/eprod/internal/errs"
)

const switchTries = 60

// switchOver moves the writers of a bucket: they are held, what they changed last is copied and compared, and one row of the source
// says that the bucket is gone. What does not fit into the time that writers may wait is tried again.
func (g *group) switchOver(ctx context.Context, i int) error {
	b := &g.move.Buckets[i]
	if err := g.step(ctx, "switch %d", b.Bucket); err != nil {
		return err
	}
	var last, err error
	for range switchTries {
		if err = g.catchUp(ctx, []int{b.Bucket}); err != nil {
			return err
		}
		began := time.Now()
		b.Holds++
		var gone bool
		if last = g.held(ctx, b.Bucket); last != nil {
			gone, err = g.release(ctx, b.Bucket)
		}
		b.Held = max(b.Held, time.Since(began))
		if last == nil || err != nil || gone {
			return err
		}
		var notYet errNotYet
		if !errors.As(last, &notYet) && errs.KindOf(last) != errs.Unavailable && !errors.Is(last, context.DeadlineExceeded) || ctx.Err() != nil {
			return last
		}
		g.Logger.InfoContext(ctx, "a bucket is switched later", "bucket", b.Bucket, "why", last.Error())
		if err := wait(ctx, 5*pauseBetween); err != nil {
			return err
		}
	}
	return fmt.Errorf("bucket %d cannot be switched within %v: %w; the move can be resumed", b.Bucket, g.Config.Hold, last)
}

// held does what happens while the writers of a bucket wait.
func (g *group) held(ctx context.Context, bucket int) error {
	ctx, cancel := context.WithTimeout(ctx, g.Config.share())
	defer cancel()
	if waiting, err := spooled(ctx, g.source, bucket); err != nil || waiting {
		return orNotYet(err, "submissions of the bucket wait in the spool for the log")
	}
	if err := hold(ctx, g.source, bucket, g.fence, g.Config.share()); err != nil {
		return err
	}
	if err := g.step(ctx, "held %d", bucket); err != nil {
		return err
	}
	if waiting, err := spooled(ctx, g.source, bucket); err != nil || waiting {
		return orNotYet(err, "submissions of the bucket wait in the spool for the log")
	}
	notes, err := changed(ctx, g.source, []int{bucket}, 10*fewChanges)
	if err != nil {
		return err
	}
	if len(notes) == 10*fewChanges {
		return errNotYet{"too many participants have changed"}
	}
	ids := make([]int64, len(notes))
	for i, n := range notes {
		ids[i] = n.ParticipantID
	}
	if _, err := g.over(ctx, ids, g.sync); err != nil {
		return err
	}
	if d, err := g.over(ctx, ids, g.compare); err != nil || len(d.differ) > 0 {
		return orNotYet(err, "rows differ that nobody may write")
	}
	if err := g.syncBucket(ctx, bucket); err != nil {
		return err
	}
	if err := g.studies(ctx); err != nil {
		return err
	}
	if err := mustTurn(ctx, g.target, bucket, g.fence, db.Here, db.Arriving); err != nil {
		return err
	}
	if err := g.step(ctx, "opened %d", bucket); err != nil {
		return err
	}
	gone, err := turn(ctx, g.source, bucket, g.fence, db.Gone, db.Held)
	if err != nil || !gone {
		return orNotYet(err, "the hold was over before the switch")
	}
	return g.step(ctx, "gone %d", bucket)
}

func orNotYet(err error, why string) error {
	if err != nil {
		return err
	}
	return errNotYet{why}
}

// studies holds how studies stand at the source against the target: a locked study must stay locked.
func (g *group) studies(ctx context.Context) error {
	is, err := standings(ctx, g.source)
	if err != nil {
		return err
	}
	has, err := standings(ctx, g.target)
	if err != nil {
		return err
	}
	if !maps.Equal(is, has) {
		return errNotYet{"studies stand differently on the two shards"}
	}
	return nil
}

// release gives a bucket back to its writers unless it has been switched after all; it reports which.
func (g *group) release(ctx context.Context, bucket int) (gone bool, err error) {
	is, err := standingOf(ctx, g.source, bucket)
	if err != nil {
		return false, err
	}
	if is == db.Watched { // not held, or not any more: a lock on the source's row would wait for a slow writer, and all others behind it
		_, err = turn(ctx, g.target, bucket, g.fence, db.Arriving, db.Here)
		return false, err
	}
	if gone, err = turn(ctx, g.source, bucket, g.fence, db.Gone); err != nil || gone {
		return gone, err
	}
	// The target first: the writers go on at the source as soon as it says so.
	if _, err = turn(ctx, g.target, bucket, g.fence, db.Arriving, db.Here); err != nil {
		return false, err
	}
	_, err = turn(ctx, g.source, bucket, g.fence, db.Watched, db.Held)
	return false, err
}

// clear deletes the old copies once everybody has known the new place for long enough.
func (r *run) clear(ctx context.Context) error {
	var places []int
	for i, b := range r.move.Buckets {
		if b.Phase == Switched {
			places = append(places, i)
		}
	}
	if len(places) == 0 {
		return nil
	}
	if err := r.step(ctx, "wait for everybody"); err != nil {
		return err
	}
	m, _, err := r.Store.Map(ctx)
	if err != nil {
		return err
	}
	if err := r.everybody(ctx, m.Version, r.move.Target); err != nil {
		return err
	}
	if err := wait(ctx, r.Config.Grace); err != nil {
		return err
	}
	for chunk := range slices.Chunk(places, r.Config.Group) {
		if err := r.clearSome(ctx, chunk); err != nil {
			return err
		}
	}
	return nil
}

func (r *run) clearSome(ctx context.Context, places []int) error {
	left := make(map[*db.DB][]int) // buckets with old copies
	for _, i := range places {
		b := r.move.Buckets[i]
		source, err := r.shard(b.Source)
		if err != nil {
			return err
		}
		if err := raise(ctx, source, []int{b.Bucket}, r.fence); err != nil {
			return err
		}
		away, err := turn(ctx, source, b.Bucket, r.fence, db.Away)
		if err != nil {
			return err
		}
		if !away {
			left[source] = append(left[source], b.Bucket)
		}
	}
	for source, buckets := range left {
		if err := r.step(ctx, "clear %s on %s", BucketList(buckets), source.Name); err != nil {
			return err
		}
		if err := purge(ctx, source, buckets, r.fence, db.Gone); err != nil {
			return err
		}
		for _, b := range buckets {
			if err := mustTurn(ctx, source, b, r.fence, db.Away, db.Gone); err != nil {
				return err
			}
		}
	}
	for _, i := range places {
		b := &r.move.Buckets[i]
		if _, err := r.Store.Change(ctx, r.move.ID, r.fence, []int{b.Bucket}, func(int) (string, string) { return r.move.Target, "" }); err != nil {
			return err
		}
		b.Phase = Cleared
		if err := r.keep(ctx, i); err != nil {
			return err
		}
	}
	return nil
}

// Cancel undoes what a move has not switched yet and tidies up behind what it has; that stays on the target.
func (m *Mover) Cancel(ctx context.Context, id, fence int64) error {
	r, err := m.take(ctx, id, fence, Undoing)
	if err != nil {
		return err
	}
	if r.move.State == Undoing {
		return nil // take has done it
	}
	return r.undo(ctx)
}

func (r *run) undo(ctx context.Context) error {
	target, err := r.shard(r.move.Target)
	if err != nil {
		return err
	}
	for i := range r.move.Buckets {
		b := &r.move.Buckets[i]
		if b.Phase != Waiting && b.Phase != Copying {
			continue
		}
		source, err := r.shard(b.Source)
		if err != nil {
			return err
		}
		g := &group{run: r, copier: copier{source, target, r.fence}}
		if err := r.step(ctx, "undo %d", b.Bucket); err != nil {
			return err
		}
		for _, d := range []*db.DB{source, target} {
			if err := raise(ctx, d, []int{b.Bucket}, r.fence); err != nil {
				return err
			}
		}
		switched, err := g.settled(ctx, b.Bucket)
		if err == nil && switched {
			err = g.moved(ctx, i)
		} else if err == nil {
			err = g.back(ctx, i)
		}
		if err != nil {
			return err
		}
	}
	if err := r.clear(ctx); err != nil {
		return err
	}
	state := Cancelled
	if r.move.In(Undone) == 0 {
		state = Done
	}
	return r.Store.Take(ctx, r.move.ID, r.fence, state, r.Now())
}

// back leaves a bucket where it was, without a copy.
func (g *group) back(ctx context.Context, i int) error {
	b := &g.move.Buckets[i]
	if _, err := turn(ctx, g.source, b.Bucket, g.fence, db.Here, db.Watched); err != nil {
		return err
	}
	if err := g.uncopy(ctx, b.Bucket); err != nil {
		return err
	}
	if err := forgetBucket(ctx, g.source, b.Bucket); err != nil {
		return err
	}
	if _, err := g.Store.Change(ctx, g.move.ID, g.fence, []int{b.Bucket}, func(int) (string, string) { return g.source.Name, "" }); err != nil {
		return err
	}
	b.Phase = Undone
	return g.keep(ctx, i)
}

// uncopy deletes what is on the target of a bucket that has not been switched.
func (g *group) uncopy(ctx context.Context, bucket int) error {
	arriving, err := turn(ctx, g.target, bucket, g.fence, db.Arriving)
	if err != nil || !arriving {
		return err
	}
	if err := purge(ctx, g.target, []int{bucket}, g.fence, db.Arriving); err != nil {
		return err
	}
	return mustTurn(ctx, g.target, bucket, g.fence, db.Away, db.Arriving)
}
