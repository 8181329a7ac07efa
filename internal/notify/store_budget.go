package notify

import (
	"context"
	"fmt"

	"gorm.io/gorm"

	"github.com/eprod/eprod/internal/db"
	"github.com/eprod/eprod/internal/errs"
)

// Budget counts what a study sends on each channel and day, in the metadata database. It is safe for concurrent use, by any number of
// processes.
type Budget struct{ Meta *db.DB }

// Take asks for n messages of a study's day, such as 2026-03-01 of UTC, of which there may be limit in all, and returns how many of them
// may be sent: all n, what is left, or none. Over all callers never more than limit are granted, whoever dies in between: what was granted
// counts as used, sent or not. So does what an errs.Unavailable may have granted.
func (b *Budget) Take(ctx context.Context, study int64, channel Channel, day string, n, limit int) (granted int, err error) {
	if n <= 0 || limit <= 0 {
		return 0, nil
	}
	for range 2 {
		var got []int
		err := b.Meta.Tx(ctx, func(tx *gorm.DB) (err error) {
			got, err = take(tx, study, channel, day, n, limit)
			return err
		})
		if err != nil {
			return 0, db.Error("message budget", err)
		}
		if len(got) == 1 {
			return got[0], nil
		}
		err = b.Meta.Tx(ctx, func(tx *gorm.DB) error { // somebody else may be faster
			return db.InsertNew(tx, "message_budget", []string{"study_id", "channel", "day", "used", "granted"}, [][]any{{study, string(channel), day, 0, 0}})
		})
		if err != nil {
			return 0, db.Error("message budget", err)
		}
	}
	return 0, errs.Away("the message budget", fmt.Errorf("the row of study %d is gone again", study))
}

// take is one statement that decides and one that says how, the row being locked between them. Without the row it returns nothing.
func take(tx *gorm.DB, study int64, channel Channel, day string, n, limit int) (granted []int, err error) {
	const where = " WHERE study_id = ? AND channel = ? AND day = ?"
	const share = "CASE WHEN used >= ? THEN 0 WHEN used + ? > ? THEN ? - used ELSE ? END"
	// MySQL assigns from left to right, and SQLite all at once: granted comes first and used does not refer to it.
	done := tx.Exec("UPDATE message_budget SET granted = "+share+", used = used + ("+share+")"+where,
		limit, n, limit, limit, n, limit, n, limit, limit, n, study, string(channel), day)
	if done.Error != nil || done.RowsAffected == 0 { // what is found now would be what somebody else was granted
		return nil, done.Error
	}
	err = tx.Raw("SELECT granted FROM message_budget"+where, study, string(channel), day).Scan(&granted).Error
	return granted, err
}
