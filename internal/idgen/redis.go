package idgen

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/eprod/eprod/internal/errs"
)

// RedisLeases keeps worker leases in Redis. Safe for concurrent use.
//
// Redis may lose its memory, or the newest part of it, and with it who has which number. It does so only when it is emptied, restarts,
// or another server takes its place: when the key is gone or the server is a different one than stands in it. Then all numbers rest for
// one lease and maxSkew, because every owner from before may still issue ids to the end of its lease, and the first grant of each
// number then starts above that time. Owners from before cannot renew. All processes need the same leaseTtl, and clocks that differ by
// less than maxSkew at the moment of the loss; at all other times clocks may disagree at will.
type RedisLeases struct {
	client redis.UniversalClient
	key    string
	ttl    time.Duration
}

const maxSkew = 10 * time.Second

// NewRedisLeases returns leases under one key. The client must have MaxRetries -1 and ContextTimeoutEnabled; ttl is how long every
// process leases a number for. The account needs the right to INFO.
func NewRedisLeases(client redis.UniversalClient, prefix string, ttl time.Duration) *RedisLeases {
	return &RedisLeases{client: client, key: prefix + "workers", ttl: ttl}
}

// thisServer names one run of one server, as long as it is the one that decides. Scripts that write after INFO need Redis 5 or later.
const thisServer = `
local function server()
  return string.match(redis.call('INFO', 'server'), 'run_id:(%w+)') .. string.match(redis.call('INFO', 'replication'), 'master_replid:(%w+)')
end
`

// One hash has for each number "fence high", the high water in microseconds, and which server it was since when. A number's first
// fence is that time: greater than all from before a loss.
const sinceWhen = thisServer + `
local function since(now)
  local known, this = redis.call('HMGET', KEYS[1], 'since', 'server'), server()
  if known[1] and known[2] == this then return tonumber(known[1]) end
  redis.call('DEL', KEYS[1])
  redis.call('HSET', KEYS[1], 'since', now, 'server', this)
  return tonumber(now)
end
`

var (
	takeWorker = redis.NewScript(sinceWhen + `
local now, til = tonumber(ARGV[1]), ARGV[2]
local start = since(ARGV[1])
local rested = start + tonumber(ARGV[3])
if now < rested then return {-1, string.format('%.0f', rested - now), ''} end
for worker = 0, tonumber(ARGV[4]) - 1 do
  local row = redis.call('HGET', KEYS[1], worker)
  if not row then
    local fence = string.format('%.0f', start)
    redis.call('HSET', KEYS[1], worker, fence .. ' ' .. til)
    return {worker, fence, string.format('%.0f', rested)}
  end
  local fence, high = string.match(row, '^(%d+) (%d+)$')
  if tonumber(high) < now then
    fence = string.format('%.0f', tonumber(fence) + 1)
    redis.call('HSET', KEYS[1], worker, fence .. ' ' .. til)
    return {worker, fence, high}
  end
end
return {-2, '', ''}`)
	renewWorker = redis.NewScript(sinceWhen + `
local resting = tonumber(ARGV[4]) < since(ARGV[4]) + tonumber(ARGV[5])
local row = redis.call('HGET', KEYS[1], ARGV[1])
if not row and resting then return -1 end
if not row or string.match(row, '^%d+') ~= ARGV[2] then return 0 end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2] .. ' ' .. ARGV[3])
return 1`)
	releaseWorker = redis.NewScript(`
local row = redis.call('HGET', KEYS[1], ARGV[1])
if row and string.match(row, '^%d+') == ARGV[2] then redis.call('HSET', KEYS[1], ARGV[1], ARGV[2] .. ' ' .. ARGV[3]) end
return 1`)
)

func (r *RedisLeases) rest() int64 { return (r.ttl + maxSkew).Microseconds() }

// Take implements Leases. The owner is not kept.
func (r *RedisLeases) Take(ctx context.Context, _ string, now, until time.Time) (Grant, error) {
	reply, err := takeWorker.Run(ctx, r.client, []string{r.key}, now.UnixMicro(), until.UnixMicro(), r.rest(), Workers).Slice()
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
		return Grant{}, errs.Away("a worker number", fmt.Errorf("redis is new or lost its memory: numbers rest for %v", time.Duration(left)*time.Microsecond))
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

// Renew implements Leases. While numbers rest it fails: the owner may go on to the end of its lease, not beyond.
func (r *RedisLeases) Renew(ctx context.Context, g Grant, until time.Time) (bool, error) {
	reply, err := renewWorker.Run(ctx, r.client, []string{r.key}, g.Worker, g.Fence, until.UnixMicro(), until.Add(-r.ttl).UnixMicro(), r.rest()).Int()
	if err != nil {
		return false, errs.Away("the worker lease", fmt.Errorf("redis: %w", err))
	}
	if reply < 0 {
		return false, errs.Away("the worker lease", errors.New("redis lost its memory: this number lasts to the end of its lease"))
	}
	return reply == 1, nil
}

// Release implements Leases. The number of a grant that was lost is left alone.
func (r *RedisLeases) Release(ctx context.Context, g Grant, highWater time.Time) error {
	if err := releaseWorker.Run(ctx, r.client, []string{r.key}, g.Worker, g.Fence, highWater.UnixMicro()).Err(); err != nil {
		return errs.Away("the worker lease", fmt.Errorf("redis: %w", err))
	}
	return nil
}
