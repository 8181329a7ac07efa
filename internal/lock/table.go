package lock

import (
	"context"
	"errors"
	"time"

	"github.com/eprod/eprod/internal/db"
)

// NewTable returns locks in the table lock_lease of the metadata database: as durable as the data, and in need of no further
// server. On MySQL the server's clock decides when a lease is over, on SQLite, where all holders are on one machine, its clock.
func NewTable(meta *db.DB, parts Parts) *Locks {
	return &Locks{Parts: parts, kind: Database, store: &tableStore{meta: meta, clock: parts.Clock}}
}

// tenure is a row of the table: the last acquisition of a name. The row stays when the lock is free and keeps the fence.
type tenure struct {
	fence  int64
	id     string // of the acquisition; empty after a release
	holder string
	until  int64 // microseconds of the database's clock
}

// succeed decides what a claim gets of a name: the tenure to store, or who has the name.
func (t tenure) succeed(c *claim, now int64, ttl time.Duration) (tenure, *HeldError) {
	next := tenure{fence: t.fence, id: c.id, holder: c.holder, until: now + ttl.Microseconds()}
	switch {
	case t.id == c.id: // the answer was lost
	case t.id != "" && t.until > now:
		return tenure{}, &HeldError{Hold{Owner: t.holder, Fence: t.fence, Until: time.UnixMicro(t.until)}}
	default:
		next.fence = max(t.fence+1, now) // if somebody deletes the row, the clock goes on
	}
	return next, nil
}

// errOvertaken means that another took the name between reading and writing.
var errOvertaken = errors.New("another acquisition came between")

type tableStore struct {
	meta  *db.DB
	clock func() time.Time
}

// overtakes bounds how often a claim may be overtaken in one call.
const overtakes = 5

func (s *tableStore) take(ctx context.Context, c *claim, ttl time.Duration) (int64, error) {
	for try := 0; ; try++ {
		fence, err := s.takeOnce(ctx, c, ttl)
		if !errors.Is(err, errOvertaken) || try >= overtakes {
			return fence, err
		}
	}
}
