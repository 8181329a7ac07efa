package lock

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
)

// NewRedis returns locks on a Redis. Their keys begin with prefix. The client must have ContextTimeoutEnabled, or Config.Timeout
// means nothing to it, and MaxRetries: -1, since the time limit and the repetition are decided here.
//
// A fail-over to a replica that had not heard of a lock yet gives it to a second holder: the first finds out when it renews, and
// the database refuses what it writes. The Redis inside the process ends keys up to a tenth of a second early, so without a Redis of
// its own an installation does better with NewTable.
func NewRedis(client redis.UniversalClient, prefix string, parts Parts) *Locks {
	return &Locks{Parts: parts, kind: OnRedis, store: &redisStore{client: client, prefix: prefix + "lock:", clock: parts.Clock}}
}

// A lock is one key, whose value is "id fence holder" and whose expiry is the lock's. The fence before it has a key of its own,
// {name}:fence, in the same slot of a cluster, which survives the lock.
//
// The next fence is the previous one plus 1, or the server's clock in microseconds where that is more. So it grows within one
// memory whatever the clock does, and after a FLUSHALL, or on a replica that missed the last acquisitions, because the clock has
// moved on. Only a memory that is lost while the clock falls back behind the last acquisition could repeat a fence; a lower one is
// refused by the database. For the same reason the fence's key may expire: then the same clock is days past the last fence. It
// takes until the year 2255 for the number to outgrow Lua's 53 bits.
const nextFence = `
local function next_fence(key, keep)
  local t = redis.call('TIME')
  local fence = t[1] * 1000000 + t[2]
  local last = tonumber(redis.call('GET', key) or 0)
  if last >= fence then fence = last + 1 end
  fence = string.format('%.0f', fence)
  redis.call('SET', key, fence, 'PX', keep)
  return fence
end
`

// keepFence is how long a fence is remembered after the last acquisition of its name: it bounds the memory.
const keepFence = 7 * 24 * time.Hour

// The id is the first 32 bytes of the value. An acquisition that meets its own id was answered before, but the answer was lost.
var (
	takeRedis = redis.NewScript(nextFence + `
local held = redis.call('GET', KEYS[1])
if held and string.sub(held, 1, 32) == ARGV[1] then
  redis.call('PEXPIRE', KEYS[1], ARGV[3])
  return {1, held}
end
if held then return {0, held, redis.call('PTTL', KEYS[1])} end
local value = ARGV[1] .. ' ' .. next_fence(KEYS[2], ARGV[4]) .. ' ' .. ARGV[2]
redis.call('SET', KEYS[1], value, 'NX', 'PX', ARGV[3])
return {1, value}`)
	extendRedis = redis.NewScript(`
local held = redis.call('GET', KEYS[1])
if not held or string.sub(held, 1, 32) ~= ARGV[1] then return 0 end
return redis.call('PEXPIRE', KEYS[1], ARGV[2])`)
	freeRedis = redis.NewScript(`
local held = redis.call('GET', KEYS[1])
if not held or string.sub(held, 1, 32) ~= ARGV[1] then return 0 end
return redis.call('DEL', KEYS[1])`)
)

type redisStore struct {
	client redis.UniversalClient
	prefix string
	clock  func() time.Time
}

func (s *redisStore) keys(name string) []string {
	lock := s.prefix + "{" + name + "}"
	return []string{lock, lock + ":fence"}
}

func (s *redisStore) take(ctx context.Context, c *claim, ttl time.Duration) (int64, error) {
	reply, err := takeRedis.Run(ctx, s.client, s.keys(c.name), c.id, c.holder, ttl.Milliseconds(), keepFence.Milliseconds()).Slice()
	if err != nil {
		return 0, fmt.Errorf("redis: %w", err)
	}
	if len(reply) < 2 {
		return 0, fmt.Errorf("redis: a reply of %d parts", len(reply))
	}
	value, _ := reply[1].(string)
	part := strings.SplitN(value, " ", 3)
	if len(part) != 3 {
		return 0, fmt.Errorf("redis: the key of lock %s holds something else", c.name)
	}
	fence, err := strconv.ParseInt(part[1], 10, 64)
	if err != nil {
		return 0, fmt.Errorf("redis: the key of lock %s holds something else: %w", c.name, err)
	}
	if taken, _ := reply[0].(int64); taken == 1 {
		return fence, nil
	}
	held := &HeldError{Hold{Owner: part[2], Fence: fence}}
	if left, ok := reply[len(reply)-1].(int64); ok && left >= 0 {
		held.Until = s.clock().Add(time.Duration(left) * time.Millisecond)
	}
	return 0, held
}

func (s *redisStore) extend(ctx context.Context, c *claim, ttl time.Duration) (bool, error) {
	held, err := extendRedis.Run(ctx, s.client, s.keys(c.name)[:1], c.id, ttl.Milliseconds()).Bool()
	if err != nil {
		return false, fmt.Errorf("redis: %w", err)
	}
	return held, nil
}

func (s *redisStore) free(ctx context.Context, c *claim) error {
	if err := freeRedis.Run(ctx, s.client, s.keys(c.name)[:1], c.id).Err(); err != nil {
		return fmt.Errorf("redis: %w", err)
	}
	return nil
}
