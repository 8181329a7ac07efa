// Package growth decides how buckets of participants move from one shard to another while everybody reads and writes them.
//
// Two things tell where a bucket is. Its row on each shard (db.BucketStanding) is the last word: writers ask it in their own
// transaction. The map in the metadata database is what processes go by; they follow it (Follower), and nothing moves before every
// process that is alive has said that it knows. A process that cannot say so within its lease asks the shards before it reads.
//
// A move (Mover) copies a bucket while its writers note whom they change, copies those again until few are left, holds the writers
// for less than a second for the last ones, compares, and switches by one row of the source: from held to gone. Everything before
// that row can be undone or done again; everything after it only tidies up. A mover that was overtaken is refused by the fence in
// the buckets' rows.
package growth

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/eprod/eprod/internal/db"
	"github.com/eprod/eprod/internal/errs"
)

// Config bounds how the map is followed and how buckets move.
type Config struct {
	Poll    time.Duration `koanf:"poll"`    // how often a process looks at the map
	Lease   time.Duration `koanf:"lease"`   // without a look at the map for this long, a process asks the shards before it reads
	Grace   time.Duration `koanf:"grace"`   // an old copy stays for this long after every process knows the new place: longer than any request
	Hold    time.Duration `koanf:"hold"`    // the longest time for which writers of a bucket wait; what is not done in four fifths of it is given back and tried again
	Group   int           `koanf:"group"`   // buckets that are copied together
	Workers int           `koanf:"workers"` // copying connections to each of the two shards
}

// DefaultConfig returns settings for shards that patients are using.
func DefaultConfig() Config {
	return Config{Poll: time.Second, Lease: 15 * time.Second, Grace: 15 * time.Second, Hold: time.Second, Group: 16, Workers: 2}
}

// Validate returns every problem at once, each as "key: value: what would be right".
func (c Config) Validate() error {
	var problems []error
	bad := func(format string, args ...any) { problems = append(problems, fmt.Errorf(format, args...)) }
	if c.Poll < 10*time.Millisecond || c.Poll > 10*time.Second {
		bad("poll: %v: must be between 10ms and 10s", c.Poll)
	}
	if c.Lease < 3*c.Poll || c.Lease > time.Minute {
		bad("lease: %v: must be three times poll, %v, or more, and at most 1m", c.Lease, c.Poll)
	}
	if c.Grace < 0 || c.Grace > time.Hour {
		bad("grace: %v: must be between 0 and 1h", c.Grace)
	}
	if c.Hold < 50*time.Millisecond || c.Hold > 2*time.Second {
		bad("hold: %v: must be between 50ms and 2s", c.Hold)
	}
	if c.Group < 1 || c.Group > db.Buckets {
		bad("group: %d: must be between 1 and %d", c.Group, db.Buckets)
	}
	if c.Workers < 1 || c.Workers > 16 {
		bad("workers: %d: must be between 1 and 16", c.Workers)
	}
	return errors.Join(problems...)
}

// share is the part of the hold in which a bucket must be switched, and for which its writers leave it to a mover of which they hear
// nothing. The rest is for giving it back.
func (c Config) share() time.Duration { return c.Hold * 4 / 5 }

// Place is where a bucket is according to the map.
type Place struct {
	Bucket int
	Owner  string // the shard's name
	Other  string // of a shard that has, or may have, a second copy; ""
}

// State says how far a move is.
type State string

// The states of a move.
const (
	Moving    State = "moving"
	Undoing   State = "undoing" // being cancelled
	Done      State = "done"
	Cancelled State = "cancelled"
)

// Phase says how far a bucket of a move is.
type Phase string

// The phases of a bucket, in their order; an undone bucket is where it was.
const (
	Waiting  Phase = "waiting"
	Copying  Phase = "copying"
	Switched Phase = "switched" // lives on the target; the source has an old copy
	Cleared  Phase = "cleared"
	Undone   Phase = "undone"
)

// Move is the moving of buckets to a shard.
type Move struct {
	ID              int64
	Target          string
	State           State
	Fence           int64 // of the process that works on it
	BegunAt, LastAt time.Time
	Buckets         []Bucket
}

// Bucket is a bucket of a move.
type Bucket struct {
	Bucket       int
	Source       string
	Phase        Phase
	Participants int64  // that were compared
	Rows         int64  // of theirs that were equal on both shards
	Checksum     string // over these rows: see Sum
	Holds        int    // how often the writers were held
	Held         time.Duration
}

// Over reports whether nothing is left to do.
func (m *Move) Over() bool { return m.State == Done || m.State == Cancelled }

// In counts the buckets in a phase.
func (m *Move) In(p Phase) int {
	n := 0
	for _, b := range m.Buckets {
		if b.Phase == p {
			n++
		}
	}
	return n
}

// ParseBuckets reads a list such as "0-63,200" into buckets in ascending order.
func ParseBuckets(list string) ([]int, error) {
	var out []int
	for part := range strings.SplitSeq(list, ",") {
		r, err := db.ParseRange(part)
		if err != nil {
			return nil, err
		}
		for b := r.First; b <= r.Last; b++ {
			out = append(out, b)
		}
	}
	slices.Sort(out)
	if out = slices.Compact(out); len(out) == 0 {
		return nil, errors.New("no bucket is named")
	}
	return out, nil
}

// BucketList writes buckets, in ascending order, as ParseBuckets reads them.
func BucketList(buckets []int) string {
	var parts []string
	for i := 0; i < len(buckets); {
		j := i
		for j+1 < len(buckets) && buckets[j+1] == buckets[j]+1 {
			j++
		}
		part := strconv.Itoa(buckets[i])
		if j > i {
			part += "-" + strconv.Itoa(buckets[j])
		}
		parts = append(parts, part)
		i = j + 1
	}
	return cmp.Or(strings.Join(parts, ","), "none")
}

// Process is a process that follows the map.
type Process struct {
	ID      string
	Version int64    // of the map that it goes by
	Beat    int64    // grows with every look at the map
	Knows   []string // the shards in its settings
	SeenAt  time.Time
}

func errEmbedded() error {
	return errs.New(errs.Conflict, "embedded", "the embedded stores are two files beside one process: their buckets do not move; set database.meta.dsn and database.shards to grow")
}

func errOvertaken() error {
	return errs.New(errs.Stale, "overtaken", "another process has taken this move over")
}

// errNotYet says that a bucket cannot be switched right now, and why.
type errNotYet struct{ why string }

// Error implements error.
func (e errNotYet) Error() string { return e.why }
