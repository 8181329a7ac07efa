package growth

import (
	"context"
	"log/slog"
	"time"

	"github.com/eprod/eprod/internal/db"
)

// Follower keeps a process' shards to the map.
type Follower struct {
	Store  *Store
	Shards *db.Shards
	ID     string // names this process; no other has the name at the same time
	Config Config
	Now    func() time.Time
	Logger *slog.Logger
}

// Load applies the map as it is now. Until Run confirms it, the process asks the shards before it reads.
func (f *Follower) Load(ctx context.Context) error {
	m, _, err := f.Store.Map(ctx)
	if err != nil {
		return err
	}
	if m.Version == 0 {
		return errNoMap
	}
	return f.Shards.Apply(m)
}

// Run follows the map until ctx ends; then the process is no longer one of those that a move waits for.
func (f *Follower) Run(ctx context.Context) error {
	tick := time.NewTicker(f.Config.Poll)
	defer tick.Stop()
	failing := false
	for {
		err := f.Once(ctx)
		if err != nil && ctx.Err() == nil && !failing {
			f.Logger.WarnContext(ctx, "the map of the shards is not known to be right; reads ask the shards", "error", err)
		}
		failing = err != nil
		select {
		case <-ctx.Done():
			f.Shards.Confirm(time.Time{}) // before a move stops waiting for this process
			ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
			defer cancel()
			if err := f.Store.Leave(ctx, f.ID); err != nil {
				f.Logger.WarnContext(ctx, "this process is still listed with the map of the shards", "error", err)
			}
			return nil
		case <-tick.C:
		case <-f.Shards.Stale():
		}
	}
}

// Once reports the map that is applied, and applies the latest. The report comes first: whoever raises the version afterwards finds
// it and waits, and whoever did so before is found by what is read after it.
func (f *Follower) Once(ctx context.Context) error {
	for {
		began := time.Now() // the lease is counted by this process' own monotonic clock
		version := f.Shards.Version()
		if err := f.Store.Report(ctx, Process{ID: f.ID, Version: version, Knows: names(f.Shards), SeenAt: f.Now()}); err != nil {
			return err
		}
		m, _, err := f.Store.Map(ctx)
		if err != nil {
			return err
		}
		if m.Version == version {
			f.Shards.Confirm(began.Add(f.Config.Lease))
			return nil
		}
		if err := f.Shards.Apply(m); err != nil {
			return err
		}
	}
}

func names(shards *db.Shards) []string {
	out := make([]string, 0, len(shards.All()))
	for _, d := range shards.All() {
		out = append(out, d.Name)
	}
	return out
}
