package lock

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/eprod/eprod/internal/errs"
)

// maxSeveral bounds how many locks one caller takes together.
const maxSeveral = 64

// Leases are several locks held together, in the order of their names.
type Leases []*Lease

// AcquireSeveral takes all locks or none. It takes them in the order of their names, so that two callers never wait for one
// another, and a name that stands twice once. Wait holds for each name. A lock that ran out while others were waited for makes it
// fail with errs.Unavailable.
func AcquireSeveral(ctx context.Context, locker Locker, names []string, ttl time.Duration, options ...Option) (Leases, error) {
	names = slices.Compact(slices.Sorted(slices.Values(names)))
	if len(names) > maxSeveral {
		return nil, fmt.Errorf("%d locks together: at most %d", len(names), maxSeveral)
	}
	held := make(Leases, 0, len(names))
	for _, name := range names {
		lease, err := locker.Acquire(ctx, name, ttl, options...)
		if err != nil {
			return nil, errors.Join(err, held.Release(ctx))
		}
		held = append(held, lease)
	}
	for _, lease := range held {
		select {
		case <-lease.Done():
			return nil, errors.Join(errs.Away("the lock service", fmt.Errorf("lock %s ran out while others were taken", lease.Name)), held.Release(ctx))
		default:
		}
	}
	return held, nil
}

// Release gives all back, the last first, as Lease.Release does.
func (l Leases) Release(ctx context.Context) error {
	var problems []error
	for _, lease := range slices.Backward(l) {
		problems = append(problems, lease.Release(ctx))
	}
	return errors.Join(problems...)
}

// ValidUntil is when the first of them ends; the zero time where there are none.
func (l Leases) ValidUntil() time.Time {
	var first time.Time
	for _, lease := range l {
		if until := lease.ValidUntil(); first.IsZero() || until.Before(first) {
			first = until
		}
	}
	return first
}
