package idgen

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"
)

// Grant is a worker number that was leased. Fence grows with every owner of the number.
type Grant struct {
	Worker int
	Fence  int64
	Floor  time.Time // ids of earlier owners have times up to here
}

// Leases stores who owns which worker number. An error means "unknown": the change may have been made.
type Leases interface {
	// Take leases a number that nobody owns and whose high water is before now, until the given time. It stores that time as the
	// high water before it returns. No number free is errs.Unavailable.
	Take(ctx context.Context, owner string, now, until time.Time) (Grant, error)
	// Renew raises deadline and high water of a grant; false means that somebody else owns the number now.
	Renew(ctx context.Context, g Grant, until time.Time) (bool, error)
	// Release gives the number back; ids up to highWater were issued.
	Release(ctx context.Context, g Grant, highWater time.Time) error
}

// Lease keeps a generator supplied with a worker number. Acquire may be called once before Run; Run then owns the lease.
type Lease struct {
	gen    *Snowflake
	leases Leases
	owner  string
	ttl    time.Duration
	log    *slog.Logger
	tick   func(time.Duration) (<-chan time.Time, func()) // for tests

	grant *Grant // nil: none
}

// NewLease returns a lease that is not yet acquired. Owner is for operators: host and process, no secrets.
func NewLease(gen *Snowflake, leases Leases, cfg Config, owner string, log *slog.Logger) *Lease {
	if len(owner) > 128 {
		owner = owner[:128]
	}
	return &Lease{gen: gen, leases: leases, owner: owner, ttl: cfg.LeaseTTL, log: log, tick: func(d time.Duration) (<-chan time.Time, func()) {
		t := time.NewTicker(d)
		return t.C, t.Stop
	}}
}

// acquireTimeout bounds how long a store that is away delays a start.
const acquireTimeout = 3 * time.Second

// Acquire takes a worker number, after which the generator issues ids. When it fails the generator refuses until Run succeeds.
func (l *Lease) Acquire(ctx context.Context) error {
	now := l.gen.time(uint64(max(0, l.gen.now())))
	until := now.Add(l.ttl)
	ctx, cancel := context.WithTimeout(ctx, min(l.ttl/3, acquireTimeout))
	defer cancel()
	g, err := l.leases.Take(ctx, l.owner, now, until)
	if err != nil {
		return fmt.Errorf("lease a worker number: %w", err)
	}
	l.grant = &g
	l.gen.install(tenure{worker: uint64(g.Worker), until: l.gen.ms(until)}, l.gen.ms(g.Floor))
	l.log.LogAttrs(ctx, slog.LevelInfo, "leased a worker number", slog.Int("worker", g.Worker), slog.Int64("fence", g.Fence))
	return nil
}

// Run renews the lease until ctx ends, takes another number when it was lost, and gives the number back at the end. It returns the
// error of giving it back, which only means that the number rests until its deadline.
func (l *Lease) Run(ctx context.Context) error {
	ticks, stop := l.tick(l.ttl / 3)
	defer stop()
	if l.grant == nil {
		l.step(ctx)
	}
	for {
		select {
		case <-ctx.Done():
			return l.release(ctx)
		case <-ticks:
			l.step(ctx)
		}
	}
}

// step renews or acquires once, within a third of the lease.
func (l *Lease) step(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, l.ttl/3)
	defer cancel()
	if gain := l.gen.rebase(); gain > time.Second || gain < -time.Second {
		l.log.LogAttrs(ctx, slog.LevelWarn, "the wall clock was set; ids follow it forward only", slog.Duration("gain", gain))
	}
	if l.grant == nil {
		if err := l.Acquire(ctx); err != nil && !errors.Is(err, context.Canceled) {
			l.log.LogAttrs(ctx, slog.LevelError, "no ids: no worker number could be leased", slog.String("error.message", err.Error()))
		}
		return
	}
	now := l.gen.now()
	until := l.gen.time(uint64(max(0, now))).Add(l.ttl)
	if until := l.gen.ms(until); until <= l.gen.until() {
		return // the clock is behind the deadline that we have: never lower a high water
	}
	held, err := l.leases.Renew(ctx, *l.grant, until)
	switch {
	case errors.Is(err, context.Canceled):
	case err != nil: // unknown: the stored deadline may be the new one, the one in force stays the old
		l.log.LogAttrs(ctx, slog.LevelWarn, "the worker lease was not renewed", slog.String("error.message", err.Error()))
	case !held:
		l.log.LogAttrs(ctx, slog.LevelError, "the worker lease was taken over", slog.Int("worker", l.grant.Worker))
		l.grant = nil
		l.gen.tenure.Store(nil)
		l.step(ctx)
	default:
		l.gen.extend(l.gen.ms(until))
	}
}

// release ends the generator and gives the number back, bounded by two seconds of its own since ctx has ended.
func (l *Lease) release(ctx context.Context) error {
	last := l.gen.close()
	if l.grant == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
	defer cancel()
	if err := l.leases.Release(ctx, *l.grant, l.gen.time(last)); err != nil {
		return fmt.Errorf("give back worker number %d: %w", l.grant.Worker, err)
	}
	return nil
}

// ms is the time of an id, rounded up so that a stored time never loses a part of a millisecond.
func (s *Snowflake) ms(t time.Time) uint64 {
	d := t.Sub(s.epoch)
	if d <= 0 {
		return 0
	}
	return uint64((d + time.Millisecond - 1) / time.Millisecond)
}

func (s *Snowflake) time(ms uint64) time.Time {
	return s.epoch.Add(time.Duration(ms) * time.Millisecond)
}

func (s *Snowflake) until() uint64 {
	if t := s.tenure.Load(); t != nil {
		return t.until
	}
	return 0
}
