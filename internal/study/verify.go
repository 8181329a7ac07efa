package study

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"github.com/eprod/eprod/internal/cache"
	"github.com/eprod/eprod/internal/errs"
	"github.com/eprod/eprod/internal/lock"
)

// Lister lists studies; Store implements it.
type Lister interface {
	List(ctx context.Context, whose Whose, after int64, limit int) ([]Study, error)
}

// VerifyMeter counts studies that were held against the database, and those that the cache had wrong.
type VerifyMeter interface{ Verified(checked, wrong int) }

// Verifier holds the shared cache against the database, a sample of studies at a time, and mends what is wrong. A study that
// is being changed at that moment may be found wrong rightly: its deletion is on its way. One goroutine may use it at a time.
type Verifier struct {
	Studies Lister
	Catalog *Catalog
	Cache   interface {
		Verify(ctx context.Context, key string, load cache.Load) (bool, error)
	}
	Every  time.Duration
	Locks  lock.Locker // one process at a time does it
	Meter  VerifyMeter
	Logger *slog.Logger

	after int64 // last study of the last sample
}

const verifySample = 100 // studies

// Run verifies a sample every so often until ctx ends.
func (v *Verifier) Run(ctx context.Context) error {
	tick := time.NewTicker(v.Every)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		// Held to its end, so that the other processes leave this interval's sample alone.
		if _, err := v.Locks.Acquire(ctx, "cache-verification", min(v.Every*9/10, 5*time.Minute)); err != nil {
			if errs.KindOf(err) != errs.Conflict && ctx.Err() == nil {
				v.Logger.WarnContext(ctx, "the cache is not verified: no lock", "error", err)
			}
			continue
		}
		checked, wrong, err := v.Once(ctx)
		v.Meter.Verified(checked, wrong)
		if err != nil && ctx.Err() == nil {
			v.Logger.WarnContext(ctx, "the cache could not be verified", "error", err)
		}
	}
}

// Once verifies the next sample and returns how many studies were looked at and how many the cache had wrong.
func (v *Verifier) Once(ctx context.Context) (checked, wrong int, err error) {
	studies, err := v.Studies.List(ctx, Whose{All: true}, v.after, verifySample)
	if err != nil {
		return 0, 0, fmt.Errorf("studies to verify: %w", err)
	}
	for i := range studies {
		ok, err := v.Catalog.Verify(ctx, studies[i].ID, v.Cache.Verify)
		if err != nil {
			return checked, wrong, err
		}
		checked++
		if !ok {
			wrong++
			v.Logger.ErrorContext(ctx, "the cache had an old version of a study; it was removed", "study.id", studies[i].ID)
		}
	}
	v.after = 0 // begin anew
	if len(studies) == verifySample {
		v.after = studies[len(studies)-1].ID
	}
	return checked, wrong, nil
}

// All verifies every study.
func (v *Verifier) All(ctx context.Context) (checked, wrong int, err error) {
	for v.after = 0; ; {
		c, w, err := v.Once(ctx)
		checked, wrong = checked+c, wrong+w
		if err != nil || v.after == 0 {
			return checked, wrong, err
		}
	}
}
