package limit

import (
	"context"
	"hash/maphash"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

// Buckets is one token bucket per key, in this process. Safe for concurrent use.
//
// It remembers a bounded number of keys, in at most 160 bytes each. A key without a bucket has a full one, so a bucket that is full again
// may be forgotten freely: those go first when there is no room, then those that lack least. A caller who is being refused is the
// last to be forgotten.
type Buckets struct {
	rate  float64
	burst int
	clock func() time.Time
	seed  maphash.Seed // of this process, so that nobody outside can make keys collide
	parts []part
}

// part holds the buckets of some of the keys, under a lock of its own.
type part struct {
	mu   sync.Mutex
	keys map[uint64]*rate.Limiter
	most int
}

// NewBuckets returns a full bucket for every key: burst tokens, and perSecond more each second. It remembers the given number of keys.
func NewBuckets(perSecond float64, burst, keys int, clock func() time.Time) *Buckets {
	b := &Buckets{rate: perSecond, burst: max(1, burst), clock: clock, seed: maphash.MakeSeed(), parts: make([]part, partsFor(keys))}
	for i := range b.parts {
		b.parts[i].keys = make(map[uint64]*rate.Limiter)
		b.parts[i].most = max(1, keys/len(b.parts))
	}
	return b
}

// partsFor returns a power of two, so that callers on different cores rarely meet and looking through a part stays short.
func partsFor(keys int) int {
	n := 1
	for n < 256 && keys/(2*n) >= 512 {
		n *= 2
	}
	return n
}

// Allow takes a token of key's bucket. If there is none it says when there will be one. It never waits.
func (b *Buckets) Allow(_ context.Context, key string) (ok bool, retryAfter time.Duration) {
	hash := maphash.String(b.seed, key)
	p := &b.parts[hash&uint64(len(b.parts)-1)]
	p.mu.Lock()
	defer p.mu.Unlock()
	now := b.clock() // under the lock: a bucket must not see time run backwards
	bucket := p.keys[hash]
	if bucket == nil {
		if len(p.keys) >= p.most {
			p.makeRoom(now, float64(b.burst))
		}
		bucket = rate.NewLimiter(rate.Limit(b.rate), b.burst)
		p.keys[hash] = bucket
	}
	if bucket.AllowN(now, 1) {
		return true, 0
	}
	missing := 1 - bucket.TokensAt(now)
	return false, max(0, time.Duration(missing/b.rate*float64(time.Second)))
}

// Len returns how many keys are remembered.
func (b *Buckets) Len() int {
	n := 0
	for i := range b.parts {
		b.parts[i].mu.Lock()
		n += len(b.parts[i].keys)
		b.parts[i].mu.Unlock()
	}
	return n
}

// missingSteps is how finely makeRoom tells apart what buckets lack.
const missingSteps = 64

// makeRoom forgets every full bucket, and where those are less than an eighth of the part, others up to that, those that lack least
// first. Freeing an eighth at once keeps the cost per new key near a microsecond, also when every request has a new key.
func (p *part) makeRoom(now time.Time, burst float64) {
	quota := max(1, len(p.keys)/8)
	var lacking [missingSteps]int
	step := func(bucket *rate.Limiter) int {
		missing := burst - bucket.TokensAt(now)
		if missing <= 0 {
			return -1
		}
		return min(missingSteps-1, int(missing/burst*missingSteps))
	}
	for key, bucket := range p.keys {
		if s := step(bucket); s >= 0 {
			lacking[s]++
		} else {
			delete(p.keys, key)
			quota--
		}
	}
	last := 0 // the step in which the quota is reached
	for quota > lacking[last] && last < missingSteps-1 {
		quota -= lacking[last]
		last++
	}
	if quota <= 0 {
		return
	}
	for key, bucket := range p.keys {
		switch s := step(bucket); {
		case s < last:
			delete(p.keys, key)
		case s == last && quota > 0:
			delete(p.keys, key)
			quota--
		}
	}
}
