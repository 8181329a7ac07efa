package idgen

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/eprod/eprod/internal/errs"
)

// Sequence is the other generator: numbers counted in Redis, taken in packs. They are dense where nothing is lost, and need no worker
// numbers. Within a process they ascend; between processes only packs do. Safe for concurrent use.
//
// Redis may lose its memory. The counter therefore never passes a bound that grows by 65,536 a second, and where it is missing it begins
// at that bound: above everything that can have been issued, whatever the moment of the loss. Numbers are refused until the next
// second then. Only a clock of Redis that is set back at the same time could repeat numbers; a process that meets a repetition of its own refuses.
type Sequence struct {
	client  redis.UniversalClient
	key     string
	pack    int64
	timeout time.Duration
	epoch   int64 // Unix seconds
	refused func(cause error)

	mu         sync.Mutex
	next, last int64 // what is left of the pack; next > last: nothing
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
var takePack = redis.NewScript(`
local bound = (tonumber(redis.call('TIME')[1]) - tonumber(ARGV[2]) + 2) * 65536
local last = tonumber(redis.call('GET', KEYS[1]) or -1)
if last < 0 then
  last = bound
  redis.call('SET', KEYS[1], string.format('%.0f', last))
end
if last + tonumber(ARGV[1]) > bound then return 0 end
return redis.call('INCRBY', KEYS[1], ARGV[1])`)

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
	s.mu.Lock()
	defer s.mu.Unlock()
	for len(ids) < n {
		if s.next > s.last {
			if err := s.take(max(s.pack, int64(n-len(ids)))); err != nil {
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
	if err != nil {
		if s.refused != nil {
			s.refused(ErrNoLease)
		}
		return errs.Away("the id generator", fmt.Errorf("redis: %w", err)).WithRetryAfter(time.Second)
	}
	if last == 0 {
		if s.refused != nil {
			s.refused(ErrSaturated)
		}
		return errs.Away("the id generator", ErrResting).WithRetryAfter(time.Second)
	}
	if last-size < s.last { // the memory was lost and its clock set back: rather none than one twice
		if s.refused != nil {
			s.refused(ErrClock)
		}
		return errs.Away("the id generator", ErrClock).WithRetryAfter(time.Second)
	}
	s.next, s.last = last-size+1, last
	return nil
}
