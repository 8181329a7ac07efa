package growth

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"

	"github.com/eprod/eprod/internal/db"
	"github.com/eprod/eprod/internal/errs"
)

// Service is what operators do with shards.
type Service struct {
	Store  *Store
	Shards *db.Shards
	Config Config
	Now    func() time.Time
	Logger *slog.Logger
}

func (s *Service) mover() *Mover {
	return &Mover{Store: s.Store, Shards: s.Shards, Config: s.Config, Now: s.Now, Logger: s.Logger}
}

func (s *Service) embedded() bool { return s.Shards.All()[0].Dialect == db.SQLite }

// Prepare lets this process go by the map of the metadata database, which is made from the settings' ranges where there is none yet;
// from then on those count for nothing. Shards say from then on which buckets they do not have. The embedded stores keep to the
// settings.
func (s *Service) Prepare(ctx context.Context) error {
	if s.embedded() {
		return nil
	}
	m, _, err := s.Store.Map(ctx)
	if err != nil {
		return err
	}
	if m.Version == 0 {
		var owner [db.Buckets]string
		for b := range owner {
			owner[b] = s.Shards.ForBucket(b).Name
		}
		for _, d := range s.Shards.All() {
			var others []int
			for b, name := range owner {
				if name != d.Name {
					others = append(others, b)
				}
			}
			if err := disown(ctx, d, others); err != nil {
				return err
			}
		}
		if err := s.Store.Fill(ctx, owner, s.Now()); err != nil {
			return err
		}
	}
	return s.follower("").Load(ctx)
}

func (s *Service) follower(id string) *Follower {
	return &Follower{Store: s.Store, Shards: s.Shards, ID: id, Config: s.Config, Now: s.Now, Logger: s.Logger}
}

// Run follows the map under a name that no other process has, until ctx ends. On the embedded stores there is nothing to follow.
func (s *Service) Run(ctx context.Context, id string) error {
	if s.embedded() {
		<-ctx.Done()
		return nil
	}
	return s.follower(id).Run(ctx)
}

// Add lets a shard hold buckets. It must be in the settings of this process and of every one that is alive, have the schema, and be
// empty; it takes over how studies stand. To add it again changes nothing.
func (s *Service) Add(ctx context.Context, name string) error {
	if s.embedded() {
		return errEmbedded()
	}
	shard, err := s.mover().shard(name)
	if err != nil {
		return err
	}
	members, err := s.Store.Members(ctx)
	if err != nil || slices.Contains(members, name) {
		return err
	}
	counts, err := rowCounts(ctx, shard)
	if err != nil {
		return err
	}
	for _, t := range db.ShardTables() {
		if n := counts[t.Name]; n > 0 && t.Name != "bucket" && t.Name != "study_standing" {
			return errs.New(errs.Conflict, "not_empty", fmt.Sprintf("%s has %d rows in %s: a shard that is added must be empty", name, n, t.Name))
		}
	}
	if err := s.known(ctx, name); err != nil {
		return err
	}
	var all []int
	for b := range db.Buckets {
		all = append(all, b)
	}
	if err := disown(ctx, shard, all); err != nil {
		return err
	}
	for _, member := range members {
		if err := s.standAlike(ctx, member, shard); err != nil {
			return err
		}
	}
	return s.Store.AddMember(ctx, name, s.Now())
}

// known refuses a shard that a live process does not know.
func (s *Service) known(ctx context.Context, name string) error {
	ctx, cancel := context.WithTimeout(ctx, 2*s.Config.Lease)
	defer cancel()
	err := s.mover().everybody(ctx, 0, name)
	if err == nil {
		return nil
	}
	if ctx.Err() == nil {
		return err
	}
	all, err := s.Store.Processes(context.WithoutCancel(ctx))
	if err != nil {
		return err
	}
	var lacking []string
	for _, p := range all {
		if !slices.Contains(p.Knows, name) {
			lacking = append(lacking, p.ID)
		}
	}
	return errs.New(errs.Conflict, "unknown_shard", fmt.Sprintf("these processes do not have %s in database.shards; roll it out first, with buckets: none: %s", name, strings.Join(lacking, ", ")))
}

