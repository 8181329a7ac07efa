package db

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// Buckets is how many buckets participants fall into. It never changes: settings map buckets to shards, so shards can be
// added without computing anybody's place anew.
const Buckets = 256

// Bucket returns the bucket of a participant, for ever the same: FNV-1a over the id's big-endian bytes, folded so that
// ids that differ only in their last bits spread.
func Bucket(participant int64) int {
	const offset, prime = 14695981039346656037, 1099511628211
	var b [8]byte
	binary.BigEndian.PutUint64(b[:], uint64(participant))
	h := uint64(offset)
	for _, c := range b {
		h = (h ^ uint64(c)) * prime
	}
	h ^= h >> 32
	h ^= h >> 16
	h ^= h >> 8
	return int(h % Buckets)
}

// BucketRange is an inclusive range of buckets.
type BucketRange struct{ First, Last int }

// NoBuckets is the range of a shard that holds nothing yet.
func NoBuckets() BucketRange { return BucketRange{First: 0, Last: -1} }

// ParseRange reads "0-127", "5" or "none".
func ParseRange(s string) (BucketRange, error) {
	if strings.TrimSpace(s) == "none" {
		return NoBuckets(), nil
	}
	first, last, ranged := strings.Cut(strings.TrimSpace(s), "-")
	if !ranged {
		last = first
	}
	a, errA := strconv.Atoi(first)
	b, errB := strconv.Atoi(last)
	if errA != nil || errB != nil || a < 0 || b >= Buckets || a > b {
		return BucketRange{}, fmt.Errorf("%q: must be a range of buckets from 0 to %d, such as 0-127", s, Buckets-1)
	}
	return BucketRange{a, b}, nil
}

// CheckRanges names every bucket that no range or more than one range holds.
func CheckRanges(ranges []BucketRange) error {
	var held [Buckets]int
	for _, r := range ranges {
		if r == NoBuckets() {
			continue
		}
		if r.First < 0 || r.Last >= Buckets || r.First > r.Last {
			return fmt.Errorf("%d-%d: must be a range of buckets from 0 to %d, such as 0-127", r.First, r.Last, Buckets-1)
		}
		for b := r.First; b <= r.Last; b++ {
			held[b]++
		}
	}
	var missing, twice []string
	for b, n := range held {
		switch {
		case n == 0:
			missing = append(missing, strconv.Itoa(b))
		case n > 1:
			twice = append(twice, strconv.Itoa(b))
		}
	}
	var problems []error
	if len(missing) > 0 {
		problems = append(problems, fmt.Errorf("no shard holds the buckets %s", short(missing)))
	}
	if len(twice) > 0 {
		problems = append(problems, fmt.Errorf("more than one shard holds the buckets %s", short(twice)))
	}
	return errors.Join(problems...)
}

func short(list []string) string {
	if len(list) > 6 {
		return strings.Join(list[:5], ", ") + ", … " + list[len(list)-1]
	}
	return strings.Join(list, ", ")
}

// Shards is the map from participants to databases. It is safe for concurrent use. As NewShards makes it, it does not change; one
// that follows the map of the metadata database changes by Apply.
type Shards struct {
	all     []*DB
	now     atomic.Pointer[atlas]
	follows atomic.Bool // a map that can change
	until   atomic.Pointer[time.Time]
	stale   chan struct{}
}

// NewShards maps ranges[i] to shards[i]; every bucket must be held exactly once. A shard may have NoBuckets.
func NewShards(shards []*DB, ranges []BucketRange) (*Shards, error) {
	if len(shards) == 0 || len(shards) != len(ranges) {
		return nil, fmt.Errorf("%d shards and %d ranges: there must be one range a shard", len(shards), len(ranges))
	}
	if err := CheckRanges(ranges); err != nil {
		return nil, err
	}
	first := &atlas{still: true}
	for i, r := range ranges {
		for b := r.First; b <= r.Last; b++ {
			first.owner[b] = i
		}
	}
	s := &Shards{all: shards, stale: make(chan struct{}, 1)}
	s.now.Store(first)
	return s, nil
}

// For returns the shard that a participant is believed to be on. Writers are told where they are wrong (see DB.AskOf); to read, use
// Home or View.
func (s *Shards) For(participant int64) *DB { return s.ForBucket(Bucket(participant)) }

// ForBucket is For for a bucket from 0 to 255.
func (s *Shards) ForBucket(bucket int) *DB { return s.all[s.now.Load().owner[bucket]] }

// Index returns the place in All of the shard that a participant is believed to be on.
func (s *Shards) Index(participant int64) int { return s.now.Load().owner[Bucket(participant)] }

// All returns the shards in the order of the settings. The slice is shared: do not change it.
func (s *Shards) All() []*DB { return s.all }

// Each runs fn for every shard at once and returns all errors joined, each with its shard's name.
func (s *Shards) Each(ctx context.Context, fn func(ctx context.Context, shard *DB) error) error {
	problems := make([]error, len(s.all))
	var running sync.WaitGroup
	for i, shard := range s.all {
		running.Go(func() {
			if err := fn(ctx, shard); err != nil {
				problems[i] = fmt.Errorf("shard %s: %w", shard.Name, err)
			}
		})
	}
	running.Wait()
	return errors.Join(problems...)
}
