package idgen

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/eprod/eprod/internal/errs"
)

// Sequence is the other generator: numbers counted in Redis, taken in packs. They are dense where nothing is lost, and need no worker
// numbers. Within a process they ascend; between processes only packs do. Safe for concurrent use.
//
// Redis may lose its memory, or the newest part of it. The counter therefore never passes a bound that grows by 65,536 a second, and where
// it is missing, or the server is a different one than stands beside it, it goes on from that bound: above everything that can have been
// issued, whatever the moment of the loss. Numbers are refused until the next second then. Only a clock of Redis that is set back at the
// time of a loss, further than the counter lies below the bound, could repeat numbers; a process that meets a repetition of its own refuses.
type Sequence struct {
	client  redis.UniversalClient
	key     string
	pack    int64
	timeout time.Duration
	epoch   int64 // Unix seconds
	refused func(cause error)

	failures atomic.Int64 // attempts at a pack that failed

	mu         sync.Mutex
	next, last int64 // what is left of the pack; next > last: nothing
	failed     error // the last failure
}

// SequenceConfig bounds a Sequence.
type SequenceConfig struct {
	Pack    int           `koanf:"pack"`    // numbers taken at once; so many are lost with a process
	Timeout time.Duration `koanf:"timeout"` // for one pack
}

// NewSequence returns a sequence under one key. The client must have MaxRetries -1: a repeated call would waste a pack.
func NewSequence(client redis.UniversalClient, prefix string, cfg Config, deps Deps) (*Sequence, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	epoch, _ := time.Parse(time.RFC3339, cfg.Epoch) // Validate has parsed it
	return &Sequence{client: client, key: prefix + "sequence", pack: int64(cfg.Sequence.Pack), timeout: cfg.Sequence.Timeout, epoch: epoch.Unix(),
		refused: deps.Refused, next: 1}, nil
}

// ErrResting is why a Sequence refuses for a moment after Redis was found empty, or when numbers are used up faster than the bound grows.
var ErrResting = errors.New("the sequence rests until the next second")

// The numbers outgrow Lua's 53 bits 4,300 years after the epoch.
var takePack = redis.NewScript(thisServer + `
local bound = (tonumber(redis.call('TIME')[1]) - tonumber(ARGV[2]) + 2) * 65536
local known, this = redis.call('HMGET', KEYS[1], 'last', 'server'), server()
local last = tonumber(known[1] or 0)
if not known[1] or known[2] ~= this then
  last = math.max(last, bound)
  redis.call('HSET', KEYS[1], 'last', string.format('%.0f', last), 'server', this)
end
if last + tonumber(ARGV[1]) > bound then return 0 end
return redis.call('HINCRBY', KEYS[1], 'last', ARGV[1])`)

// Next returns a number greater than every number that this process was given before. It fails with errs.Unavailable while Redis
// does not answer.
func (s *Sequence) Next() (int64, error) {
	ids, err := s.NextN(1)
	if err != nil {
		return 0, err
	}
	return ids[0], nil
}

// NextN returns n ascending numbers, 1 to MaxBatch of them; not all of one request need to be neighbours.
func (s *Sequence) NextN(n int) ([]int64, error) {
	if n < 1 || n > MaxBatch {
		return nil, fmt.Errorf("idgen: %d ids at once: must be between 1 and %d", n, MaxBatch)
	}
	ids := make([]int64, 0, n)
	failures := s.failures.Load()
	s.mu.Lock()
	defer s.mu.Unlock()
	for len(ids) < n {
		if s.next > s.last {
			if s.failures.Load() != failures {
				return nil, s.failed // somebody's attempt failed while this call waited for it
			}
			if err := s.take(max(s.pack, int64(n-len(ids)))); err != nil {
				s.failed = err
				s.failures.Add(1)
				return nil, err
			}
		}
		ids = append(ids, s.next)
		s.next++
	}
	return ids, nil
}

// take fetches a pack. Callers wait for each other: whoever comes second would otherwise fetch one as well.
func (s *Sequence) take(size int64) error {
	ctx, cancel := context.WithTimeout(context.Background(), s.timeout) // the pack is for whoever comes next, too
	defer cancel()
	last, err := takePack.Run(ctx, s.client, []string{s.key}, size, s.epoch).Int64()
	switch {
	case err != nil:
		return s.refuse(ErrNoLease, errs.Away("the id generator", fmt.Errorf("redis: %w", err)))
	case last == 0:
		return s.refuse(ErrSaturated, errs.Away("the id generator", ErrResting))
	case last-size < s.last: // the memory was lost and the clock set back: rather none than one twice
		return s.refuse(ErrClock, errClock())
	}
	s.next, s.last = last-size+1, last
	return nil
}

func (s *Sequence) refuse(cause error, err *errs.Error) error {
	if s.refused != nil {
		s.refused(cause)
	}
	return err.WithRetryAfter(time.Second)
}
