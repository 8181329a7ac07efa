// Package limit decides when eprod says "not now": bounds on work in flight, circuit breakers around dependencies, and token buckets
// per caller, kept in this process or shared by all processes through Redis.
//
// What is local costs well under a microsecond and never waits. What is shared waits for Redis as long as its breaker allows, and decides
// alone when Redis does not answer.
package limit

import (
	"sync/atomic"
	"time"

	"github.com/eprod/eprod/internal/errs"
)

// InFlight bounds how much work is under way at once. It never queues: what does not fit is refused, so that clients back off while
// those inside finish. Safe for concurrent use.
type InFlight struct {
	max     int64
	now     atomic.Int64
	refused atomic.Uint64
	release func()
}

// NewInFlight returns a bound of max, at least 1.
func NewInFlight(limit int) *InFlight {
	f := &InFlight{max: int64(max(1, limit))}
	f.release = func() { f.now.Add(-1) } // made once, so that acquiring allocates nothing
	return f
}

// TryAcquire takes a place if there is one. The caller must call release exactly once when ok, and not otherwise.
func (f *InFlight) TryAcquire() (release func(), ok bool) {
	if f.now.Add(1) > f.max {
		f.now.Add(-1)
		f.refused.Add(1)
		return nil, false
	}
	return f.release, true
}

// Count returns how many places are taken; under contention it may be too high by those about to be refused.
func (f *InFlight) Count() int { return int(f.now.Load()) }

// Max returns the bound.
func (f *InFlight) Max() int { return int(f.max) }

// Refused returns how often there was no place.
func (f *InFlight) Refused() uint64 { return f.refused.Load() }

// Overloaded is the refusal for a caller that found no place.
func Overloaded() *errs.Error {
	return errs.New(errs.Overloaded, "overloaded", "the server has as much to do as it can take; try again").WithRetryAfter(time.Second)
}
