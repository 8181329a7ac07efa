package lock

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/eprod/eprod/internal/errs"
)

// Reentrant are locks on a Redis that are free to their owner: the owner, named by WithOwner, takes a lock any number of times,
// and it is free to others when the last of these takings has been released or is over. All takings of one holding have its
// token. It is safe for concurrent use.
type Reentrant struct {
	*Locks
	store *reentrantStore
}

// NewReentrant returns re-entrant locks. They and those of NewRedis do not know of one another. What NewRedis demands of the
// client and says of fail-overs holds here.
func NewReentrant(client redis.UniversalClient, prefix string, parts Parts) *Reentrant {
	store := &reentrantStore{client: client, prefix: prefix + "relock:", clock: parts.Clock}
	return &Reentrant{Locks: &Locks{Parts: parts, kind: Editing, store: store}, store: store}
}

// Acquire implements Locker. The context must have an owner.
func (r *Reentrant) Acquire(ctx context.Context, name string, ttl time.Duration, options ...Option) (*Lease, error) {
	if Owner(ctx) == "" {
		return nil, fmt.Errorf("lock %s: a re-entrant lock needs an owner in its context: WithOwner", name)
	}
	return r.Locks.Acquire(ctx, name, ttl, options...)
}

// Hold takes a lock for an owner outside of any process, such as a person who edits: nothing watches over it but its ttl. Taking
// is the acquisition's own name; the same one again sets its end to ttl from now. Held by another it is a *HeldError; a Redis that
// does not answer is errs.Unavailable.
func (r *Reentrant) Hold(ctx context.Context, name, owner, taking string, ttl time.Duration) (Hold, error) {
	if owner == "" || len(owner) > maxHolder || taking == "" || len(taking) > maxName || name == "" || len(name) > maxName || ttl < minTTL || ttl > r.Config.MaxTTL {
		return Hold{}, fmt.Errorf("lock %q: owner, taking and name must have 1 to %d, %d and %d bytes, ttl %v must be from %v to %v",
			name, maxHolder, maxName, maxName, ttl, minTTL, r.Config.MaxTTL)
	}
	hold, err := ask(ctx, r.Locks, func(ctx context.Context) (Hold, error) { return r.store.hold(ctx, name, owner, taking, ttl) })
	r.count(err)
	if held := (*HeldError)(nil); err != nil && !errors.As(err, &held) && errs.KindOf(err) != errs.Overloaded {
		return Hold{}, away(name, err)
	}
	return hold, err
}

// Release ends a taking; one that is over already is no error.
func (r *Reentrant) Release(ctx context.Context, name, owner, taking string) error {
	_, err := ask(ctx, r.Locks, func(ctx context.Context) (struct{}, error) {
		return struct{}{}, r.store.release(ctx, name, owner, taking)
	})
	if err != nil {
		return away(name, err)
	}
	return nil
}

// Holder returns who has a lock, and whether anybody has.
func (r *Reentrant) Holder(ctx context.Context, name string) (Hold, bool, error) {
	hold, err := ask(ctx, r.Locks, func(ctx context.Context) (Hold, error) { return r.store.holder(ctx, name) })
	if err != nil {
		return Hold{}, false, away(name, err)
	}
	return hold, hold.Owner != "", nil
}

// maxTakings bounds how often an owner may have one lock at a time.
const maxTakings = 256

// A lock is one hash: o the owner, f the fence, and for each taking "t:" and its name with its end in milliseconds of the server's
// clock. Takings whose end has passed do not count; the hash expires a second after the last, since the server inside the process is
// not exact.
const readHold = `
local t = redis.call('TIME')
local now = math.floor(t[1] * 1000 + t[2] / 1000)
local owner, fence, live, last, others, over = false, false, 0, 0, 0, {}
local h = redis.call('HGETALL', KEYS[1])
for i = 1, #h, 2 do
  local field, ends = h[i], tonumber(h[i + 1])
  if field == 'o' then owner = h[i + 1]
  elseif field == 'f' then fence = h[i + 1]
  elseif ends > now then
    live = live + 1
    if ends > last then last = ends end
    if field ~= taking and ends > others then others = ends end
  else over[#over + 1] = field end
end
`

