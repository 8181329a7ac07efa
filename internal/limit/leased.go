package limit

import (
	"context"
	"crypto/sha256"
	_ "embed"
	"encoding/base64"
	"fmt"
	"hash/maphash"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"
)

//go:embed lease.lua
var leaseScript string

const (
	// maxPack is the most tokens that a process takes at once.
	maxPack = 100
	// leaseTerm is how long a process may spend the tokens of a pack. What it has not spent then is lost, at most as much as comes
	// back in this time.
	leaseTerm = time.Second
	// moment is how long a process that found a fast bucket empty leaves it alone, so that the next pack is worth the way.
	moment = 5 * time.Millisecond
)

// Leased is one token bucket per key, kept in Redis for all processes, which take tokens from it in packs. Safe for concurrent use.
//
// Over all processes and any time t, no key is given more than burst + rate·t, as long as Redis keeps what it was told. Requests pay a round trip
// per pack: a key's first request takes one token, each pack that is spent within a second doubles the next up to 100, and packs
// are never more than a quarter of what is left, or than what comes back in a second.
//
// When Redis does not answer, each process decides alone, by buckets of its own with a part of rate and burst.
type Leased struct {
	rate    float64
	burst   int
	prefix  string
	process string
	client  redis.Scripter
	script  *redis.Script
	breaker *Breaker
	alone   *Buckets
	onAlone func()
	clock   func() time.Time
	seed    maphash.Seed
	number  atomic.Uint64
	parts   []leasePart
}

// LeasedParts are what Leased stands on.
type LeasedParts struct {
	// Client must not repeat calls by itself (MaxRetries −1): a repeated call takes a pack twice. It needs ContextTimeoutEnabled.
	Client  redis.Scripter
	Breaker *Breaker         // around Client; its time-out is the longest wait
	Prefix  string           // of the keys in Redis; one per rule
	Process string           // different in every process
	Alone   *Buckets         // decide when Redis does not answer
	OnAlone func()           // told of each such decision
	Clock   func() time.Time // monotonic, as time.Now is
}

type leasePart struct {
	mu   sync.Mutex
	keys map[uint64]*lease
	most int
}

// lease is what this process knows of a key. It is guarded by its part's lock.
type lease struct {
	left, given, want int
	number            uint64    // names it in Redis; 0: there is nothing to give up
	until             time.Time // tokens in hand are void from here on
	empty             time.Time // there are none before
	flight            *flight
}

// flight is one call to Redis that others wait for.
type flight struct {
	done chan struct{}
	away bool // Redis did not answer; written before done is closed
}

// NewLeased returns buckets of burst tokens that get perSecond more each second. It remembers the given number of keys.
func NewLeased(perSecond float64, burst, keys int, p LeasedParts) *Leased {
	l := &Leased{rate: perSecond, burst: burst, prefix: p.Prefix, process: p.Process, client: p.Client, script: redis.NewScript(leaseScript),
		breaker: p.Breaker, alone: p.Alone, onAlone: p.OnAlone, clock: p.Clock, seed: maphash.MakeSeed(), parts: make([]leasePart, partsFor(keys))}
	for i := range l.parts {
		l.parts[i].keys = make(map[uint64]*lease)
		l.parts[i].most = max(1, keys/len(l.parts))
	}
	return l
}

// Allow takes a token of key's bucket. If there is none it says when there may be one. It waits for Redis at most as long as the breaker's
// time-out, and for nothing while tokens are in hand, while the bucket is known to be empty, or while the breaker is open.
func (l *Leased) Allow(ctx context.Context, key string) (ok bool, retryAfter time.Duration) {
	hash := maphash.String(l.seed, key)
	p := &l.parts[hash&uint64(len(l.parts)-1)]
	for {
		p.mu.Lock()
		now := l.clock()
		known := p.lease(hash, now)
		switch {
		case known.left > 0 && now.Before(known.until):
			known.left--
			p.mu.Unlock()
			return true, 0
		case now.Before(known.empty):
			after := known.empty.Sub(now)
			p.mu.Unlock()
			return false, after
		}
		f := known.flight
		if f == nil {
			return l.fetch(ctx, p, known, key, now) // gives the lock back
		}
		p.mu.Unlock()
		select {
		case <-f.done:
			if f.away {
				return l.decideAlone(ctx, key)
			}
		case <-ctx.Done():
			return l.decideAlone(ctx, key)
		}
	}
}

