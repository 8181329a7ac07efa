// Package idgen decides what an id is and that none is ever issued twice: 63-bit Snowflakes of 41 bits of milliseconds, 10 bits of
// worker and 12 bits of sequence.
//
// Time and sequence are one atomic word that only grows, so ids of one process are unique whatever its clock does. Across processes and
// restarts a worker number is leased: every id carries a time below its lease's deadline, the deadline is stored before it is used, and
// the next owner of the number starts above everything that was stored. Neither clocks that disagree nor a paused process can then
// make the same id.
package idgen

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"sync/atomic"
	"time"

	"github.com/eprod/eprod/internal/errs"
)

// The layout of an id, from the highest bit: sign (0), milliseconds since the epoch, worker, sequence.
const (
	timeBits   = 41
	workerBits = 10
	seqBits    = 12
	seqMask    = 1<<seqBits - 1

	// Workers is the number of worker numbers.
	Workers = 1 << workerBits
	// MaxBatch is the most ids that NextN gives at once.
	MaxBatch = 1 << seqBits

	runAhead = 8                    // ms that ids may be ahead of the clock: a burst of 32,768 ids at once
	maxWait  = 5 * time.Millisecond // longest that Next waits, in all
	closed   = uint64(math.MaxUint64)
)

// Policy says what Next does when the clock is behind the ids already issued by more than the run-ahead.
type Policy string

// The policies: refuse at once, or wait up to 5 ms and then refuse.
const (
	Refuse Policy = "refuse"
	Wait   Policy = "wait"
)

// Config holds the settings of a generator. The zero value is not usable; start from DefaultConfig.
type Config struct {
	Epoch       string        `koanf:"epoch"`       // RFC 3339; ids count milliseconds from it for 69 years; never change it
	Kind        Kind          `koanf:"kind"`        // snowflake or sequence
	Worker      int           `koanf:"worker"`      // 0 to 1023, or -1: from source
	Source      Source        `koanf:"source"`      // database, redis, etcd or ordinal
	ClockPolicy Policy        `koanf:"clockPolicy"` // refuse or wait
	LeaseTTL    time.Duration `koanf:"leaseTtl"`    // how long a lease lasts unless renewed; it is renewed every third of it
	CoarseClock time.Duration `koanf:"coarseClock"` // how often the clock is read; 0: for every id

	Sequence SequenceConfig `koanf:"sequence"`
}

// Kind chooses the generator.
type Kind string

// The generators.
const (
	OfTime   Kind = "snowflake"
	OfNumber Kind = "sequence" // see Sequence
)

// DefaultConfig leases the worker number.
func DefaultConfig() Config {
	return Config{Epoch: "2024-01-01T00:00:00Z", Kind: OfTime, Worker: -1, Source: FromDatabase, ClockPolicy: Refuse, LeaseTTL: 30 * time.Second,
		Sequence: SequenceConfig{Pack: 1000, Timeout: time.Second}}
}

// Validate returns every problem at once, each as "key: value: what would be right".
func (c Config) Validate() error {
	var problems []error
	if epoch, err := time.Parse(time.RFC3339, c.Epoch); err != nil {
		problems = append(problems, fmt.Errorf("epoch: %s: must be an RFC 3339 instant such as 2024-01-01T00:00:00Z", c.Epoch))
	} else if epoch.Year() < 1970 {
		problems = append(problems, fmt.Errorf("epoch: %s: must be in 1970 or later", c.Epoch))
	}
	if c.Worker < -1 || c.Worker >= Workers {
		problems = append(problems, fmt.Errorf("worker: %d: must be -1 (leased) or between 0 and %d", c.Worker, Workers-1))
	}
	if c.Kind != OfTime && c.Kind != OfNumber {
		problems = append(problems, fmt.Errorf("kind: %s: must be snowflake or sequence", c.Kind))
	}
	if !c.Source.known() {
		problems = append(problems, fmt.Errorf("source: %s: must be database, redis, etcd or ordinal", c.Source))
	}
	if c.CoarseClock != 0 && (c.CoarseClock < 100*time.Microsecond || c.CoarseClock > 2*time.Millisecond) {
		problems = append(problems, fmt.Errorf("coarseClock: %v: must be 0 or between 100us and 2ms", c.CoarseClock))
	}
	if c.Sequence.Pack < 1 || c.Sequence.Pack > 1<<16 {
		problems = append(problems, fmt.Errorf("sequence.pack: %d: must be between 1 and 65536", c.Sequence.Pack))
	}
	if c.Sequence.Timeout <= 0 || c.Sequence.Timeout > 2*time.Second {
		problems = append(problems, fmt.Errorf("sequence.timeout: %v: must be above 0 and at most 2s", c.Sequence.Timeout))
	}
	if c.ClockPolicy != Refuse && c.ClockPolicy != Wait {
		problems = append(problems, fmt.Errorf("clockPolicy: %s: must be refuse or wait", c.ClockPolicy))
	}
	if c.LeaseTTL < time.Second || c.LeaseTTL > time.Hour {
		problems = append(problems, fmt.Errorf("leaseTtl: %v: must be between 1s and 1h", c.LeaseTTL))
	}
	return errors.Join(problems...)
}

