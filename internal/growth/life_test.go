package growth

import (
	"context"
	"encoding/binary"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"gorm.io/gorm"

	"github.com/eprod/eprod/internal/db"
)

// life is what goes on while buckets move: writers and readers of several processes. What a writer was told is remembered.
type life struct {
	*plant
	processes []*Service
	ids       []int64
	acked     []atomic.Int64 // receipts by place in ids
	serial    atomic.Int64
	writes    atomic.Int64
	reads     atomic.Int64
	doubles   atomic.Int64 // that a reader would see who does not take copies out
	slowest   atomic.Int64
	running   sync.WaitGroup
	over      context.CancelFunc
}

var receiptColumns = []string{"participant_id", "submission", "id", "study_id", "task_id", "sha256", "state", "received_at", "processed_at"}

func (l *life) receipt(p int64) []any {
	id := l.serial.Add(1)
	return []any{p, binary.BigEndian.AppendUint64([]byte("submitted"[:8]), uint64(id)), 1<<40 + id, 3, 1, make([]byte, 32), "stored", 1, 1}
}

func (l *life) begin() {
	ctx, over := context.WithCancel(context.Background())
	l.over = over
	for _, s := range l.processes {
		for range 2 {
			l.running.Go(func() { l.write(ctx, s) })
		}
		l.running.Go(func() { l.batches(ctx, s) })
		l.running.Go(func() { l.claim(ctx, s) })
		l.running.Go(func() { l.read(ctx, s) })
		l.running.Go(func() { l.count(ctx, s) })
	}
}

func (l *life) end() {
	l.over()
	l.running.Wait()
}

// write submits for one participant after the other.
func (l *life) write(ctx context.Context, s *Service) {
	for ctx.Err() == nil {
		i := rand.IntN(len(l.ids))
		p := l.ids[i]
		began := time.Now()
		err := s.Shards.Write(context.WithoutCancel(ctx), db.Claim{Study: 3, Participant: p}, func(tx *gorm.DB) error {
			if err := tx.Exec("UPDATE participant SET version = version + 1 WHERE id = ?", p).Error; err != nil {
				return err
			}
			return db.Insert(tx, "receipt", receiptColumns, [][]any{l.receipt(p)})
		})
		if err != nil {
			l.t.Errorf("a write of participant %d: %v", p, err)
			return
		}
		l.acked[i].Add(1)
		l.writes.Add(1)
		for took := int64(time.Since(began)); ; {
			if was := l.slowest.Load(); took <= was || l.slowest.CompareAndSwap(was, took) {
				break
			}
		}
		rest(ctx, 15*time.Millisecond)
	}
}

// batches writes for several participants in one transaction, as the processor does.
func (l *life) batches(ctx context.Context, s *Service) {
	for ctx.Err() == nil {
		places := rand.Perm(len(l.ids))[:8]
		err := db.Apart(context.WithoutCancel(ctx), s.Shards, places, func(i int) int64 { return l.ids[i] }, func(ctx context.Context, shard *db.DB, places []int) error {
			return shard.Tx(ctx, func(tx *gorm.DB) error {
				whose := make([]int64, len(places))
				var rows [][]any
				for n, i := range places {
					whose[n] = l.ids[i]
					rows = append(rows, l.receipt(l.ids[i]))
				}
				if _, err := shard.AskOf(tx, whose...); err != nil {
					return err
				}
				return db.Insert(tx, "receipt", receiptColumns, rows)
			})
		})
		if err != nil {
			l.t.Errorf("a batch: %v", err)
			return
		}
		for _, i := range places {
			l.acked[i].Add(1)
		}
		rest(ctx, 40*time.Millisecond)
	}
}

// claim takes tasks whose time has come, as reminders do, whoever's they are.
func (l *life) claim(ctx context.Context, s *Service) {
	for ctx.Err() == nil {
		for _, shard := range s.Shards.All() {
			err := shard.Tx(context.WithoutCancel(ctx), func(tx *gorm.DB) error {
				visit, err := shard.AskAll(tx)
				if err != nil {
					return err
				}
				var tasks []struct{ ParticipantID, ID int64 }
				due := db.SkipLocked(tx.Table("task")).Select("participant_id", "id").Where("remind_at > 0")
				if err := visit.Except(due).Order("remind_at").Limit(3).Find(&tasks).Error; err != nil {
					return err
				}
				for _, one := range tasks {
					if err := visit.Note(tx, one.ParticipantID); err != nil {
						return err
					}
					if err := tx.Exec("UPDATE task SET remind_at = remind_at + 1000000 WHERE participant_id = ? AND id = ?", one.ParticipantID, one.ID).Error; err != nil {
						return err
					}
				}
				return nil
			})
			if err != nil {
				l.t.Errorf("a claim on %s: %v", shard.Name, err)
				return
			}
		}
		rest(ctx, 60*time.Millisecond)
	}
}

// read holds that who reads a participant finds everything that was answered before.
func (l *life) read(ctx context.Context, s *Service) {
	for ctx.Err() == nil {
		i := rand.IntN(len(l.ids))
		before := l.acked[i].Load()
		var n int64
		err := s.Shards.Home(l.ids[i]).Read(context.WithoutCancel(ctx)).Table("receipt").Where("participant_id = ? AND id > ?", l.ids[i], int64(1)<<40).Count(&n).Error
		if err != nil || n < before {
			l.t.Errorf("participant %d has %d receipts, and %d were answered before: %v", l.ids[i], n, before, err)
			return
		}
		l.reads.Add(1)
		rest(ctx, 5*time.Millisecond)
	}
}

// count holds that who reads all shards finds everybody once.
func (l *life) count(ctx context.Context, s *Service) {
	for ctx.Err() == nil {
		view, err := s.Shards.View(context.WithoutCancel(ctx))
		if err != nil {
			l.t.Errorf("where everybody is: %v", err)
			return
		}
		var mu sync.Mutex
		seen := make(map[int64]int)
		err = s.Shards.Each(context.WithoutCancel(ctx), func(ctx context.Context, shard *db.DB) error {
			var ids []int64
			if err := shard.Read(ctx).Table("participant").Pluck("id", &ids).Error; err != nil {
				return err
			}
			mu.Lock()
			defer mu.Unlock()
			for _, id := range ids {
				if view.Owns(shard, id) {
					seen[id]++
				} else {
					l.doubles.Add(1)
				}
			}
			return nil
		})
		if err != nil {
			l.t.Errorf("a list: %v", err)
			return
		}
		for _, id := range l.ids {
			if seen[id] != 1 {
				l.t.Errorf("participant %d is seen %d times", id, seen[id])
				return
			}
		}
		l.reads.Add(1)
		rest(ctx, 60*time.Millisecond)
	}
}

// rest is the time between two pieces of work of somebody who has others to do.
func rest(ctx context.Context, d time.Duration) {
	select {
	case <-time.After(d):
	case <-ctx.Done():
	}
}
