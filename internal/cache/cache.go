// Package cache decides what a cache may do here: speed reads up, and nothing else. Every failure of the cache is a miss,
// within a short time limit, and what is loaded instead is shared by all who ask for the same key at that moment.
//
// What Fetch keeps must never change under its key. Published questionnaire versions are such values; access rights, lock
// state and consent are not.
package cache

import (
	"context"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/redis/go-redis/v9"
	"golang.org/x/sync/singleflight"
)

// Store is a fast store shared by processes, which may forget anything at any time. Redis implements it.
type Store interface {
	Get(ctx context.Context, key string) (value []byte, ok bool, err error)
	Set(ctx context.Context, key string, value []byte, ttl time.Duration) error
}

// Redis is a Store. It is safe for concurrent use.
type Redis struct {
	client redis.UniversalClient
	prefix string
	budget time.Duration
}

// NewRedis returns a store whose keys begin with prefix and whose calls take no longer than budget. The client must have
// ContextTimeoutEnabled, or the budget means nothing to it.
func NewRedis(client redis.UniversalClient, prefix string, budget time.Duration) *Redis {
	return &Redis{client: client, prefix: prefix, budget: budget}
}

// Get returns a value and whether it is there.
func (r *Redis) Get(ctx context.Context, key string) ([]byte, bool, error) {
	ctx, cancel := context.WithTimeout(ctx, r.budget)
	defer cancel()
	value, err := r.client.Get(ctx, r.prefix+key).Bytes()
	if err == redis.Nil {
		return nil, false, nil
	}
	if err != nil {
		return nil, false, fmt.Errorf("cache get: %w", err)
	}
	return value, true, nil
}

// Set keeps a value for ttl at the longest.
func (r *Redis) Set(ctx context.Context, key string, value []byte, ttl time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, r.budget)
	defer cancel()
	if err := r.client.Set(ctx, r.prefix+key, value, ttl).Err(); err != nil {
		return fmt.Errorf("cache set: %w", err)
	}
	return nil
}

// SetMany keeps many values in one round trip.
func (r *Redis) SetMany(ctx context.Context, entries map[string][]byte, ttl time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, r.budget)
	defer cancel()
	_, err := r.client.Pipelined(ctx, func(p redis.Pipeliner) error {
		for key, value := range entries {
			p.Set(ctx, r.prefix+key, value, ttl)
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("cache set: %w", err)
	}
	return nil
}

// Cache reads through a Store. It is safe for concurrent use.
type Cache struct {
	store   Store
	ttl     time.Duration
	flights singleflight.Group
}

// New returns a cache that keeps values for about ttl: up to a tenth less, so that values that were filled together do not
// expire together.
func New(store Store, ttl time.Duration) *Cache { return &Cache{store: store, ttl: ttl} }

// loadTimeout bounds a load, which outlives the caller that began it.
const loadTimeout = 10 * time.Second

// Fetch returns the value of a key, from the store or else from load, whose errors it returns. Callers that miss the same
// key at once share one load; it goes on when one of them leaves, for ten seconds at the longest. Callers share the slice
// and must not change it.
func (c *Cache) Fetch(ctx context.Context, key string, load func(ctx context.Context) ([]byte, error)) ([]byte, error) {
	if value, ok, err := c.store.Get(ctx, key); err == nil && ok {
		return value, nil
	}
	flight := c.flights.DoChan(key, func() (any, error) {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), loadTimeout)
		defer cancel()
		// Another flight may have filled the key after this caller had missed it.
		if value, ok, err := c.store.Get(ctx, key); err == nil && ok {
			return value, nil
		}
		value, err := load(ctx)
		if err != nil {
			return nil, err
		}
		_ = c.store.Set(ctx, key, value, c.ttl-rand.N(c.ttl/10+1)) // a cache that cannot be filled is only slow
		return value, nil
	})
	select {
	case r := <-flight:
		value, _ := r.Val.([]byte)
		return value, r.Err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}
