package limit

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"time"

	"github.com/sony/gobreaker/v2"

	"github.com/eprod/eprod/internal/errs"
)

// ErrOpen is the cause of an errs.Unavailable that a breaker gave without trying: nothing has happened.
var ErrOpen = errors.New("circuit breaker is open")

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

// State is what a breaker thinks of its dependency.
type State string

// The states: everything passes; a few probes pass; nothing passes.
const (
	Closed   State = "closed"
	HalfOpen State = "half-open"
	Open     State = "open"
)

// Gauge shows the states of breakers.
type Gauge interface {
	// Breaker shows a breaker under a label. State returns what it thinks at that moment, "closed", "half-open" or "open": ask it whenever
	// somebody looks, for an open breaker that nobody calls becomes half-open by time alone. State is quick and safe for concurrent use.
	Breaker(label string, state func() string)
}

// Announcement says how operators see a breaker.
type Announcement struct {
	label string
	gauge Gauge
	log   *slog.Logger
}

// Announce returns what NewBreaker takes to have a breaker seen: the gauge shows its state from the beginning, so that a breaker which never
// opens is seen as well, and each change goes to the log as a warning.
func Announce(label string, gauge Gauge, log *slog.Logger) *Announcement {
	return &Announcement{label, gauge, log}
}

// Breaker keeps callers from waiting for a dependency that is down. Safe for concurrent use.
type Breaker struct {
	name    string
	timeout time.Duration
	openFor time.Duration
	cb      *gobreaker.CircuitBreaker[struct{}]
}

// NewBreaker returns a closed breaker. The name appears in refusals, so it must be fit for clients ("the intake log"). Operators see nothing of
// it where announced is nil.
func NewBreaker(name string, cfg BreakerConfig, announced *Announcement) *Breaker {
	settings := gobreaker.Settings{
		Name:         name,
		MaxRequests:  uint32(max(1, cfg.Probes)),
		Interval:     cfg.Window,
		BucketPeriod: cfg.Window / 10,
		Timeout:      cfg.OpenFor,
		ReadyToTrip: func(c gobreaker.Counts) bool {
			valid := c.TotalSuccesses + c.TotalFailures
			return c.ConsecutiveFailures >= uint32(cfg.Failures) ||
				valid >= uint32(cfg.MinCalls) && float64(c.TotalFailures) >= cfg.Ratio*float64(valid)
		},
		IsExcluded: excluded,
	}
	if announced != nil {
		settings.OnStateChange = func(_ string, from, to gobreaker.State) {
			announced.log.Warn("breaker changed", "breaker", announced.label, "from", from.String(), "to", to.String())
		}
	}
	b := &Breaker{name: name, timeout: cfg.CallTimeout, openFor: cfg.OpenFor, cb: gobreaker.NewCircuitBreaker[struct{}](settings)}
	if announced != nil {
		announced.gauge.Breaker(announced.label, func() string { return string(b.State()) })
	}
	return b
}

// callerLeft marks an error that says nothing about the dependency, because its caller cancelled or had no patience.
type callerLeft struct{ error }

// Unwrap keeps errors.Is and errors.As working through the mark.
func (c callerLeft) Unwrap() error { return c.error }

// excluded leaves out what is not the dependency's fault: callers that went away, and what it refused as a client's mistake (4xx).
func excluded(err error) bool {
	if err == nil {
		return false
	}
	_, left := errors.AsType[callerLeft](err)
	return left || errs.Status(errs.KindOf(err)) < http.StatusInternalServerError
}

// Do calls fn unless the breaker is open, and returns fn's error. Fn must return soon after its context ends: a context that ends
// after CallTimeout is what keeps a hung probe from holding the breaker half-open for ever. Open, or half-open with its probes out:
// errs.Unavailable with the cause ErrOpen, at once. A caller that cancels or whose own deadline ends
// before half of CallTimeout, and errors whose status would be 4xx, are not counted.
func (b *Breaker) Do(ctx context.Context, fn func(ctx context.Context) error) error {
	_, err := b.cb.Execute(func() (struct{}, error) {
		bounded := ctx
		if deadline, ok := ctx.Deadline(); !ok || time.Until(deadline) > b.timeout { // a timer costs more than the rest of Do
			var cancel context.CancelFunc
			bounded, cancel = context.WithTimeout(ctx, b.timeout)
			defer cancel()
		}
		began := time.Now()
		err := fn(bounded)
		if err != nil && (errors.Is(ctx.Err(), context.Canceled) || ctx.Err() != nil && time.Since(began) < b.timeout/2) {
			err = callerLeft{err}
		}
		return struct{}{}, err
	})
	switch {
	case err == nil:
		return nil
	case errors.Is(err, gobreaker.ErrOpenState), errors.Is(err, gobreaker.ErrTooManyRequests):
		return errs.Away(b.name, ErrOpen).WithRetryAfter(b.openFor)
	}
	if left, ok := err.(callerLeft); ok {
		return left.error
	}
	return err
}

// State returns what the breaker thinks now.
func (b *Breaker) State() State { return State(b.cb.State().String()) }
