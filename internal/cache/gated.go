package cache

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"strconv"
	"time"

	"github.com/redis/go-redis/v9"
	"golang.org/x/sync/singleflight"

	"github.com/eprod/eprod/internal/errs"
)

// Config bounds a Gated cache.
type Config struct {
	TTL         time.Duration `koanf:"ttl"`         // how long a value is kept; up to a tenth less, so that values filled together do not expire together
	AbsentTTL   time.Duration `koanf:"absentTtl"`   // how long it is remembered that something does not exist
	LoadTimeout time.Duration `koanf:"loadTimeout"` // for one reading of the database
	Loads       int           `koanf:"loads"`       // readings of the database at once; more wait
}

// DefaultConfig returns settings for values that change seldom.
func DefaultConfig() Config {
	return Config{TTL: 24 * time.Hour, AbsentTTL: 30 * time.Second, LoadTimeout: 2 * time.Second, Loads: 16}
}

// Validate returns every problem at once, each as "key: value: what would be right".
func (c Config) Validate() error {
	var problems []error
	for _, d := range []struct {
		key   string
		value time.Duration
	}{{"ttl", c.TTL}, {"absentTtl", c.AbsentTTL}, {"loadTimeout", c.LoadTimeout}} {
		if d.value < time.Millisecond {
			problems = append(problems, fmt.Errorf("%s: %v: must be 1ms or more", d.key, d.value))
		}
	}
	if c.LoadTimeout > gateTTL/2 {
		problems = append(problems, fmt.Errorf("loadTimeout: %v: must be at most %v", c.LoadTimeout, gateTTL/2))
	}
	if c.Loads < 1 {
		problems = append(problems, fmt.Errorf("loads: %d: must be 1 or more", c.Loads))
	}
	return errors.Join(problems...)
}

// gateTTL is how long a key without a value remembers its gate and its turn: longer than any load that a deletion must refuse.
const gateTTL = time.Minute

// A key is one Redis hash: d the value, v its version, g the lowest version that may be filled in, n the turn. Whoever misses
// is told the turn and may fill only while it still stands. A deletion ends the turn, and so does a Redis that loses its
// memory: a value that was loaded before either of them never gets in. Versions above 2^53 would be rounded by Lua.
var (
	enter = redis.NewScript(`
local r = redis.call('HMGET', KEYS[1], 'd', 'n')
if r[1] then return {r[1], ''} end
if not r[2] then
  redis.call('HSET', KEYS[1], 'n', ARGV[1])
  r[2] = ARGV[1]
end
redis.call('PEXPIRE', KEYS[1], ARGV[2])
return {false, r[2]}`)
	fill = redis.NewScript(`
local r = redis.call('HMGET', KEYS[1], 'n', 'g', 'v')
local version = tonumber(ARGV[2])
if r[1] ~= ARGV[1] or (r[2] and tonumber(r[2]) > version) or (r[3] and tonumber(r[3]) > version) then return 0 end
redis.call('HSET', KEYS[1], 'd', ARGV[3], 'v', ARGV[2])
redis.call('PEXPIRE', KEYS[1], ARGV[4])
return 1`)
	drop = redis.NewScript(`
local r = redis.call('HMGET', KEYS[1], 'v', 'g')
local version = tonumber(ARGV[1])
if version > 0 and r[1] and tonumber(r[1]) >= version then return 0 end
redis.call('HDEL', KEYS[1], 'd', 'v', 'n')
if not r[2] or tonumber(r[2]) < version then redis.call('HSET', KEYS[1], 'g', ARGV[1]) end
redis.call('PEXPIRE', KEYS[1], ARGV[2])
return 1`)
)

// Gated reads values that change through Redis. A value never gets in after it was deleted, whatever its loader was doing
// meanwhile; Redis away is a miss. Writers change the database, then call Invalidate, and let an Invalidation event in the
// same transaction repeat it until it is done. Safe for concurrent use by any number of processes.
type Gated struct {
	redis   *Redis
	config  Config
	meter   Meter
	flights singleflight.Group
	loads   chan struct{}
}

