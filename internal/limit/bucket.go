package limit

import (
	"sync"
	"time"

	"github.com/hashicorp/golang-lru/v2/simplelru"
	"golang.org/x/time/rate"

	"github.com/eprod/eprod/internal/errs"
)

// Buckets is one token bucket per key, in this process. Safe for concurrent use.
type Buckets struct {
	cfg   BucketConfig
	clock func() time.Time
	mu    sync.Mutex // guards keys; a bucket has its own lock
	keys  *simplelru.LRU[string, *rate.Limiter]
}

// NewBuckets returns full buckets for every key. It fails when cfg is not valid.
func NewBuckets(cfg BucketConfig, clock func() time.Time) (*Buckets, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	keys, err := simplelru.NewLRU[string, *rate.Limiter](cfg.Keys, nil)
	if err != nil {
		return nil, err
	}
	return &Buckets{cfg: cfg, clock: clock, keys: keys}, nil
}

// Allow takes a token of key's bucket. If there is none it says when there will be one.
func (b *Buckets) Allow(key string) (ok bool, retryAfter time.Duration) {
	now := b.clock()
	bucket := b.bucket(key)
	if bucket.AllowN(now, 1) {
		return true, 0
	}
	missing := 1 - bucket.TokensAt(now)
	return false, max(0, time.Duration(missing/b.cfg.Rate*float64(time.Second)))
}

// Check is Allow as an error: nil, or errs.RateLimited with the delay.
func (b *Buckets) Check(key string) error {
	ok, after := b.Allow(key)
	if ok {
		return nil
	}
	return errs.New(errs.RateLimited, "rate_limited", "too many requests; slow down").WithRetryAfter(after)
}

func (b *Buckets) bucket(key string) *rate.Limiter {
	b.mu.Lock()
	defer b.mu.Unlock()
	if bucket, ok := b.keys.Get(key); ok {
		return bucket
	}
	bucket := rate.NewLimiter(rate.Limit(b.cfg.Rate), b.cfg.Burst)
	b.keys.Add(key, bucket)
	return bucket
}
