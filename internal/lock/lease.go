package lock

import (
	"context"
	"log/slog"
	"sync"
	"time"
)

// Lease is a lock that is held. It is safe for concurrent use. It must be released; one that is forgotten ends by itself.
type Lease struct {
	// Token is the fence: greater than that of every earlier holder of the name.
	Token int64
	// Name is the lock's.
	Name string

	locks *Locks
	claim *claim
	ttl   time.Duration
	last  time.Time // end of all renewals; zero where nothing is renewed

	stop context.CancelFunc
	done chan struct{}
	kept sync.WaitGroup // what runs in the background

	mu    sync.Mutex
	until time.Time

	freeing sync.Mutex
	freed   bool
}

// lease starts what watches over a lease: it ends with the release, the loss or the end of the lease.
func (l *Locks) lease(ctx context.Context, c *claim, token int64, from time.Time, ttl, hold time.Duration) *Lease {
	s := &Lease{Token: token, Name: c.name, locks: l, claim: c, ttl: ttl, done: make(chan struct{}), until: from.Add(ttl - margin(ttl))}
	if hold > 0 {
		s.last = from.Add(hold)
	}
	l.meter().Holding(l.kind, 1)
	w, watched := l.store.(watcher)
	if hold == 0 && !watched { // nothing to do but to end: that needs no goroutine
		var once sync.Once
		end := func(lost bool) {
			once.Do(func() {
				close(s.done)
				l.meter().Holding(l.kind, -1)
				if lost {
					l.meter().Lost(l.kind)
				}
			})
		}
		timer := time.AfterFunc(s.until.Sub(l.Clock()), func() { end(true) })
		s.stop = func() { timer.Stop(); end(false) }
		return s
	}
	ctx, s.stop = context.WithCancel(context.WithoutCancel(ctx)) // the lease outlives the call that acquired it
	lost := make(chan struct{})
	if watched {
		s.kept.Go(func() {
			w.lost(ctx, c, token)
			close(lost)
		})
	}
	s.kept.Go(func() {
		defer s.stop()
		defer close(s.done)
		defer l.meter().Holding(l.kind, -1)
		s.keep(ctx, lost)
	})
	return s
}

// ValidUntil is when the holder must have stopped: counted from before the request, less a margin for the clocks. Renewal moves
// it. It is the holder's own view; what protects the data is the token.
func (s *Lease) ValidUntil() time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.until
}

// Done is closed when the lease was released, is over, or is known to be lost.
func (s *Lease) Done() <-chan struct{} { return s.done }

// Release gives the lock back. It may be called any number of times, after the lease was lost as well, and does its work although
// ctx has ended, within the time limits of Config. After an error, which is errs.Unavailable, the lock ends by itself.
func (s *Lease) Release(ctx context.Context) error {
	s.stop()
	s.kept.Wait()
	s.freeing.Lock()
	defer s.freeing.Unlock()
	if s.freed {
		return nil
	}
	_, err := ask(context.WithoutCancel(ctx), s.locks, func(ctx context.Context) (struct{}, error) {
		return struct{}{}, s.locks.store.free(ctx, s.claim)
	})
	if err != nil {
		return away(s.Name, err)
	}
	s.freed = true
	return nil
}

// keep returns when the lease has ended, in whatever way.
func (s *Lease) keep(ctx context.Context, lost <-chan struct{}) {
	renew := s.ttl / 3
	for {
		left := s.ValidUntil().Sub(s.locks.Clock())
		if left <= 0 {
			if ctx.Err() == nil {
				s.locks.meter().Lost(s.locks.kind)
			}
			return
		}
		timer := time.NewTimer(min(left, renew))
		if s.last.IsZero() {
			timer.Reset(left)
		}
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-lost:
			timer.Stop()
			if ctx.Err() == nil {
				s.locks.meter().Lost(s.locks.kind)
			}
			return
		case <-timer.C:
		}
		if s.last.IsZero() {
			continue
		}
		held, err := s.extend(ctx)
		switch {
		case err != nil && ctx.Err() != nil:
			return
		case err != nil: // unknown: the end that is known stays, and the next try comes sooner
			renew = s.ttl / 10
			s.locks.Log.WarnContext(ctx, "a lock was not renewed", slog.String("lock", s.Name), slog.String("error.message", err.Error()))
		case !held:
			s.locks.meter().Lost(s.locks.kind)
			s.locks.Log.WarnContext(ctx, "a lock was lost", slog.String("lock", s.Name))
			return
		default:
			renew = s.ttl / 3
		}
	}
}

// extend renews once, for the ttl or what is left of the longest hold. With nothing left it does nothing.
func (s *Lease) extend(ctx context.Context) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, s.locks.Config.Timeout)
	defer cancel()
	from := s.locks.Clock()
	ttl := min(s.ttl, s.last.Sub(from))
	if until := from.Add(ttl - margin(ttl)); ttl < minTTL || !until.After(s.ValidUntil()) {
		return true, nil
	}
	held, err := s.locks.store.extend(ctx, s.claim, ttl)
	if err != nil || !held {
		return held, err
	}
	s.mu.Lock()
	s.until = from.Add(ttl - margin(ttl))
	s.mu.Unlock()
	return true, nil
}