// Meter counts what a cache does; outcome is hit, miss, stale (older than the caller had seen) or away.
type Meter interface{ Cached(outcome string) }

// NewGated returns a cache on a Redis. The client must have ContextTimeoutEnabled.
func NewGated(r *Redis, config Config, meter Meter) *Gated {
	return &Gated{redis: r, config: config, meter: meter, loads: make(chan struct{}, config.Loads)}
}

// Load reads a value and its version from the database. The version grows with every change of the value, is at least 1, and
// is read no later than the value. errs.NotFound is remembered as well, for a shorter time.
type Load func(ctx context.Context) (value []byte, version int64, err error)

// Get returns the value of a key, of at least version floor, from Redis or else from load, whose errors it returns. A floor
// that load itself does not reach is no error: what the database says holds. Callers that miss the same key in the same turn
// share one load, which goes on when one of them leaves; of all keys together, few are loaded at once, and errs.Unavailable is
// the answer where that takes too long. Callers share the slice and must not change it.
func (g *Gated) Get(ctx context.Context, key string, floor int64, load Load) ([]byte, error) {
	kept, err := g.peek(ctx, key)
	if err == nil && (kept == nil || kept.version < floor) {
		if kept, err = g.turn(ctx, key, floor); err == nil && kept.turn != "" {
			g.meter.Cached("miss")
			return g.share(ctx, key, kept.turn, floor, load)
		}
	}
	if err != nil {
		// Nobody may join a load that began before he asked: without Redis there is no turn that tells.
		g.meter.Cached("away")
		return g.load(ctx, key, "", load)
	}
	g.meter.Cached("hit")
	return kept.answer()
}

// turn returns what is kept, if it is of version floor, or else a turn to fill the key.
func (g *Gated) turn(ctx context.Context, key string, floor int64) (*entry, error) {
	kept, err := g.enter(ctx, key)
	if err != nil || kept.turn != "" || kept.version >= floor {
		return kept, err
	}
	// The caller has seen a younger one, so a deletion is still on its way; or it is nothing that was filled in here.
	g.meter.Cached("stale")
	if err := g.Invalidate(ctx, key, 0); err != nil {
		return nil, err
	}
	return g.enter(ctx, key)
}

// share lets callers of the same turn share a load: the turn ends with a deletion, so the load began after whatever deletion
// any of them knows of.
func (g *Gated) share(ctx context.Context, key, turn string, floor int64, load Load) ([]byte, error) {
	flight := g.flights.DoChan(key+"\x00"+turn, func() (any, error) {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), g.config.LoadTimeout)
		defer cancel()
		// Another flight of this turn may have ended after this caller had asked.
		if kept, err := g.peek(ctx, key); err == nil && kept != nil && kept.version >= floor {
			return kept.answer()
		}
		return g.load(ctx, key, turn, load)
	})
	select {
	case r := <-flight:
		value, _ := r.Val.([]byte)
		return value, r.Err
	case <-ctx.Done():
		return nil, errs.Away("the cache's database", ctx.Err())
	}
}

func (g *Gated) load(ctx context.Context, key, turn string, load Load) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, g.config.LoadTimeout)
	defer cancel()
	select {
	case g.loads <- struct{}{}:
		defer func() { <-g.loads }()
	case <-ctx.Done():
		return nil, errs.Away("the cache's database", ctx.Err())
	}
	value, version, err := load(ctx)
	refusal, refused := errs.As(err)
	absent := refused && refusal.Kind == errs.NotFound
	if err != nil && !absent {
		return nil, err
	}
	if turn != "" {
		e := entry{value: value, version: version}
		if absent {
			e = entry{value: []byte(refusal.Detail), absent: true}
		}
		g.fill(ctx, key, turn, e) // a cache that cannot be filled is only slow
	}
	return value, err
}

