package lock

import (
	"context"
	"time"

	"gorm.io/gorm"

	"github.com/eprod/eprod/internal/db"
)

const leaseTable = "lock_lease"

var leaseColumns = []string{"name", "fence", "acquisition", "holder", "until_at"}

type leaseRow struct {
	Fence       int64  `gorm:"column:fence"`
	Acquisition string `gorm:"column:acquisition"`
	Holder      string `gorm:"column:holder"`
	UntilAt     int64  `gorm:"column:until_at"`
}

// takeOnce reads the last tenure and replaces it, if it is still the same, by the claim's. It is errOvertaken if it is not.
func (s *tableStore) takeOnce(ctx context.Context, c *claim, ttl time.Duration) (fence int64, err error) {
	err = s.meta.Tx(ctx, func(tx *gorm.DB) error {
		var rows []leaseRow
		if err := tx.Table(leaseTable).Select(leaseColumns[1:]).Where("name = ?", c.name).Limit(1).Find(&rows).Error; err != nil {
			return err
		}
		now, err := s.now(tx)
		if err != nil {
			return err
		}
		var last tenure
		if len(rows) == 1 {
			last = tenure{fence: rows[0].Fence, id: rows[0].Acquisition, holder: rows[0].Holder, until: rows[0].UntilAt}
		}
		next, held := last.succeed(c, now, ttl)
		if held != nil {
			held.Until = s.clock().Add(time.Duration(last.until-now) * time.Microsecond) // by our clock
			return held
		}
		fence = next.fence
		if len(rows) == 0 {
			err := db.Insert(tx, leaseTable, leaseColumns, [][]any{{c.name, next.fence, next.id, next.holder, next.until}})
			if db.IsDuplicate(err) {
				return errOvertaken
			}
			return err
		}
		done := tx.Table(leaseTable).Where("name = ? AND fence = ? AND acquisition = ? AND until_at = ?", c.name, last.fence, last.id, last.until).
			UpdateColumns(map[string]any{"fence": next.fence, "acquisition": next.id, "holder": next.holder, "until_at": next.until})
		if done.Error == nil && done.RowsAffected != 1 {
			return errOvertaken
		}
		return done.Error
	})
	return fence, err
}

func (s *tableStore) extend(ctx context.Context, c *claim, ttl time.Duration) (held bool, err error) {
	err = s.meta.Tx(ctx, func(tx *gorm.DB) error {
		now, err := s.now(tx)
		if err != nil {
			return err
		}
		// One that is over may be extended, as long as nobody else has taken the name.
		done := tx.Table(leaseTable).Where("name = ? AND acquisition = ?", c.name, c.id).UpdateColumn("until_at", now+ttl.Microseconds())
		held = done.RowsAffected == 1
		return done.Error
	})
	return held, err
}

func (s *tableStore) free(ctx context.Context, c *claim) error {
	return s.meta.Tx(ctx, func(tx *gorm.DB) error {
		return tx.Table(leaseTable).Where("name = ? AND acquisition = ?", c.name, c.id).
			UpdateColumns(map[string]any{"acquisition": "", "until_at": 0}).Error
	})
}

// now asks the clock that all holders share.
func (s *tableStore) now(tx *gorm.DB) (micros int64, err error) {
	if s.meta.Dialect == db.SQLite {
		return s.clock().UnixMicro(), nil
	}
	err = tx.Raw("SELECT TIMESTAMPDIFF(MICROSECOND, '1970-01-01', UTC_TIMESTAMP(6))").Scan(&micros).Error
	return micros, err
}
