package idgen

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/eprod/eprod/internal/errs"
)

// RedisLeases keeps worker leases in Redis. Safe for concurrent use.
//
// Redis may lose its memory, and with it who has which number. A marker tells: while it is younger than one lease, no number is
// given out, because every owner from before may still issue ids, and the first grant of each number then starts above that time.
// Owners from before find at their next renewal that their number is gone. All processes need the same leaseTtl.
type RedisLeases struct {
	client redis.UniversalClient
	key    string
	ttl    time.Duration
}

// NewRedisLeases returns leases under one key. The client must have MaxRetries -1 and ContextTimeoutEnabled; ttl is the longest
// time that any process leases a number for.
func NewRedisLeases(client redis.UniversalClient, prefix string, ttl time.Duration) *RedisLeases {
	return &RedisLeases{client: client, key: prefix + "workers", ttl: ttl}
}

// One hash has for each number "fence high", the high water in microseconds, and since when it knows. "0 0" is no owner's.
var (
	takeWorker = redis.NewScript(`
local now, til, rest = tonumber(ARGV[1]), ARGV[2], tonumber(ARGV[3])
local since = redis.call('HGET', KEYS[1], 'since')
if not since then
  since = ARGV[1]
  redis.call('HSET', KEYS[1], 'since', since)
end
since = tonumber(since)
if now < since + rest then return {-1, string.format('%.0f', since + rest - now), ''} end
for worker = 0, tonumber(ARGV[4]) - 1 do
  local row = redis.call('HGET', KEYS[1], worker)
  if not row then
    redis.call('HSET', KEYS[1], worker, '1 ' .. til)
    return {worker, '1', string.format('%.0f', since + rest)}
  end
  local fence, high = string.match(row, '^(%d+) (%d+)$')
  if tonumber(high) < now then
    fence = string.format('%.0f', tonumber(fence) + 1)
    redis.call('HSET', KEYS[1], worker, fence .. ' ' .. til)
    return {worker, fence, high}
  end
end
return {-2, '', ''}`)
	setWorker = redis.NewScript(`
local row = redis.call('HGET', KEYS[1], ARGV[1])
if not row or string.match(row, '^%d+') ~= ARGV[2] then return 0 end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2] .. ' ' .. ARGV[3])
return 1`)
)

// Take implements Leases. The owner is not kept.
func (r *RedisLeases) Take(ctx context.Context, _ string, now, until time.Time) (Grant, error) {
	reply, err := takeWorker.Run(ctx, r.client, []string{r.key}, now.UnixMicro(), until.UnixMicro(), r.ttl.Microseconds(), Workers).Slice()
	if err != nil {
		return Grant{}, errs.Away("a worker number", fmt.Errorf("redis: %w", err))
	}
	if len(reply) != 3 {
		return Grant{}, errs.Away("a worker number", fmt.Errorf("redis: a reply of %d parts", len(reply)))
	}
	worker, _ := reply[0].(int64)
	second, _ := reply[1].(string)
	third, _ := reply[2].(string)
	switch worker {
	case -1:
		left, _ := strconv.ParseInt(second, 10, 64)
		return Grant{}, errs.Away("a worker number", fmt.Errorf("redis is empty or was emptied: numbers rest for %v", time.Duration(left)*time.Microsecond))
	case -2:
		return Grant{}, errs.Away("a free worker number", nil)
	}
	fence, errFence := strconv.ParseInt(second, 10, 64)
	floor, errFloor := strconv.ParseInt(third, 10, 64)
	if errFence != nil || errFloor != nil {
		return Grant{}, errs.Away("a worker number", fmt.Errorf("redis: the key %s holds something else", r.key))
	}
	return Grant{Worker: int(worker), Fence: fence, Floor: time.UnixMicro(floor).UTC()}, nil
}

// Renew implements Leases.
func (r *RedisLeases) Renew(ctx context.Context, g Grant, until time.Time) (bool, error) {
	held, err := setWorker.Run(ctx, r.client, []string{r.key}, g.Worker, g.Fence, until.UnixMicro()).Bool()
	if err != nil {
		return false, errs.Away("the worker lease", fmt.Errorf("redis: %w", err))
	}
	return held, nil
}

// Release implements Leases. The number of a grant that was lost is left alone.
func (r *RedisLeases) Release(ctx context.Context, g Grant, highWater time.Time) error {
	_, err := r.Renew(ctx, g, highWater)
	return err
}