// Invalidate removes what a key has, unless it is of the given version or younger, and keeps loads that are under way from
// filling it. Version 0 removes it whatever it is.
func (g *Gated) Invalidate(ctx context.Context, key string, version int64) error {
	ctx, cancel := context.WithTimeout(ctx, g.redis.budget)
	defer cancel()
	if err := drop.Run(ctx, g.redis.client, []string{g.redis.prefix + key}, version, gateTTL.Milliseconds()).Err(); err != nil {
		return fmt.Errorf("cache delete: %w", err)
	}
	return nil
}

// Verify compares what Redis has under a key with the database. It reports false when Redis has an older version, and removes
// it. A key that Redis does not have is right.
func (g *Gated) Verify(ctx context.Context, key string, load Load) (bool, error) {
	kept, err := g.peek(ctx, key)
	if err != nil || kept == nil {
		return true, err
	}
	_, version, err := load(ctx)
	absent := errs.KindOf(err) == errs.NotFound && err != nil
	if err != nil && !absent {
		return true, err
	}
	if kept.absent == absent && kept.version >= version {
		return true, nil
	}
	return false, g.Invalidate(ctx, key, max(version, 0))
}

// entry is a value as Redis has it, version and presence before the bytes, so that one read tells all; or the turn to fill it.
type entry struct {
	value   []byte
	version int64
	absent  bool
	turn    string // where nothing is kept
}

// answer is what a caller gets; of what does not exist the bytes are the refusal's detail.
func (e *entry) answer() ([]byte, error) {
	if e.absent {
		return nil, errs.New(errs.NotFound, "not_found", string(e.value))
	}
	return e.value, nil
}

func (e *entry) encode() []byte {
	b := binary.BigEndian.AppendUint64(make([]byte, 0, 9+len(e.value)), uint64(e.version))
	absent := byte(0)
	if e.absent {
		absent = 1
	}
	return append(append(b, absent), e.value...)
}

func decode(b []byte) *entry {
	if len(b) < 9 || b[8] > 1 {
		return &entry{version: -1} // not written by encode: below every floor
	}
	return &entry{value: b[9:], version: int64(binary.BigEndian.Uint64(b)), absent: b[8] == 1}
}

// peek returns what is kept, or nil.
func (g *Gated) peek(ctx context.Context, key string) (*entry, error) {
	ctx, cancel := context.WithTimeout(ctx, g.redis.budget)
	defer cancel()
	b, err := g.redis.client.HGet(ctx, g.redis.prefix+key, "d").Bytes()
	if errors.Is(err, redis.Nil) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("cache get: %w", err)
	}
	return decode(b), nil
}

// enter returns what is kept, or a turn.
func (g *Gated) enter(ctx context.Context, key string) (*entry, error) {
	ctx, cancel := context.WithTimeout(ctx, g.redis.budget)
	defer cancel()
	proposal := strconv.FormatUint(rand.Uint64(), 36) // names a turn, and need not be hard to guess
	r, err := enter.Run(ctx, g.redis.client, []string{g.redis.prefix + key}, proposal, gateTTL.Milliseconds()).Slice()
	if err != nil {
		return nil, fmt.Errorf("cache get: %w", err)
	}
	if len(r) != 2 {
		return nil, fmt.Errorf("cache get: a reply of %d parts", len(r))
	}
	if b, ok := r[0].(string); ok {
		return decode([]byte(b)), nil
	}
	turn, _ := r[1].(string)
	return &entry{turn: turn}, nil
}

func (g *Gated) fill(ctx context.Context, key, turn string, e entry) {
	ctx, cancel := context.WithTimeout(ctx, g.redis.budget)
	defer cancel()
	ttl := g.config.TTL
	if e.absent {
		ttl = g.config.AbsentTTL
	}
	ttl -= rand.N(ttl/10 + 1)
	_ = fill.Run(ctx, g.redis.client, []string{g.redis.prefix + key}, turn, e.version, e.encode(), ttl.Milliseconds()).Err()
}
