package processor

import (
	"context"
	"sync"
	"time"

	"github.com/eprod/eprod/internal/db"
	"github.com/eprod/eprod/internal/errs"
	"github.com/eprod/eprod/internal/trace"
)

// share is what one partition's batch has for one shard. Partitions never share a participant, so shares can be committed
// together in any order.
type share struct {
	ctx      context.Context
	verdicts []verdict
	bytes    int
	outcome  chan error
}

const shareQueue = 256 // shares waiting per shard: as many as there can be partitions

// Run commits what Handle hands over until ctx ends; Handle fails without it. While one transaction of a shard is under way,
// the batches of its other partitions gather and go into the next one together: that costs one commit instead of several.
func (s *Service) Run(ctx context.Context) error {
	var writers sync.WaitGroup
	for i, shard := range s.Shards.All() {
		for range s.config.Writers {
			writers.Go(func() {
				var held *share // did not fit into the last transaction
				for {
					first := held
					if first == nil {
						select {
						case first = <-s.lanes[i]:
						case <-ctx.Done():
							return
						}
					}
					var shares []*share
					shares, held = s.gather(s.lanes[i], first)
					s.together(shard, shares)
				}
			})
		}
	}
	writers.Wait()
	return nil
}

// hand gives a share to its shard's writers and waits for its commit.
func (s *Service) hand(ctx context.Context, lane int, verdicts []verdict) error {
	h := &share{ctx: ctx, verdicts: verdicts, outcome: make(chan error, 1)}
	for i := range verdicts {
		h.bytes += len(verdicts[i].record.Sealed)
	}
	select {
	case s.lanes[lane] <- h:
	case <-ctx.Done():
		return errs.Away("the shard's writer", ctx.Err())
	}
	select {
	case err := <-h.outcome:
		return err
	case <-ctx.Done():
		return errs.Away("the shard's writer", ctx.Err())
	}
}

// gather takes what waits behind the first share, as long as one transaction may hold it, and returns the share that no
// longer fitted, if there is one.
func (s *Service) gather(lane <-chan *share, first *share) (shares []*share, held *share) {
	shares = []*share{first}
	rows, bytes := len(first.verdicts), first.bytes
	for {
		select {
		case next := <-lane:
			rows += len(next.verdicts)
			if bytes += next.bytes; rows > s.config.MaxRows || bytes > s.config.MaxBytes {
				return shares, next
			}
			shares = append(shares, next)
		default:
			return shares, nil
		}
	}
}

// together commits shares in one transaction. If that fails, each is tried alone, so that one does not suffer for another.
func (s *Service) together(shard *db.DB, shares []*share) {
	var all []verdict
	for _, h := range shares {
		all = append(all, h.verdicts...)
	}
	// The time limit is that of the share that has most of it left; each caller keeps its own limit on waiting.
	ctx, cancel := longest(shares)
	defer cancel()
	err := s.commit(ctx, shard, all)
	for _, h := range shares {
		if err != nil && len(shares) > 1 {
			h.outcome <- s.commit(h.ctx, shard, h.verdicts)
			continue
		}
		h.outcome <- err
	}
}

// longest returns a context that ends with the last of the shares' and follows all of their traces.
func longest(shares []*share) (context.Context, context.CancelFunc) {
	ctx := context.WithoutCancel(shares[0].ctx)
	for _, h := range shares[1:] {
		ctx = trace.Join(ctx, h.ctx)
	}
	var limit time.Time
	for _, h := range shares {
		deadline, ok := h.ctx.Deadline()
		if !ok {
			return context.WithCancel(ctx)
		}
		if deadline.After(limit) {
			limit = deadline
		}
	}
	return context.WithDeadline(ctx, limit)
}