func (l *Leased) decideAlone(ctx context.Context, key string) (bool, time.Duration) {
	l.onAlone()
	return l.alone.Allow(ctx, key)
}

// fetch takes a pack, of which the calling request gets the first token. The part is locked when it begins and free when it ends.
func (l *Leased) fetch(ctx context.Context, p *leasePart, known *lease, key string, now time.Time) (bool, time.Duration) {
	want, previous, number := known.next(now), known.number, l.number.Add(1)
	f := &flight{done: make(chan struct{})}
	known.flight = f
	p.mu.Unlock()

	granted, wait, err := l.take(ctx, key, want, number, previous)

	p.mu.Lock()
	known.flight = nil
	switch {
	case err != nil: // Redis may or may not have given a pack; nobody will spend it, and it counts as held until it ends
		f.away, known.left = true, 0
	case granted == 0:
		known.empty, known.left, known.number = l.clock().Add(wait), 0, 0
	default:
		known.want, known.given, known.left = want, granted, granted-1
		known.until = now.Add(leaseTerm) // counted from before the call, so that it ends here before it ends in Redis
		if known.number = number; granted == 1 {
			known.number = 0
		}
	}
	p.mu.Unlock()
	close(f.done)
	if err != nil {
		return l.decideAlone(ctx, key)
	}
	return granted > 0, wait
}

// next returns how many tokens to ask for: twice as many as last time if those were spent in time, else as many as were spent.
func (k *lease) next(now time.Time) int {
	switch {
	case k.want == 0:
		return 1
	case now.Before(k.until):
		return min(maxPack, 2*k.want)
	default:
		return max(1, k.given-k.left)
	}
}

// take is the call to Redis. The caller's leaving does not end it, for others wait for it too.
func (l *Leased) take(ctx context.Context, key string, want int, number, previous uint64) (granted int, wait time.Duration, err error) {
	name := func(n uint64) string { return l.process + ":" + strconv.FormatUint(n, 36) }
	least := max(1, int(l.rate*moment.Seconds()))
	most := max(1, int(min(maxPack, l.rate*leaseTerm.Seconds())))
	sum := sha256.Sum256([]byte(key)) // keys in Redis tell neither accounts nor addresses
	place := l.prefix + base64.RawURLEncoding.EncodeToString(sum[:16])
	err = l.breaker.Do(context.WithoutCancel(ctx), func(ctx context.Context) error {
		reply, err := l.script.Run(ctx, l.client, []string{place}, l.rate, l.burst, want, least, most, leaseTerm.Microseconds(), name(number), name(previous)).Int64Slice()
		if err != nil {
			return fmt.Errorf("take tokens: %w", err)
		}
		if len(reply) != 2 {
			return fmt.Errorf("take tokens: Redis answered %d numbers, not 2", len(reply))
		}
		granted, wait = int(reply[0]), time.Duration(reply[1])*time.Microsecond
		return nil
	})
	if least > 1 && granted == 0 {
		wait = max(wait, moment)
	}
	return granted, wait, err
}

// lease returns what is known of a key, making room for it where there is none.
func (p *leasePart) lease(hash uint64, now time.Time) *lease {
	if known := p.keys[hash]; known != nil {
		return known
	}
	if len(p.keys) >= p.most {
		p.makeRoom(now)
	}
	known := new(lease)
	p.keys[hash] = known
	return known
}

// makeRoom forgets what no longer matters, and where that is less than an eighth, others: their tokens are lost, never given twice.
func (p *leasePart) makeRoom(now time.Time) {
	quota := max(1, len(p.keys)/8)
	for hash, known := range p.keys {
		if known.flight == nil && !now.Before(known.until) && !now.Before(known.empty) {
			delete(p.keys, hash)
			quota--
		}
	}
	for hash, known := range p.keys {
		if quota <= 0 {
			return
		}
		if known.flight == nil {
			delete(p.keys, hash)
			quota--
		}
	}
}