// Why ids are refused; the cause of the errs.Unavailable that Next returns. Its code is clock_set_back for ErrClock.
var (
	ErrClock     = errors.New("the clock is behind the ids already issued")
	ErrNoLease   = errors.New("no worker lease")
	ErrSaturated = errors.New("more ids were asked for than there are")
)

// Deps are a generator's dependencies. All may be zero: the real clock read from a monotonic base, real sleep, no hook, no log.
type Deps struct {
	Clock   func() time.Time
	Sleep   func(time.Duration)
	Refused func(cause error) // called for every refusal, with one of the Err values; for a counter and an alarm
	Log     *slog.Logger      // gets an error when the clock is found set back, once until ids are issued again
}

// tenure is the right to issue ids of one worker number with times below until.
type tenure struct {
	worker uint64
	until  uint64 // ms since the epoch, exclusive
}

// Snowflake issues ids. Safe for concurrent use.
type Snowflake struct {
	epoch   time.Time
	policy  Policy
	exact   func() int64 // ms since the epoch
	coarse  atomic.Int64 // the same as of the last tick; 0: nothing ticks
	tick    time.Duration
	rebase  func() time.Duration
	sleep   func(time.Duration)
	refused func(error)
	log     *slog.Logger
	alarmed atomic.Bool   // the log knows that the clock was set back
	word    atomic.Uint64 // ms<<12 | seq of the last id; closed: no more
	tenure  atomic.Pointer[tenure]
}

// New returns a generator. With a fixed worker it issues at once: two processes must never share the number, and a restart after the
// clock was set back can repeat ids. With Worker -1 it refuses until a Lease has acquired a number.
func New(cfg Config, deps Deps) (*Snowflake, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	epoch, _ := time.Parse(time.RFC3339, cfg.Epoch) // Validate has parsed it
	s := &Snowflake{epoch: epoch, policy: cfg.ClockPolicy, sleep: deps.Sleep, refused: deps.Refused, log: deps.Log, tick: cfg.CoarseClock}
	if s.sleep == nil {
		s.sleep = time.Sleep
	}
	if deps.Clock != nil {
		s.exact = func() int64 { return deps.Clock().Sub(epoch).Milliseconds() }
		s.rebase = func() time.Duration { return 0 }
	} else {
		s.useMonotonic()
	}
	if cfg.Worker >= 0 {
		s.install(tenure{worker: uint64(cfg.Worker), until: 1 << timeBits}, 0)
	}
	return s, nil
}

// useMonotonic counts from one reading of the wall clock, so that a step of it does not reach the ids.
func (s *Snowflake) useMonotonic() {
	start := time.Now()
	base := start.Sub(s.epoch)
	var forward atomic.Int64 // ns by which the wall clock has gained, as when the machine slept
	s.exact = func() int64 {
		return int64((base + time.Since(start) + time.Duration(forward.Load())) / time.Millisecond)
	}
	s.rebase = func() time.Duration {
		gain := time.Now().Round(0).Sub(start.Round(0)) - time.Since(start) - time.Duration(forward.Load())
		if gain > time.Second {
			forward.Add(int64(gain)) // forward is always safe
		}
		return gain
	}
}

func (s *Snowflake) now() int64 {
	if ms := s.coarse.Load(); ms != 0 {
		return ms
	}
	return s.exact()
}

// Tick reads the clock every Config.CoarseClock, so that ids need not, until ctx ends; without that setting it only waits. Ids stay
// unique whatever becomes of it: a clock that lags makes older ids, and the lease's deadline is compared with the time in the id. Only a
// process that was paused may, until its first tick, issue ids that its old lease still covers.
func (s *Snowflake) Tick(ctx context.Context) error {
	if s.tick == 0 {
		<-ctx.Done()
		return nil
	}
	ticker := time.NewTicker(s.tick)
	defer ticker.Stop()
	defer s.coarse.Store(0)
	for {
		s.coarse.Store(s.exact())
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
	}
}

// Next returns an id greater than every id that this process was given before. It fails with errs.Unavailable while no id can be
// issued safely, after at most 5 ms.
func (s *Snowflake) Next() (int64, error) {
	first, worker, err := s.take(1)
	if err != nil {
		return 0, err
	}
	return compose(first, worker), nil
}

// NextN returns n ids in ascending order, 1 to MaxBatch of them; it costs little more than Next.
func (s *Snowflake) NextN(n int) ([]int64, error) {
	if n < 1 || n > MaxBatch {
		return nil, fmt.Errorf("idgen: %d ids at once: must be between 1 and %d", n, MaxBatch)
	}
	first, worker, err := s.take(uint64(n))
	if err != nil {
		return nil, err
	}
	ids := make([]int64, n)
	for i := range ids {
		ids[i] = compose(first+uint64(i), worker)
	}
	return ids, nil
}