var (
	holdScript = redis.NewScript(nextFence + `local taking = 't:' .. ARGV[2]` + readHold + `
if live > 0 and owner ~= ARGV[1] then return {0, owner, fence, last - now} end
for i = 1, #over do redis.call('HDEL', KEYS[1], over[i]) end
if live == 0 then
  fence = next_fence(KEYS[2], ARGV[4])
  redis.call('HSET', KEYS[1], 'o', ARGV[1], 'f', fence)
elseif live >= tonumber(ARGV[5]) and redis.call('HEXISTS', KEYS[1], taking) == 0 then
  return {-1, owner, fence, last - now}
end
local ends = now + tonumber(ARGV[3])
redis.call('HSET', KEYS[1], taking, string.format('%.0f', ends))
last = math.max(ends, others)
redis.call('PEXPIREAT', KEYS[1], string.format('%.0f', last + 1000))
return {1, ARGV[1], fence, ends - now}`)
	extendScript = redis.NewScript(`local taking = 't:' .. ARGV[2]` + readHold + `
local ends = tonumber(redis.call('HGET', KEYS[1], taking) or 0)
if owner ~= ARGV[1] or ends <= now then return 0 end
ends = now + tonumber(ARGV[3])
redis.call('HSET', KEYS[1], taking, string.format('%.0f', ends))
redis.call('PEXPIREAT', KEYS[1], string.format('%.0f', math.max(ends, others) + 1000))
return 1`)
	releaseScript = redis.NewScript(`local taking = 't:' .. ARGV[2]` + readHold + `
if owner ~= ARGV[1] then return 0 end
redis.call('HDEL', KEYS[1], taking)
if others == 0 then redis.call('DEL', KEYS[1]) else redis.call('PEXPIREAT', KEYS[1], string.format('%.0f', others + 1000)) end
return 1`)
	holderScript = redis.NewScript(`local taking = ''` + readHold + `
if live == 0 then return {0, '', '0', 0} end
return {1, owner, fence, last - now}`)
)

type reentrantStore struct {
	client redis.UniversalClient
	prefix string
	clock  func() time.Time
}

func (s *reentrantStore) keys(name string) []string {
	lock := s.prefix + "{" + name + "}"
	return []string{lock, lock + ":fence"}
}

// run returns the outcome of a script that answers with {outcome, owner, fence, milliseconds left}, and whom it speaks of.
func (s *reentrantStore) run(ctx context.Context, script *redis.Script, name string, args ...any) (outcome int64, hold Hold, err error) {
	asked := s.clock()
	reply, err := script.Run(ctx, s.client, s.keys(name), args...).Slice()
	if err != nil {
		return 0, Hold{}, fmt.Errorf("redis: %w", err)
	}
	if len(reply) != 4 {
		return 0, Hold{}, fmt.Errorf("redis: a reply of %d parts", len(reply))
	}
	outcome, _ = reply[0].(int64)
	hold.Owner, _ = reply[1].(string)
	fence, _ := reply[2].(string)
	left, _ := reply[3].(int64)
	if hold.Fence, err = strconv.ParseInt(fence, 10, 64); err != nil {
		return 0, Hold{}, fmt.Errorf("redis: the key of lock %s holds something else: %w", name, err)
	}
	hold.Until = asked.Add(time.Duration(left) * time.Millisecond)
	return outcome, hold, nil
}

func (s *reentrantStore) hold(ctx context.Context, name, owner, taking string, ttl time.Duration) (Hold, error) {
	outcome, hold, err := s.run(ctx, holdScript, name, owner, taking, ttl.Milliseconds(), keepFence.Milliseconds(), maxTakings)
	switch {
	case err != nil:
		return Hold{}, err
	case outcome == 0:
		return Hold{}, &HeldError{hold}
	case outcome < 0:
		return Hold{}, errs.New(errs.Overloaded, "overloaded", fmt.Sprintf("one owner has a lock at most %d times at once", maxTakings)).WithRetryAfter(time.Second)
	}
	return hold, nil
}

func (s *reentrantStore) release(ctx context.Context, name, owner, taking string) error {
	if err := releaseScript.Run(ctx, s.client, s.keys(name)[:1], owner, taking).Err(); err != nil {
		return fmt.Errorf("redis: %w", err)
	}
	return nil
}

func (s *reentrantStore) holder(ctx context.Context, name string) (Hold, error) {
	held, hold, err := s.run(ctx, holderScript, name)
	if err != nil || held == 0 {
		return Hold{}, err
	}
	return hold, nil
}

func (s *reentrantStore) take(ctx context.Context, c *claim, ttl time.Duration) (int64, error) {
	hold, err := s.hold(ctx, c.name, c.holder, c.id, ttl)
	return hold.Fence, err
}

func (s *reentrantStore) extend(ctx context.Context, c *claim, ttl time.Duration) (bool, error) {
	held, err := extendScript.Run(ctx, s.client, s.keys(c.name)[:1], c.holder, c.id, ttl.Milliseconds()).Bool()
	if err != nil {
		return false, fmt.Errorf("redis: %w", err)
	}
	return held, nil
}

func (s *reentrantStore) free(ctx context.Context, c *claim) error {
	return s.release(ctx, c.name, c.holder, c.id)
}
