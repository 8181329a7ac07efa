package idgen

import (
	"context"
	"errors"
	"time"

	"gorm.io/gorm"

	"github.com/eprod/eprod/internal/db"
	"github.com/eprod/eprod/internal/errs"
)

// Store keeps worker leases in the metadata database, in the table worker_lease. Safe for concurrent use.
type Store struct{ meta *db.DB }

// NewStore returns the leases of a metadata database.
func NewStore(meta *db.DB) *Store { return &Store{meta} }

type leaseRow struct {
	Worker      int   `gorm:"column:worker"`
	Fence       int64 `gorm:"column:fence"`
	HighWaterAt int64 `gorm:"column:high_water_at"`
}

const leaseTable = "worker_lease"

// takeTries bounds how often two processes may pick the same unused number.
const takeTries = 16

// Take implements Leases.
func (s *Store) Take(ctx context.Context, owner string, now, until time.Time) (Grant, error) {
	var g Grant
	for try := 0; ; try++ {
		err := s.meta.Tx(ctx, func(tx *gorm.DB) (err error) {
			g, err = takeOver(tx, owner, now, until)
			if errors.Is(err, gorm.ErrRecordNotFound) {
				g, err = addWorker(tx, owner, until)
			}
			return err
		})
		if err == nil {
			return g, nil
		}
		if !db.IsDuplicate(err) || try >= takeTries {
			return Grant{}, db.Error("worker lease", err)
		}
	}
}

// takeOver leases the lowest number whose owner is gone and whose ids all lie in the past.
func takeOver(tx *gorm.DB, owner string, now, until time.Time) (Grant, error) {
	var row leaseRow
	err := db.SkipLocked(tx.Table(leaseTable)).Select("worker", "fence", "high_water_at").
		Where("deadline_at < ? AND high_water_at < ?", db.Micros(now), db.Micros(now)).
		Order("worker").Limit(1).Take(&row).Error
	if err != nil {
		return Grant{}, err
	}
	err = tx.Table(leaseTable).Where("worker = ? AND fence = ?", row.Worker, row.Fence).Updates(map[string]any{
		"owner": owner, "fence": row.Fence + 1, "deadline_at": db.Micros(until), "high_water_at": db.Micros(until),
	}).Error
	return Grant{Worker: row.Worker, Fence: row.Fence + 1, Floor: db.Time(row.HighWaterAt)}, err
}

// addWorker leases the lowest number that was never used. Another process may add the same one first: then the error is a duplicate key.
func addWorker(tx *gorm.DB, owner string, until time.Time) (Grant, error) {
	var used []int
	if err := tx.Table(leaseTable).Order("worker").Limit(Workers).Pluck("worker", &used).Error; err != nil {
		return Grant{}, err
	}
	worker := 0
	for _, u := range used {
		if u == worker {
			worker++
		}
	}
	if worker >= Workers {
		return Grant{}, errs.Away("a free worker number", nil)
	}
	err := db.Insert(tx, leaseTable, []string{"worker", "owner", "fence", "deadline_at", "high_water_at"},
		[][]any{{worker, owner, 1, db.Micros(until), db.Micros(until)}})
	return Grant{Worker: worker, Fence: 1}, err
}

// Renew implements Leases.
func (s *Store) Renew(ctx context.Context, g Grant, until time.Time) (bool, error) {
	return s.set(ctx, g, map[string]any{"deadline_at": db.Micros(until), "high_water_at": db.Micros(until)})
}

// Release implements Leases. The number of a grant that was lost is left alone.
func (s *Store) Release(ctx context.Context, g Grant, highWater time.Time) error {
	_, err := s.set(ctx, g, map[string]any{"owner": "", "deadline_at": 0, "high_water_at": db.Micros(highWater)})
	return err
}

// set changes the row of a grant as long as the grant's fence is the newest.
func (s *Store) set(ctx context.Context, g Grant, columns map[string]any) (bool, error) {
	held := false
	err := s.meta.Tx(ctx, func(tx *gorm.DB) error {
		result := tx.Table(leaseTable).Where("worker = ? AND fence = ?", g.Worker, g.Fence).Updates(columns)
		held = result.RowsAffected == 1
		return result.Error
	})
	return held, db.Error("worker lease", err)
}
