package idgen

import (
	"context"
	"time"
)

// Step lets a test renew or acquire once, without waiting for a tick.
func (l *Lease) Step(ctx context.Context) { l.step(ctx) }

// SetTicks replaces the ticker of Run.
func (l *Lease) SetTicks(ticks <-chan time.Time) {
	l.tick = func(time.Duration) (<-chan time.Time, func()) { return ticks, func() {} }
}

// Worker returns the number that is held, or -1.
func (l *Lease) Worker() int {
	if l.grant == nil {
		return -1
	}
	return l.grant.Worker
}
