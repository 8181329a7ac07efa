package notify

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/eprod/eprod/internal/db"
	"github.com/eprod/eprod/internal/errs"
)

// Run waits until ctx ends and every call on behalf of a request has ended.
func (s *Service) Run(ctx context.Context) error {
	<-ctx.Done()
	s.closing.Lock()
	s.closed = true
	s.closing.Unlock()
	s.calls.Wait()
	return nil
}

// Work sends what waits, asks the gateways about what is not settled, and gives up what is too old, until ctx ends; then it finishes
// what it has in hand. Any number of processes may work.
func (s *Service) Work(ctx context.Context) error {
	tick := time.NewTicker(s.config.Interval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		s.Once(ctx)
	}
}

// Once works on what is due now on every shard, and returns how many messages that was.
func (s *Service) Once(ctx context.Context) int {
	var total atomic.Int64
	var shards sync.WaitGroup
	for _, shard := range s.Shards.All() {
		shards.Go(func() {
			for ctx.Err() == nil {
				n := s.shard(ctx, shard)
				total.Add(int64(n))
				if n < s.config.Batch {
					return
				}
			}
		})
	}
	shards.Wait()
	return int(total.Load())
}

// shard takes a batch and works on it. When ctx ends, calls are finished, and what has not been begun waits in the database again.
func (s *Service) shard(ctx context.Context, shard *db.DB) int {
	patience, over := context.WithTimeout(ctx, s.config.Lease/2) // what still waits for its turn then is not taken by somebody else yet
	defer over()
	ctx = context.WithoutCancel(ctx)
	now := s.instant()
	due, err := s.Deliveries.Due(ctx, shard, now, now.Add(s.config.Lease), s.config.Batch)
	if err != nil {
		s.Logger.WarnContext(ctx, "messages wait", "database", shard.Name, "error", err)
		return 0
	}
	var running sync.WaitGroup
	slots := make(chan struct{}, max(1, s.config.Burst)) // more at once would only wait for the rate
	for _, d := range due {
		slots <- struct{}{}
		running.Go(func() {
			defer func() { <-slots }()
			s.attend(ctx, d, now, patience.Done())
		})
	}
	running.Wait()
	return len(due)
}

// attend does the next thing for one message.
func (s *Service) attend(ctx context.Context, d Delivery, now time.Time, patience <-chan struct{}) {
	was := d
	switch {
	case now.Sub(d.CreatedAt) > s.config.MaxAge:
		d.UpdatedAt = now
		if d.State == Accepted { // taken, and nobody said more: it stays so
			d.NextAt = never(now)
			s.change(ctx, was, d)
			return
		}
		d.State = Gone
		s.Meter.Message(d.Provider, string(Gone))
		s.Logger.WarnContext(ctx, "a message was given up", "message", d.ID, "state", string(was.State), "code", d.Code)
		s.change(ctx, was, d)
	case d.State == Waiting:
		s.deliver(ctx, d, patience)
	default: // Sending by a process that is gone, Unknown, or Accepted without a receipt
		s.ask(ctx, d, now)
	}
}

// ask asks the gateway that may have a message. Whatever it says, the message is not sent again.
func (s *Service) ask(ctx context.Context, d Delivery, now time.Time) {
	was := d
	if d.State == Sending {
		d.State, d.Code = Unknown, "interrupted"
	}
	d.UpdatedAt, d.NextAt = now, now.Add(s.config.AskAfter)
	switch g := s.gate(d.Provider); {
	case g == nil: // its settings may come back
	case g.reporter == nil:
		d.NextAt = never(now)
	default:
		receipt, ok := s.query(ctx, g, d)
		if ok && d.Reference == "" && receipt.Reference != "" {
			// Found by number and text, not by name: it may be another message of ours with the same words.
			s.claiming.Lock()
			defer s.claiming.Unlock()
			ok = !s.taken(ctx, d, receipt)
		}
		if next, changed := d.told(receipt, now); ok && changed {
			next.NextAt = d.NextAt
			d = next
			s.Meter.Message(g.Name(), string(d.State))
		}
	}
	s.change(ctx, was, d)
}

func (s *Service) query(ctx context.Context, g *gate, d Delivery) (receipt Receipt, ok bool) {
	message, err := s.message(ctx, d)
	if err != nil {
		return receipt, false
	}
	err = g.breaker.Do(ctx, func(ctx context.Context) (err error) {
		receipt, err = g.reporter.Query(ctx, message, d.Reference, d.SentAt)
		return err
	})
	if err != nil {
		s.Logger.WarnContext(ctx, "a gateway does not say what became of a message", "message", d.ID, "provider", g.Name(), "code", codeOfError(err))
	}
	return receipt, err == nil
}

// taken reports whether what a gateway has found is another message of ours, or nobody can tell.
func (s *Service) taken(ctx context.Context, d Delivery, r Receipt) bool {
	other, err := s.Deliveries.ByReceipt(ctx, Receipt{Provider: d.Provider, Reference: r.Reference})
	if errs.KindOf(err) == errs.NotFound && err != nil {
		return false
	}
	return err != nil || other.ID != d.ID
}
