package limit

import (
	"context"
	"errors"
	"time"

	"github.com/sony/gobreaker/v2"

	"github.com/eprod/eprod/internal/errs"
)

// ErrOpen is the cause of an errs.Unavailable that a breaker gave without trying: nothing has happened.
var ErrOpen = errors.New("circuit breaker is open")

// State is what a breaker thinks of its dependency.
type State string

// The states: everything passes; a few probes pass; nothing passes.
const (
	Closed   State = "closed"
	HalfOpen State = "half-open"
	Open     State = "open"
)

// Breaker keeps callers from waiting for a dependency that is down. Safe for concurrent use.
type Breaker struct {
	name    string
	timeout time.Duration
	openFor time.Duration
	cb      *gobreaker.CircuitBreaker[struct{}]
}

// NewBreaker returns a closed breaker. The name appears in refusals, so it must be fit for clients ("the intake log"). OnChange may be
// nil; it runs under the breaker's lock, so it must be quick and must not call the breaker.
func NewBreaker(name string, cfg BreakerConfig, onChange func(name string, from, to State)) *Breaker {
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
	if onChange != nil {
		settings.OnStateChange = func(name string, from, to gobreaker.State) { onChange(name, State(from.String()), State(to.String())) }
	}
	return &Breaker{name: name, timeout: cfg.CallTimeout, openFor: cfg.OpenFor, cb: gobreaker.NewCircuitBreaker[struct{}](settings)}
}

// callerLeft marks an error that says nothing about the dependency, because its caller cancelled.
type callerLeft struct{ error }

// Unwrap keeps errors.Is and errors.As working through the mark.
func (c callerLeft) Unwrap() error { return c.error }

// excluded leaves out what is not the dependency's fault: callers that went away, and input that it rightly refused.
func excluded(err error) bool {
	if err == nil {
		return false
	}
	_, left := errors.AsType[callerLeft](err)
	return left || errs.Permanent(err)
}

// Do calls fn unless the breaker is open, and returns fn's error. Fn must return soon after its context ends: a context that ends
// after CallTimeout is what keeps a hung probe from holding the breaker half-open for ever. Open, or half-open with its probes out:
// errs.Unavailable with the cause ErrOpen, at once. A caller that cancels, and errors that errs.Permanent knows, are not counted.
func (b *Breaker) Do(ctx context.Context, fn func(ctx context.Context) error) error {
	_, err := b.cb.Execute(func() (struct{}, error) {
		bounded := ctx
		if deadline, ok := ctx.Deadline(); !ok || time.Until(deadline) > b.timeout { // a timer costs more than the rest of Do
			var cancel context.CancelFunc
			bounded, cancel = context.WithTimeout(ctx, b.timeout)
			defer cancel()
		}
		err := fn(bounded)
		if err != nil && errors.Is(ctx.Err(), context.Canceled) {
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
