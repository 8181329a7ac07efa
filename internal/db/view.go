package db

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"gorm.io/gorm"

	"github.com/eprod/eprod/internal/errs"
)

// Map says which shard holds each bucket, by the shards' names.
type Map struct {
	Version int64
	Owner   [Buckets]string
	// Moving buckets are on their way, or have a second copy: who reads them must ask the shard first.
	Moving [Buckets]bool
}

// atlas is a map by the shards' places. It is never changed.
type atlas struct {
	version int64
	owner   [Buckets]int
	moving  [Buckets]bool
	still   bool // nothing moves
}

// Apply replaces the map; one that is older than what is known is ignored. A shard that this process does not have is an error, and
// then nothing is changed. From the first call on the map must be confirmed: see Confirm.
func (s *Shards) Apply(m Map) error {
	next := &atlas{version: m.Version, moving: m.Moving, still: m.Moving == [Buckets]bool{}}
	for b, name := range m.Owner {
		next.owner[b] = -1
		for i, d := range s.all {
			if d.Name == name {
				next.owner[b] = i
			}
		}
		if next.owner[b] < 0 {
			return fmt.Errorf("bucket %d is on the shard %q, which this process's settings do not have: add it to database.shards", b, name)
		}
	}
	s.follows.Store(true)
	for was := s.now.Load(); was.version <= next.version; was = s.now.Load() {
		if s.now.CompareAndSwap(was, next) {
			break
		}
	}
	return nil
}

// Confirm says that the map was the latest one and that this process has told so to whoever moves buckets: nothing moves without
// telling this process before that instant. Past it, reads ask the shards.
func (s *Shards) Confirm(until time.Time) { s.until.Store(&until) }

// Version returns the version of the map.
func (s *Shards) Version() int64 { return s.now.Load().version }

// Stale returns a channel on which something arrives when a bucket was found elsewhere than the map says.
func (s *Shards) Stale() <-chan struct{} { return s.stale }

func (s *Shards) confirmed() bool {
	if !s.follows.Load() {
		return true
	}
	until := s.until.Load()
	return until != nil && time.Now().Before(*until)
}

// learn remembers where a bucket was found, until the next map.
func (s *Shards) learn(bucket, owner int) {
	for {
		was := s.now.Load()
		if was.owner[bucket] == owner {
			return
		}
		next := *was
		next.owner[bucket], next.moving[bucket], next.still = owner, true, false
		if s.now.CompareAndSwap(was, &next) {
			break
		}
	}
	select {
	case s.stale <- struct{}{}:
	default:
	}
}

// Home is where a participant is read.
type Home struct {
	shards *Shards
	bucket int
}

// Home returns where a participant is read. Use it at once, for one read: what it finds includes every write that was answered
// before.
func (s *Shards) Home(participant int64) Home { return Home{s, Bucket(participant)} }

// HomeOf returns where the participants of a bucket are read.
func (s *Shards) HomeOf(bucket int) Home { return Home{s, bucket} }

// Read is DB.Read on the shard where the participant is. Where that cannot be told, every statement returns the error.
func (h Home) Read(ctx context.Context) *gorm.DB {
	d, err := h.shards.locate(ctx, h.bucket)
	if err == nil {
		return d.Read(ctx)
	}
	tx := h.shards.ForBucket(h.bucket).Read(ctx)
	_ = tx.AddError(err) // every statement returns it
	return tx
}

// locate asks where a bucket is read only where the map may be wrong. The answer may be old when it arrives, but then the copy that
// it leads to is as it was when the bucket left, which was after the question.
func (s *Shards) locate(ctx context.Context, bucket int) (*DB, error) {
	confirmed := s.confirmed() // before the map is looked at
	now := s.now.Load()
	shard := s.all[now.owner[bucket]]
	if confirmed && !now.moving[bucket] {
		return shard, nil
	}
	standing, err := shard.bucketStanding(ctx, bucket)
	if err != nil || standing.readable() {
		return shard, err
	}
	v, err := s.ask(ctx)
	if err != nil {
		return nil, err
	}
	s.learn(bucket, v.owner[bucket])
	return s.all[v.owner[bucket]], nil
}

// View is where every bucket was at one moment: whoever reads several shards takes one, and counts on each only what it Owns.
type View struct {
	shards *Shards
	owner  [Buckets]int
}

// View returns where every bucket is now.
func (s *Shards) View(ctx context.Context) (View, error) {
	confirmed := s.confirmed()
	if now := s.now.Load(); confirmed && now.still {
		return View{s, now.owner}, nil
	}
	return s.ask(ctx)
}

// Owns reports whether a participant is on a shard; rows on another are copies.
func (v View) Owns(shard *DB, participant int64) bool { return v.For(participant) == shard }

// For returns the shard of a participant.
func (v View) For(participant int64) *DB { return v.shards.all[v.owner[Bucket(participant)]] }

// Buckets returns the buckets of a shard.
func (v View) Buckets(shard *DB) []int {
	var out []int
	for b, i := range v.owner {
		if v.shards.all[i] == shard {
			out = append(out, b)
		}
	}
	return out
}

