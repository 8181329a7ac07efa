package db

import (
	"gorm.io/gorm"

	"github.com/eprod/eprod/internal/errs"
)

// The database side of a fence, in a column named fence, BIGINT NOT NULL, 0 at first. A holder of a lock raises it to its token
// before it reads what it will change, and changes rows only while it stands: so a holder that was paused past the end of its
// lock cannot undo what the next one wrote. Both must run in Tx. Rows is a table with conditions that find at least one row, such
// as tx.Table("record").Where("participant_id = ?", id).

// RaiseFence lets token be the fence of rows; all that were read before may be old, so read after it. It is errs.Stale where a
// younger holder was here, and where there is no such row. The same token again changes nothing.
func RaiseFence(rows *gorm.DB, token int64) error {
	return fenced(rows.Where("fence <= ?", token).UpdateColumn("fence", token))
}

// Fenced writes values, by name of column, to rows as long as token is their fence; errs.Stale else: then nothing was written.
func Fenced(rows *gorm.DB, token int64, values map[string]any) error {
	return fenced(rows.Where("fence = ?", token).UpdateColumns(values))
}

func fenced(update *gorm.DB) error {
	if update.Error != nil {
		return Error("fenced row", update.Error)
	}
	if update.RowsAffected == 0 {
		return errs.New(errs.Stale, "stale", "somebody else has taken over; read it again")
	}
	return nil
}
