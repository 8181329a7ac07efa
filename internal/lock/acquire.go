package lock

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"strings"
	"time"

	"github.com/eprod/eprod/internal/errs"
)

// claim is one acquisition, from the first question about it to its end.
type claim struct {
	name   string
	id     string // random, 32 hexadecimal digits: no other acquisition has it
	holder string
	lease  int64 // etcd's, while there is one
}

// store is a back end. Every call may have happened although it failed, and may be repeated: a claim is recognised by its id.
type store interface {
	// take gives the name to a claim for ttl from when it is carried out, also if the claim has the name already by an earlier call
	// whose answer was lost. Held by another claim it is a *HeldError.
	take(ctx context.Context, c *claim, ttl time.Duration) (token int64, err error)
	// extend sets the end of a claim to ttl from when it is carried out. False means that the claim has the name no longer.
	extend(ctx context.Context, c *claim, ttl time.Duration) (bool, error)
	// free ends a claim. One that has ended is no error, and what others have is left alone.
	free(ctx context.Context, c *claim) error
}

// watcher is a store that tells when a claim is lost: lost returns then, or when ctx has ended.
type watcher interface {
	lost(ctx context.Context, c *claim, token int64)
}

// Locks is a Locker on one of the back ends.
type Locks struct {
	Parts
	store store
	kind  string // of the back end, where it is counted
}

func (l *Locks) meter() Meter {
	if l.Meter == nil {
		return uncounted{}
	}
	return l.Meter
}

// count tells the meter what became of a request.
func (l *Locks) count(err error) {
	outcome := "acquired"
	var held *HeldError
	if errors.As(err, &held) {
		outcome = "held"
	} else if err != nil {
		outcome = "unavailable"
	}
	l.meter().Requested(l.kind, outcome)
}

// Acquire implements Locker.
func (l *Locks) Acquire(ctx context.Context, name string, ttl time.Duration, options ...Option) (*Lease, error) {
	var p plan
	for _, set := range options {
		set(&p)
	}
	c, err := l.claim(ctx, name, ttl, p)
	if err != nil {
		return nil, err
	}
	began := l.Clock()
	for try := 0; ; try++ {
		lease, err := l.try(ctx, c, ttl, p.hold)
		var held *HeldError
		if !errors.As(err, &held) {
			l.count(err)
			return lease, err
		}
		left := p.wait - l.Clock().Sub(began)
		if left <= 0 || !pause(ctx, min(left, l.interval(try))) {
			l.count(err)
			return nil, errLocked(held)
		}
	}
}

func (l *Locks) claim(ctx context.Context, name string, ttl time.Duration, p plan) (*claim, error) {
	holder := Owner(ctx)
	if holder == "" {
		holder = l.Holder
	}
	switch {
	case name == "" || len(name) > maxName:
		return nil, fmt.Errorf("lock %q: a name has 1 to %d bytes", name, maxName)
	case ttl < minTTL || ttl > l.Config.MaxTTL:
		return nil, fmt.Errorf("lock %s: ttl %v: must be from %v to %v", name, ttl, minTTL, l.Config.MaxTTL)
	case p.hold != 0 && p.hold < ttl:
		return nil, fmt.Errorf("lock %s: renewed for at most %v, which is shorter than its ttl %v", name, p.hold, ttl)
	case len(holder) > maxHolder:
		holder = strings.ToValidUTF8(holder[:maxHolder], "")
	}
	var random [16]byte
	if _, err := io.ReadFull(l.Random, random[:]); err != nil {
		return nil, fmt.Errorf("lock %s: %w", name, err)
	}
	return &claim{name: name, id: hex.EncodeToString(random[:]), holder: holder}, nil
}

// try asks until it is answered, at most Tries times. An answer that was lost deceives nobody: the claim is asked about again by
// its id. One that stays unknown is given back, so that the caller is not kept out by itself.
func (l *Locks) try(ctx context.Context, c *claim, ttl, hold time.Duration) (*Lease, error) {
	var from time.Time
	token, err := ask(ctx, l, func(ctx context.Context) (int64, error) {
		from = l.Clock() // before the request: the back end counts from later
		return l.store.take(ctx, c, ttl)
	})
	var held *HeldError
	if errors.As(err, &held) {
		return nil, err
	}
	if err == nil && !l.Clock().Before(from.Add(ttl-margin(ttl))) {
		err = errors.New("the answer came when the lease was over")
	}
	if err != nil {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), l.Config.Timeout)
		defer cancel()
		return nil, away(c.name, errors.Join(err, l.store.free(ctx, c)))
	}
	return l.lease(ctx, c, token, from, ttl, hold), nil
}

// ask calls until there is an answer: success, a *HeldError, or the end of the tries or of ctx. Each call has its own time limit.
func ask[T any](ctx context.Context, l *Locks, call func(context.Context) (T, error)) (T, error) {
	for try := 1; ; try++ {
		answer, err := func() (T, error) {
			ctx, cancel := context.WithTimeout(ctx, l.Config.Timeout)
			defer cancel()
			return guarded(ctx, l.Guard, call)
		}()
		var held *HeldError
		if err == nil || errors.As(err, &held) || try >= l.Config.Tries || ctx.Err() != nil {
			return answer, err
		}
	}
}

// guarded is call behind a guard, which may be nil. That somebody else holds the lock is an answer, and says that the back end is well.
func guarded[T any](ctx context.Context, g Guard, call func(context.Context) (T, error)) (answer T, err error) {
	if g == nil {
		return call(ctx)
	}
	var held *HeldError
	refused := g.Do(ctx, func(ctx context.Context) error {
		answer, err = call(ctx)
		if errors.As(err, &held) {
			return nil
		}
		return err
	})
	if err == nil {
		err = refused
	}
	return answer, err
}

// interval is how long a waiting caller pauses after its tries so far. Jitter keeps those who wait for one lock apart.
func (l *Locks) interval(tries int) time.Duration {
	d := min(l.Config.WaitMin<<min(tries, 16), l.Config.WaitMax)
	return d/2 + rand.N(d/2+1)
}

// pause reports whether ctx lasted that long.
func pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

func away(name string, err error) error {
	return errs.Away("the lock service", fmt.Errorf("lock %s: %w", name, err))
}