func compose(word, worker uint64) int64 {
	return int64(word>>seqBits<<(workerBits+seqBits) | worker<<seqBits | word&seqMask)
}

// take reserves n consecutive words. A full millisecond runs on into the next, at most runAhead before the clock.
func (s *Snowflake) take(n uint64) (first, worker uint64, err error) {
	var waited time.Duration
	for {
		t := s.tenure.Load()
		if t == nil {
			return 0, 0, s.refuse(ErrNoLease)
		}
		last := s.word.Load() // before the clock: the other way round a pause in between would look like a clock set back
		if last == closed {
			return 0, 0, s.refuse(ErrNoLease)
		}
		now := s.now()
		first = last + 1
		if now > int64(last>>seqBits) {
			first = uint64(now) << seqBits
		}
		end := first + n - 1
		if lag := int64(end>>seqBits) - now - runAhead; lag > 0 {
			if err := s.wait(lag, &waited); err != nil {
				return 0, 0, err
			}
			continue
		}
		if end>>seqBits >= t.until {
			return 0, 0, s.refuse(ErrNoLease)
		}
		if s.word.CompareAndSwap(last, end) {
			if s.alarmed.Load() {
				s.alarmed.Store(false)
			}
			return first, t.worker, nil
		}
	}
}

// wait lets the clock catch up by lag milliseconds, or refuses. Up to 2 ms is a generator that is used up, more is a clock that was set
// back.
func (s *Snowflake) wait(lag int64, waited *time.Duration) error {
	if lag > 2 && (s.policy == Refuse || lag > int64(maxWait/time.Millisecond)) {
		return s.refuse(ErrClock)
	}
	d := time.Duration(lag) * time.Millisecond
	if *waited += d; *waited > maxWait {
		if s.now() < int64(s.word.Load()>>seqBits)-runAhead-2 {
			return s.refuse(ErrClock)
		}
		return s.refuse(ErrSaturated)
	}
	s.sleep(d)
	return nil
}

func (s *Snowflake) refuse(cause error) error {
	if s.refused != nil {
		s.refused(cause)
	}
	if !errors.Is(cause, ErrClock) {
		return errs.Away("the id generator", cause).WithRetryAfter(time.Second)
	}
	if s.log != nil && !s.alarmed.Swap(true) {
		s.log.LogAttrs(context.Background(), slog.LevelError, "no ids: the clock was set back", slog.Time("last_id", s.time(s.word.Load()>>seqBits)),
			slog.Time("clock", s.time(uint64(max(0, s.now())))), slog.String("policy", string(s.policy)))
	}
	return errClock()
}

// errClock refuses ids until the clock has caught up. It is the server's own trouble, and readiness stays: other requests need no new id.
func errClock() *errs.Error {
	return errs.New(errs.Unavailable, "clock_set_back", "the server's clock was set back; ids are refused until it has caught up").
		WithCause(ErrClock).WithRetryAfter(time.Second)
}

// install lets the generator issue for t, above floor (ms) and above everything issued before, so that ids still ascend when the
// worker number becomes smaller.
func (s *Snowflake) install(t tenure, floor uint64) {
	for {
		last := s.word.Load()
		if last == closed {
			return
		}
		next := max(last, floor<<seqBits)
		if next != 0 {
			next |= seqMask
		}
		if s.word.CompareAndSwap(last, next) {
			break
		}
	}
	s.tenure.Store(&t)
}

// extend moves the deadline of the worker number that is held.
func (s *Snowflake) extend(until uint64) {
	if t := s.tenure.Load(); t != nil {
		s.tenure.Store(&tenure{worker: t.worker, until: until})
	}
}

// close ends the generator for good and returns the time (ms) of the last id. Swapping the word makes sure that no caller that is
// half-way through take can still succeed.
func (s *Snowflake) close() uint64 {
	last := s.word.Swap(closed)
	s.tenure.Store(nil)
	if last == closed {
		return 0
	}
	return last >> seqBits
}

// Decode takes an id apart by the epoch of cfg, without a generator.
func Decode(cfg Config, id int64) (at time.Time, worker, seq int, err error) {
	epoch, err := time.Parse(time.RFC3339, cfg.Epoch)
	if err != nil {
		return time.Time{}, 0, 0, fmt.Errorf("epoch: %w", err)
	}
	if id <= 0 {
		return time.Time{}, 0, 0, fmt.Errorf("%d is no id: ids are above zero", id)
	}
	at, worker, seq = (&Snowflake{epoch: epoch}).Decode(id)
	return at, worker, seq, nil
}

// Decode tells when and by which worker an id was issued. It is for people and tests; nothing may depend on it.
func (s *Snowflake) Decode(id int64) (at time.Time, worker, seq int) {
	ms := id >> (workerBits + seqBits)
	return s.epoch.Add(time.Duration(ms) * time.Millisecond), int(id>>seqBits) & (Workers - 1), int(id) & seqMask
}
