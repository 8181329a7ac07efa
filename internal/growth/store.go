package growth

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"gorm.io/gorm"

	"github.com/eprod/eprod/internal/db"
	"github.com/eprod/eprod/internal/errs"
)

// Store keeps the map, the processes that follow it and the moves in the metadata database. It is safe for concurrent use.
type Store struct{ Meta *db.DB }

type placeRow struct {
	Bucket       int
	Owner, Other string
	Version      int64
}

// Map returns the map and the buckets' places; version 0 means that there is none yet.
func (s *Store) Map(ctx context.Context) (m db.Map, places []Place, err error) {
	var rows []placeRow
	if err := s.Meta.Read(ctx).Table("shard_map").Select("bucket", "owner", "other", "version").Order("bucket").Find(&rows).Error; err != nil {
		return m, nil, db.Error("map of the shards", err)
	}
	if len(rows) == 0 {
		return m, nil, nil
	}
	if len(rows) != db.Buckets {
		return m, nil, fmt.Errorf("map of the shards: %d rows, must be %d", len(rows), db.Buckets)
	}
	for i, r := range rows {
		m.Version, m.Owner[i], m.Moving[i] = max(m.Version, r.Version), r.Owner, r.Other != ""
		places = append(places, Place{r.Bucket, r.Owner, r.Other})
	}
	return m, places, nil
}

// Fill writes the first map; where there is one already it stays.
func (s *Store) Fill(ctx context.Context, owner [db.Buckets]string, now time.Time) error {
	err := s.Meta.Tx(ctx, func(tx *gorm.DB) error {
		var rows, members [][]any
		seen := make(map[string]bool)
		for b, name := range owner {
			rows = append(rows, []any{b, name, "", 1})
			if !seen[name] {
				seen[name] = true
				members = append(members, []any{name, db.Micros(now)})
			}
		}
		if err := db.Insert(tx, "shard_map", []string{"bucket", "owner", "other", "version"}, rows); err != nil {
			return err
		}
		return db.InsertNew(tx, "shard_member", []string{"name", "added_at"}, members)
	})
	if db.IsDuplicate(err) { // another process was quicker
		return nil
	}
	return db.Error("map of the shards", err)
}

// Change writes where buckets are, under the fence of a move, and returns the map's next version.
func (s *Store) Change(ctx context.Context, move, fence int64, buckets []int, owner func(bucket int) (owner, other string)) (version int64, err error) {
	err = s.Meta.Tx(ctx, func(tx *gorm.DB) error {
		if err := fenced(tx, move, fence); err != nil {
			return err
		}
		if err := tx.Table("shard_map").Select("MAX(version)").Scan(&version).Error; err != nil {
			return err
		}
		version++
		for _, b := range buckets {
			is, other := owner(b)
			if err := tx.Exec("UPDATE shard_map SET owner = ?, other = ?, version = ? WHERE bucket = ?", is, other, version, b).Error; err != nil {
				return err
			}
		}
		return nil
	})
	return version, db.Error("map of the shards", err)
}

// fenced locks a move's row, so that moves change one after the other, and refuses a process that was overtaken.
func fenced(tx *gorm.DB, move, fence int64) error {
	var row struct{ Fence int64 }
	if err := db.ForUpdate(tx.Table("shard_move")).Select("fence").Where("id = ?", move).Take(&row).Error; err != nil {
		return err
	}
	if row.Fence != fence {
		return errOvertaken()
	}
	return nil
}

// Members returns the names of the shards that may hold buckets.
func (s *Store) Members(ctx context.Context) ([]string, error) {
	var names []string
	err := s.Meta.Read(ctx).Table("shard_member").Order("added_at, name").Pluck("name", &names).Error
	return names, db.Error("shards", err)
}

// AddMember lets a shard hold buckets.
func (s *Store) AddMember(ctx context.Context, name string, now time.Time) error {
	return db.Error("shard", s.Meta.Tx(ctx, func(tx *gorm.DB) error {
		return db.InsertNew(tx, "shard_member", []string{"name", "added_at"}, [][]any{{name, db.Micros(now)}})
	}))
}

// Report says which map a process goes by.
func (s *Store) Report(ctx context.Context, p Process) error {
	return db.Error("processes", s.Meta.Tx(ctx, func(tx *gorm.DB) error {
		knows := strings.Join(p.Knows, ",")
		done := tx.Exec("UPDATE shard_process SET version = ?, beat = beat + 1, knows = ?, seen_at = ? WHERE id = ?", p.Version, knows, db.Micros(p.SeenAt), p.ID)
		if done.Error != nil || done.RowsAffected == 1 {
			return done.Error
		}
		return db.Insert(tx, "shard_process", []string{"id", "version", "beat", "knows", "seen_at"}, [][]any{{p.ID, p.Version, 1, knows, db.Micros(p.SeenAt)}})
	}))
}

// Leave forgets a process.
func (s *Store) Leave(ctx context.Context, id string) error {
	return db.Error("processes", s.Meta.Tx(ctx, func(tx *gorm.DB) error { return tx.Exec("DELETE FROM shard_process WHERE id = ?", id).Error }))
}

// Processes returns the processes that follow the map, and those that died without leaving.
func (s *Store) Processes(ctx context.Context) ([]Process, error) {
	var rows []struct {
		ID, Knows             string
		Version, Beat, SeenAt int64
	}
	if err := s.Meta.Read(ctx).Table("shard_process").Select("id", "version", "beat", "knows", "seen_at").Order("id").Find(&rows).Error; err != nil {
		return nil, db.Error("processes", err)
	}
	out := make([]Process, len(rows))
	for i, r := range rows {
		out[i] = Process{r.ID, r.Version, r.Beat, strings.Split(r.Knows, ","), db.Time(r.SeenAt)}
	}
	return out, nil
}