// standAlike lets studies stand on a shard as they stand on another.
func (s *Service) standAlike(ctx context.Context, from string, shard *db.DB) error {
	source, err := s.mover().shard(from)
	if err != nil {
		return err
	}
	all, err := standings(ctx, source)
	if err != nil {
		return err
	}
	has, err := standings(ctx, shard)
	if err != nil {
		return err
	}
	for study, is := range all {
		if is.Standing == db.Closing {
			return errs.New(errs.Conflict, "study_closing", fmt.Sprintf("study %d is being locked; add the shard when that is over", study))
		}
		if has[study] != is {
			if err := shard.SetStanding(ctx, study, is.Standing, is.Fence); err != nil {
				return err
			}
		}
	}
	return nil
}

// Begin writes down a move of buckets to a shard; Mover.Run does it.
func (s *Service) Begin(ctx context.Context, target string, buckets []int) (int64, error) {
	if s.embedded() {
		return 0, errEmbedded()
	}
	members, err := s.Store.Members(ctx)
	if err != nil {
		return 0, err
	}
	if !slices.Contains(members, target) {
		return 0, errs.New(errs.Conflict, "not_added", fmt.Sprintf("%s is not among the shards (%s): add it first", target, strings.Join(members, ", ")))
	}
	return s.Store.Begin(ctx, target, buckets, s.Now())
}

// Continue goes on with the move that is not over.
func (s *Service) Continue(ctx context.Context, fence int64, step func(string) error) (Move, error) {
	return s.work(ctx, fence, step, (*Mover).Run)
}

// Cancel undoes what the move that is not over has not switched.
func (s *Service) Cancel(ctx context.Context, fence int64, step func(string) error) (Move, error) {
	return s.work(ctx, fence, step, (*Mover).Cancel)
}

func (s *Service) work(ctx context.Context, fence int64, step func(string) error, do func(*Mover, context.Context, int64, int64) error) (Move, error) {
	if s.embedded() {
		return Move{}, errEmbedded()
	}
	move, err := s.Store.Pending(ctx)
	if err != nil {
		return move, err
	}
	m := s.mover()
	m.Step = step
	if err := do(m, ctx, move.ID, fence); err != nil {
		return move, err
	}
	return s.Store.Move(ctx, move.ID)
}

// ShardStatus is what is known of one shard.
type ShardStatus struct {
	Name    string
	Member  bool
	Buckets []int                     // that the map gives it
	Copies  map[db.BucketStanding]int // buckets by what the shard says of them
	Rows    map[string]int64
	Problem string // why nothing more is known
}

// Status is how the shards stand.
type Status struct {
	Version   int64 // of the map; 0: there is none, the settings count
	Shards    []ShardStatus
	Processes []Process
	Moves     []Move
}

// Status looks at everything. A shard that does not answer has a Problem. Rows are counted only where that is asked for: it reads
// an index of every table to its end.
func (s *Service) Status(ctx context.Context, count bool) (Status, error) {
	var out Status
	var members []string
	if !s.embedded() {
		m, _, err := s.Store.Map(ctx)
		if err != nil {
			return out, err
		}
		out.Version = m.Version
		if out.Processes, err = s.Store.Processes(ctx); err != nil {
			return out, err
		}
		if out.Moves, err = s.Store.Moves(ctx, 5); err != nil {
			return out, err
		}
		if members, err = s.Store.Members(ctx); err != nil {
			return out, err
		}
	}
	for _, d := range s.Shards.All() {
		one := ShardStatus{Name: d.Name, Member: s.embedded() || slices.Contains(members, d.Name), Copies: make(map[db.BucketStanding]int)}
		for b := range db.Buckets {
			if s.Shards.ForBucket(b) == d {
				one.Buckets = append(one.Buckets, b)
			}
		}
		standing, err := d.Standings(ctx)
		if err == nil && count {
			one.Rows, err = rowCounts(ctx, d)
		}
		if err != nil {
			one.Problem = err.Error()
		}
		for _, is := range standing {
			one.Copies[is]++
		}
		out.Shards = append(out.Shards, one)
	}
	return out, nil
}
