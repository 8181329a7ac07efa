// Package lock decides who may hold a name, for how long, and what a holder may rely on.
//
// A lock here is a lease. It ends by itself, and its holder may be paused past that end without noticing: a lease saves double
// work and keeps people apart, and nothing more. What makes writes right is its Token, the fence: a number that grows with every
// acquisition of a name. A holder raises the fence of the rows that it is going to write (db.RaiseFence) and writes them only
// while that fence still stands (db.Fenced); a holder that was overtaken is refused by the database.
//
// There are four back ends with one promise: Redis, Redis with re-entrance, etcd, and the metadata database, which needs no
// further server. They do not know of one another's locks, so a name belongs to one of them.
package lock

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"time"

	"github.com/eprod/eprod/internal/errs"
)

// Locker gives out leases. It is safe for concurrent use.
type Locker interface {
	// Acquire takes the lock called name for ttl. Held by another it is errs.Conflict with the code "locked", the members holder
	// and until, and a *HeldError inside; with Wait, only after that time. A back end that does not answer is errs.Unavailable: then
	// nothing is held, or what is held ends by itself after ttl.
	Acquire(ctx context.Context, name string, ttl time.Duration, options ...Option) (*Lease, error)
}

// Option changes one acquisition.
type Option func(*plan)

// plan is what a caller asks for.
type plan struct {
	wait, hold time.Duration
}

// Wait tries again, at growing and jittered intervals, until the lock is free or longest has passed.
func Wait(longest time.Duration) Option { return func(p *plan) { p.wait = longest } }

// Renew extends the lease in the background until it is released, but never past longest after its acquisition. Whoever hangs
// must not hold a lock for ever.
func Renew(longest time.Duration) Option { return func(p *plan) { p.hold = longest } }

// Hold says who has a lock.
type Hold struct {
	Owner string    // as the holder is called: never personal data
	Fence int64     // its token, where the back end tells
	Until time.Time // it ends by then unless it is extended; zero where the back end does not tell
}

// HeldError says who holds a lock that was refused.
type HeldError struct{ Hold }

// Error names the holder.
func (e *HeldError) Error() string {
	return fmt.Sprintf("held by %s until %s", e.Owner, e.Until.UTC().Format(time.RFC3339))
}

func errLocked(held *HeldError) *errs.Error {
	members := map[string]any{"holder": held.Owner}
	if !held.Until.IsZero() {
		members["until"] = held.Until.UTC().Format(time.RFC3339Nano)
	}
	return errs.New(errs.Conflict, "locked", "somebody else holds the lock").WithMembers(members).WithCause(held)
}

// Back ends of Config.
const (
	Database = "database"
	OnRedis  = "redis"
	OnEtcd   = "etcd"
)

// Editing is what the re-entrant locks on Redis are called where they are counted.
const Editing = "redis_reentrant"

// Config bounds what locks may cost. Start from DefaultConfig.
type Config struct {
	Backend string        `koanf:"backend"` // of the locks of procedures: database, redis or etcd
	Timeout time.Duration `koanf:"timeout"` // for one call of the back end
	Tries   int           `koanf:"tries"`   // calls for one question, when answers are lost
	WaitMin time.Duration `koanf:"waitMin"` // first pause of a caller who waits for a lock
	WaitMax time.Duration `koanf:"waitMax"` // longest pause
	MaxTTL  time.Duration `koanf:"maxTtl"`  // longest time that a lock may be taken or extended for: so long does it stay with a dead process
}

// DefaultConfig returns settings for a back end in the same data centre.
func DefaultConfig() Config {
	return Config{Backend: Database, Timeout: 500 * time.Millisecond, Tries: 2, WaitMin: 10 * time.Millisecond, WaitMax: 250 * time.Millisecond, MaxTTL: 10 * time.Minute}
}

// Validate returns every problem at once, each as "key: value: what would be right".
func (c Config) Validate() error {
	var problems []error
	if c.Backend != Database && c.Backend != OnRedis && c.Backend != OnEtcd {
		problems = append(problems, fmt.Errorf("backend: %s: must be %s, %s or %s", c.Backend, Database, OnRedis, OnEtcd))
	}
	for _, d := range []struct {
		key        string
		value, low time.Duration
	}{{"timeout", c.Timeout, time.Millisecond}, {"waitMin", c.WaitMin, time.Millisecond}, {"waitMax", c.WaitMax, c.WaitMin}, {"maxTtl", c.MaxTTL, minTTL}} {
		if d.value < d.low {
			problems = append(problems, fmt.Errorf("%s: %v: must be %v or more", d.key, d.value, d.low))
		}
	}
	if c.Tries < 1 || c.Tries > 10 {
		problems = append(problems, fmt.Errorf("tries: %d: must be from 1 to 10", c.Tries))
	}
	return errors.Join(problems...)
}

// Parts are what every back end needs. Clock, Random and Log must be set.
type Parts struct {
	Config Config
	Holder string           // how this process is called where the context has no owner: host and process, no secrets
	Clock  func() time.Time // should have a monotonic reading, as time.Now has
	Random io.Reader        // crypto/rand.Reader
	Log    *slog.Logger
	Meter  Meter // nil: nobody counts
	Guard  Guard // nil: the back end is asked whatever it did before
}

// Guard keeps callers from waiting for a back end that is down. limit.Breaker implements it.
type Guard interface {
	// Do calls fn and returns its error, or refuses at once with errs.Unavailable when fn failed too often lately.
	Do(ctx context.Context, fn func(ctx context.Context) error) error
}

// Meter counts what becomes of locks, by back end. It must be quick and safe for concurrent use.
type Meter interface {
	// Requested is told the outcome of an acquisition: acquired, held (by another) or unavailable (no answer).
	Requested(backend, outcome string)
	// Holding is told 1 when a lease begins and -1 when it has ended.
	Holding(backend string, change int)
	// Lost is told of a lease that ended under its holder.
	Lost(backend string)
}

// uncounted is the Meter of those who have none.
type uncounted struct{}

// Requested implements Meter.
func (uncounted) Requested(string, string) {}

// Holding implements Meter.
func (uncounted) Holding(string, int) {}

// Lost implements Meter.
func (uncounted) Lost(string) {}

const (
	minTTL    = 20 * time.Millisecond // a shorter lease would be over before its holder knows of it
	maxName   = 200                   // bytes; the column of the database has room for them
	maxHolder = 128                   // bytes
)

// margin is what a holder gives up of its ttl, because its clock and that of the back end may run at different speeds.
func margin(ttl time.Duration) time.Duration { return ttl/100 + 2*time.Millisecond }

type ownerKey struct{}

// WithOwner returns a context whose locks belong to owner: an account or a job, never personal data. A re-entrant lock is free
// to its owner; to the other kinds it is only what a refused caller is told.
func WithOwner(ctx context.Context, owner string) context.Context {
	return context.WithValue(ctx, ownerKey{}, owner)
}

// Owner returns the owner in a context, or "".
func Owner(ctx context.Context) string {
	owner, _ := ctx.Value(ownerKey{}).(string)
	return owner
}