// ask looks at the buckets' rows of all shards.
func (s *Shards) ask(ctx context.Context) (View, error) {
	const tries = 20 // two shards are not asked at the very same moment, and a bucket may slip through in between
	for try := range tries {
		v, complete, err := s.askOnce(ctx)
		if err != nil || complete {
			return v, err
		}
		if try < tries-1 {
			if err := rest(ctx, 10*time.Millisecond); err != nil {
				return View{}, err
			}
		}
	}
	return View{}, errMoved()
}

func (s *Shards) askOnce(ctx context.Context) (View, bool, error) {
	standings := make([][Buckets]BucketStanding, len(s.all))
	problems := make([]error, len(s.all))
	var all sync.WaitGroup
	for i, shard := range s.all {
		all.Go(func() { standings[i], problems[i] = shard.Standings(ctx) })
	}
	all.Wait()
	v := View{shards: s}
	now := s.now.Load()
	silent := slices.IndexFunc(problems, func(err error) bool { return err != nil })
	complete := true
	for b := range v.owner {
		best, owner := 0, now.owner[b]
		for i := range s.all {
			r := rank(standings[i][b], i == now.owner[b])
			if problems[now.owner[b]] != nil && r < certain {
				continue // here is also said by a shard that was opened too early, or never added: against silence it counts for nothing
			}
			if problems[i] == nil && r > best {
				best, owner = r, i
			}
		}
		switch v.owner[b] = owner; {
		case best > 0 || problems[owner] != nil:
		case silent >= 0: // it can only be on a shard that does not answer: whoever looks there will hear so
			v.owner[b] = silent
		default:
			complete = false
		}
	}
	if ctx.Err() != nil {
		return v, false, errs.Away("the shards", ctx.Err())
	}
	return v, complete, nil
}

// rank orders what shards say of a bucket. Held comes first: the target is opened before the source is closed. A shard that was
// migrated but never added says here of everything; it is believed last, and not at all where the one that is believed is silent.
func rank(s BucketStanding, believed bool) int {
	switch {
	case s == Held:
		return certain + 1
	case s == Watched:
		return certain
	case s == Here && believed:
		return 2
	case s == Here:
		return 1
	default:
		return 0
	}
}

// certain is the rank from which on a shard has a bucket, whatever another says.
const certain = 3

// Tx runs fn in a transaction of the shard of a bucket. Fn must ask the shard first (see DB.AskOf). Where it is told that the bucket
// has moved or is on its way, it runs again where the bucket is then; after awaitLimit the error is returned, which is
// errs.Unavailable and IsMoved.
func (s *Shards) Tx(ctx context.Context, bucket int, fn func(shard *DB, tx *gorm.DB) error) error {
	deadline := time.Now().Add(awaitLimit)
	for {
		shard := s.ForBucket(bucket)
		err := shard.Tx(ctx, func(tx *gorm.DB) error { return fn(shard, tx) })
		if !IsMoved(err) || s.await(ctx, bucket, deadline) != nil {
			return err
		}
	}
}

// awaitLimit is how long a writer waits for a bucket on its way; it is held for less than a second.
const awaitLimit = 4 * time.Second

// Await returns nil once a participant's bucket can be written somewhere, and ForBucket, For and Index say where. Call it after an
// error that IsMoved recognises and then try again; after its own error, which is errs.Unavailable and IsMoved, give up.
func (s *Shards) Await(ctx context.Context, participant int64) error {
	return s.await(ctx, Bucket(participant), time.Now().Add(awaitLimit))
}

func (s *Shards) await(ctx context.Context, bucket int, deadline time.Time) error {
	if !s.follows.Load() {
		return errMoved() // nobody moves what nobody follows
	}
	for try := 0; time.Now().Before(deadline); try++ {
		believed := s.now.Load().owner[bucket]
		standing, err := s.all[believed].bucketStanding(ctx, bucket)
		if err != nil {
			return err
		}
		switch {
		case standing.writable():
			return nil
		case standing == Held:
			if err := s.all[believed].freeExpired(ctx, bucket); err != nil {
				return err
			}
		default:
			v, err := s.ask(ctx)
			if err != nil {
				return err
			}
			if v.owner[bucket] != believed {
				s.learn(bucket, v.owner[bucket])
				continue
			}
		}
		if err := rest(ctx, min(time.Duration(try+1)*5*time.Millisecond, 50*time.Millisecond)); err != nil {
			return err
		}
	}
	return errMoved()
}

func rest(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return errs.Away("the participant's shard", ctx.Err())
	}
}

// Apart calls fn for the items of each shard, one shard after the other, and again, on the right one, for those whose bucket has
// moved or was on its way. It stops at the first other error. Fn must ask the shard first, in one transaction for all its items.
func Apart[T any](ctx context.Context, s *Shards, items []T, participant func(T) int64, fn func(ctx context.Context, shard *DB, items []T) error) error {
	const rounds = 8 // each waits
	var last error
	for range rounds {
		parts := make(map[int][]T)
		for _, item := range items {
			i := s.Index(participant(item))
			parts[i] = append(parts[i], item)
		}
		items = nil
		for i, part := range parts {
			err := fn(ctx, s.all[i], part)
			if err != nil && !IsMoved(err) {
				return err
			}
			if err != nil {
				items, last = append(items, part...), err
			}
		}
		if len(items) == 0 {
			return nil
		}
		for _, item := range items {
			if err := s.Await(ctx, participant(item)); err != nil {
				return err
			}
		}
	}
	return last
}