type moveRow struct {
	ID, Fence, BegunAt, ChangedAt int64
	Target, State                 string
}

// Begin writes down a move of buckets to a shard; errs.Conflict while another is not over.
func (s *Store) Begin(ctx context.Context, target string, buckets []int, now time.Time) (int64, error) {
	var id int64
	err := s.Meta.Tx(ctx, func(tx *gorm.DB) error {
		var rows []moveRow
		if err := db.ForUpdate(tx.Table("shard_move")).Select("id", "state").Find(&rows).Error; err != nil {
			return err
		}
		id = 1
		for _, r := range rows {
			if m := (Move{State: State(r.State)}); !m.Over() {
				return errs.New(errs.Conflict, "moving", fmt.Sprintf("move %d is not over: resume or cancel it first", r.ID))
			}
			id = max(id, r.ID+1)
		}
		var places []placeRow
		if err := tx.Table("shard_map").Select("bucket", "owner").Where("bucket IN ?", buckets).Order("bucket").Find(&places).Error; err != nil {
			return err
		}
		var parts [][]any
		for _, p := range places {
			if p.Owner != target {
				parts = append(parts, []any{id, p.Bucket, p.Owner, string(Waiting), 0, 0, "", 0, 0})
			}
		}
		if len(parts) == 0 {
			return errs.New(errs.Conflict, "moved", "the buckets are on "+target+" already")
		}
		row := []any{id, target, BucketList(buckets), string(Moving), 0, db.Micros(now), db.Micros(now)}
		if err := db.Insert(tx, "shard_move", []string{"id", "target", "buckets", "state", "fence", "begun_at", "changed_at"}, [][]any{row}); err != nil {
			return err
		}
		return db.Insert(tx, "shard_move_bucket", []string{"move_id", "bucket", "source", "phase", "participants", "row_count", "checksum", "holds", "held_micros"}, parts)
	})
	return id, db.Error("move", err)
}

// Take gives a move to the process with the youngest fence; the others are refused from now on.
func (s *Store) Take(ctx context.Context, id, fence int64, state State, now time.Time) error {
	return db.Error("move", s.Meta.Tx(ctx, func(tx *gorm.DB) error {
		done := tx.Exec("UPDATE shard_move SET fence = ?, state = ?, changed_at = ? WHERE id = ? AND fence <= ?", fence, string(state), db.Micros(now), id, fence)
		if done.Error == nil && done.RowsAffected == 0 {
			return errOvertaken()
		}
		return done.Error
	}))
}

// Keep writes down how far a bucket of a move is.
func (s *Store) Keep(ctx context.Context, move, fence int64, b Bucket, now time.Time) error {
	return db.Error("move", s.Meta.Tx(ctx, func(tx *gorm.DB) error {
		if err := fenced(tx, move, fence); err != nil {
			return err
		}
		if err := tx.Exec("UPDATE shard_move SET changed_at = ? WHERE id = ?", db.Micros(now), move).Error; err != nil {
			return err
		}
		return tx.Exec("UPDATE shard_move_bucket SET phase = ?, participants = ?, row_count = ?, checksum = ?, holds = ?, held_micros = ? WHERE move_id = ? AND bucket = ?",
			string(b.Phase), b.Participants, b.Rows, b.Checksum, b.Holds, b.Held.Microseconds(), move, b.Bucket).Error
	}))
}

// Moves returns the youngest moves, up to limit, youngest first.
func (s *Store) Moves(ctx context.Context, limit int) ([]Move, error) {
	var rows []moveRow
	if err := s.Meta.Read(ctx).Table("shard_move").Select("id", "target", "state", "fence", "begun_at", "changed_at").Order("id DESC").Limit(limit).Find(&rows).Error; err != nil {
		return nil, db.Error("moves", err)
	}
	out := make([]Move, len(rows))
	for i, r := range rows {
		out[i] = Move{ID: r.ID, Target: r.Target, State: State(r.State), Fence: r.Fence, BegunAt: db.Time(r.BegunAt), LastAt: db.Time(r.ChangedAt)}
		var parts []struct {
			Bucket, Holds                      int
			Source, Phase, Checksum            string
			Participants, RowCount, HeldMicros int64
		}
		err := s.Meta.Read(ctx).Table("shard_move_bucket").Select("bucket", "source", "phase", "participants", "row_count", "checksum", "holds", "held_micros").
			Where("move_id = ?", r.ID).Order("bucket").Find(&parts).Error
		if err != nil {
			return nil, db.Error("moves", err)
		}
		for _, p := range parts {
			out[i].Buckets = append(out[i].Buckets, Bucket{p.Bucket, p.Source, Phase(p.Phase), p.Participants, p.RowCount, p.Checksum, p.Holds,
				time.Duration(p.HeldMicros) * time.Microsecond})
		}
	}
	return out, nil
}

// Move returns a move, or errs.NotFound.
func (s *Store) Move(ctx context.Context, id int64) (Move, error) {
	moves, err := s.Moves(ctx, 1000)
	for _, m := range moves {
		if m.ID == id {
			return m, nil
		}
	}
	if err == nil {
		err = errs.Absent("move")
	}
	return Move{}, err
}

// Pending returns the move that is not over, or errs.NotFound.
func (s *Store) Pending(ctx context.Context) (Move, error) {
	moves, err := s.Moves(ctx, 1)
	if err == nil && (len(moves) == 0 || moves[0].Over()) {
		err = errs.New(errs.NotFound, "no_move", "no move is under way")
	}
	if err != nil {
		return Move{}, err
	}
	return moves[0], nil
}

var errNoMap = errors.New("there is no map of the shards yet: start eprod, or run eprod shards status")
