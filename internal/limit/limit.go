// Package limit decides when eprod says "not now": bounds on work in flight, circuit breakers around dependencies, and token buckets
// per caller. Everything here is local to the process, costs well under a microsecond and never waits.
package limit

import (
	"errors"
	"fmt"
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

// BreakerConfig says when a dependency counts as down. The zero value is not usable; start from DefaultBreakerConfig.
type BreakerConfig struct {
	CallTimeout time.Duration `koanf:"callTimeout"` // longest call; a call that takes longer has failed
	Failures    int           `koanf:"failures"`    // this many in a row open the breaker
	Ratio       float64       `koanf:"ratio"`       // so does this share of failures in the window, from minCalls on
	MinCalls    int           `koanf:"minCalls"`    // fewer calls in the window say nothing about the ratio
	Window      time.Duration `koanf:"window"`      // how far back calls are counted, in ten steps
	OpenFor     time.Duration `koanf:"openFor"`     // how long nothing is tried once it is open
	Probes      int           `koanf:"probes"`      // calls let through after that; all must succeed to close it
}

// DefaultBreakerConfig suits a dependency that answers in milliseconds when it is well.
func DefaultBreakerConfig() BreakerConfig {
	return BreakerConfig{
		CallTimeout: 2 * time.Second, Failures: 5, Ratio: 0.5, MinCalls: 50,
		Window: 10 * time.Second, OpenFor: 3 * time.Second, Probes: 2,
	}
}

// Validate returns every problem at once, each as "key: value: what would be right".
func (c BreakerConfig) Validate() error {
	var problems []error
	for _, d := range []struct {
		key   string
		value time.Duration
	}{{"callTimeout", c.CallTimeout}, {"openFor", c.OpenFor}} {
		if d.value <= 0 {
			problems = append(problems, fmt.Errorf("%s: %v: must be above zero, such as 2s", d.key, d.value))
		}
	}
	if c.Window < 10*time.Millisecond {
		problems = append(problems, fmt.Errorf("window: %v: must be 10ms or more", c.Window))
	}
	for _, n := range []struct {
		key   string
		value int
	}{{"failures", c.Failures}, {"minCalls", c.MinCalls}, {"probes", c.Probes}} {
		if n.value < 1 {
			problems = append(problems, fmt.Errorf("%s: %d: must be 1 or more", n.key, n.value))
		}
	}
	if c.Ratio <= 0 || c.Ratio > 1 {
		problems = append(problems, fmt.Errorf("ratio: %v: must be above 0 and at most 1", c.Ratio))
	}
	return errors.Join(problems...)
}

// BucketConfig holds the settings of one kind of token bucket.
type BucketConfig struct {
	Rate  float64 `koanf:"rate"`  // tokens per second and key
	Burst int     `koanf:"burst"` // tokens of a key that has been idle
	Keys  int     `koanf:"keys"`  // keys remembered; the one longest unused is forgotten, and starts full if it returns
}

// DefaultBucketConfig returns the rate and burst that the API documents.
func DefaultBucketConfig() BucketConfig { return BucketConfig{Rate: 50, Burst: 100, Keys: 100_000} }

// Validate returns every problem at once, each as "key: value: what would be right".
func (c BucketConfig) Validate() error {
	var problems []error
	if c.Rate <= 0 {
		problems = append(problems, fmt.Errorf("rate: %v: must be above zero, such as 50", c.Rate))
	}
	if c.Burst < 1 {
		problems = append(problems, fmt.Errorf("burst: %d: must be 1 or more", c.Burst))
	}
	if c.Keys < 1 || c.Keys > 10_000_000 {
		problems = append(problems, fmt.Errorf("keys: %d: must be between 1 and 10000000", c.Keys))
	}
	return errors.Join(problems...)
}
