package growth

import (
	"context"
	"errors"
	"fmt"

	"golang.org/x/sync/errgroup"

	"github.com/eprod/eprod/internal/db"
)

// copyAll copies everybody and then, again and again, those who have changed meanwhile, until they are few.
func (g *group) copyAll(ctx context.Context) error {
	if err := g.step(ctx, "copy %s", BucketList(g.buckets)); err != nil {
		return err
	}
	ids, err := people(ctx, g.source, g.buckets)
	if err != nil {
		return err
	}
	if _, err := g.over(ctx, ids, g.sync); err != nil {
		return err
	}
	if err := g.step(ctx, "catch up %s", BucketList(g.buckets)); err != nil {
		return err
	}
	return g.catchUp(ctx, g.buckets)
}

const (
	fewChanges   = 32   // participants that can be copied while their writers wait
	catchUpLimit = 2000 // participants that are copied in one round of catching up
	catchUpTurns = 1000
)

// catchUp copies whom writers have noted until few are left.
func (g *group) catchUp(ctx context.Context, buckets []int) error {
	for range catchUpTurns {
		notes, err := changed(ctx, g.source, buckets, catchUpLimit)
		if err != nil {
			return err
		}
		if err := g.follow(ctx, notes); err != nil || len(notes) <= fewChanges {
			return err
		}
	}
	return errors.New("writers change more than can be copied; raise growth.workers, or move at a quieter time")
}

// follow copies those who were noted, and then takes the notes back.
func (g *group) follow(ctx context.Context, notes []change) error {
	ids := make([]int64, len(notes))
	for i, n := range notes {
		ids[i] = n.ParticipantID
	}
	if _, err := g.over(ctx, ids, g.sync); err != nil {
		return err
	}
	return forget(ctx, g.source, notes)
}

// over calls fn for all participants, a bounded number of rows at a time, with several workers, and adds up what it returns.
func (g *group) over(ctx context.Context, ids []int64, fn func(context.Context, []int64) (difference, error)) (total difference, err error) {
	const goal = 2 << 20 // bytes of one batch
	results := make([]difference, g.Config.Workers)
	work := make(chan []int64)
	sizes := make(chan int, 1)
	all, ctx := errgroup.WithContext(ctx)
	all.Go(func() error {
		defer close(work)
		size := 8
		for len(ids) > 0 {
			select {
			case bytes := <-sizes:
				if bytes < goal/2 {
					size = min(2*size, maxBatch)
				} else if bytes > goal {
					size = max(size/2, 1)
				}
			default:
			}
			n := min(size, len(ids))
			select {
			case work <- ids[:n]:
				ids = ids[n:]
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		return nil
	})
	for i := range results {
		all.Go(func() error {
			for batch := range work {
				d, err := fn(ctx, batch)
				if err != nil {
					return err
				}
				results[i].add(d.Sum)
				results[i].differ = append(results[i].differ, d.differ...)
				select {
				case sizes <- d.bytes:
				default:
				}
			}
			return nil
		})
	}
	err = all.Wait()
	for _, r := range results {
		total.add(r.Sum)
		total.differ = append(total.differ, r.differ...)
	}
	return total, err
}

// verify holds everything in a group against its copy. Who differs must have been noted meanwhile: else a writer changes what it does
// not name, and nothing is switched.
func (g *group) verify(ctx context.Context) error {
	if err := g.step(ctx, "verify %s", BucketList(g.buckets)); err != nil {
		return err
	}
	ids, err := people(ctx, g.source, g.buckets)
	if err != nil {
		return err
	}
	of := make(map[int][]int64)
	for _, id := range ids {
		of[db.Bucket(id)] = append(of[db.Bucket(id)], id)
	}
	for _, i := range g.places {
		b := &g.move.Buckets[i]
		d, err := g.over(ctx, of[b.Bucket], g.compare)
		if err != nil {
			return err
		}
		noted := make(map[int64]bool)
		notes, err := changed(ctx, g.source, []int{b.Bucket}, 1<<20)
		if err != nil {
			return err
		}
		for _, n := range notes {
			noted[n.ParticipantID] = true
		}
		for _, id := range d.differ {
			if !noted[id] {
				return fmt.Errorf("bucket %d: the rows of participant %d differ, and no writer has named them; nothing was switched: cancel the move and look for the writer", b.Bucket, id)
			}
		}
		b.Participants, b.Rows, b.Checksum = int64(len(of[b.Bucket])), d.Rows, d.String()
		if err := g.keep(ctx, i); err != nil {
			return err
		}
	}
	return nil
}
