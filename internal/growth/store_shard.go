package growth

import (
	"context"
	"fmt"
	"slices"
	"time"

	"gorm.io/gorm"

	"github.com/eprod/eprod/internal/db"
	"github.com/eprod/eprod/internal/errs"
)

// raise lets a process with that fence, and nobody before it, change a shard's rows of buckets. One by one: a writer waits for one
// other transaction.
func raise(ctx context.Context, shard *db.DB, buckets []int, fence int64) error {
	for _, b := range buckets {
		err := shard.Tx(ctx, func(tx *gorm.DB) error { return db.RaiseFence(tx.Table("bucket").Where("bucket = ?", b), fence) })
		if err != nil {
			return overtaken(err)
		}
	}
	return nil
}

func overtaken(err error) error {
	if e, ok := errs.As(err); ok && e.Kind == errs.Stale {
		return errOvertaken()
	}
	return err
}

// turn changes the standing of a bucket where it is one of from, and reports whether it is to now.
func turn(ctx context.Context, shard *db.DB, bucket int, fence int64, to db.BucketStanding, from ...db.BucketStanding) (turned bool, err error) {
	err = shard.Tx(ctx, func(tx *gorm.DB) (err error) {
		turned, err = turnIn(tx, bucket, fence, to, from...)
		return err
	})
	return turned && err == nil, db.Error("bucket", err)
}

func turnIn(tx *gorm.DB, bucket int, fence int64, to db.BucketStanding, from ...db.BucketStanding) (bool, error) {
	var row struct {
		Standing db.BucketStanding
		Fence    int64
	}
	if err := db.ForUpdate(tx.Table("bucket")).Select("standing", "fence").Where("bucket = ?", bucket).Take(&row).Error; err != nil {
		return false, err
	}
	if row.Fence != fence {
		return false, errOvertaken()
	}
	if row.Standing == to || !slices.Contains(from, row.Standing) {
		return row.Standing == to, nil
	}
	return true, tx.Exec("UPDATE bucket SET standing = ? WHERE bucket = ?", string(to), bucket).Error
}

// standingOf returns what a shard has of a bucket, as of the last change that is committed.
func standingOf(ctx context.Context, shard *db.DB, bucket int) (db.BucketStanding, error) {
	var row struct{ Standing db.BucketStanding }
	err := shard.Read(ctx).Table("bucket").Select("standing").Where("bucket = ?", bucket).Take(&row).Error
	return row.Standing, db.Error("bucket", err)
}

// setOff is mustTurn for the first standing of a bucket on its way. While a study is being closed on the shard it changes nothing and
// reports false, unless the bucket was on its way before.
func setOff(ctx context.Context, shard *db.DB, bucket int, fence int64, to, from db.BucketStanding) (off bool, err error) {
	err = shard.Tx(ctx, func(tx *gorm.DB) error {
		still, err := db.NoneClosing(tx)
		if err != nil {
			return err
		}
		if off, err = turnIn(tx, bucket, fence, to); err != nil || off || !still {
			return err
		}
		if off, err = turnIn(tx, bucket, fence, to, from); err == nil && !off {
			err = errStranded(shard, bucket, to)
		}
		return err
	})
	return off && err == nil, db.Error("bucket", err)
}

// mustTurn is turn where nothing else can be.
func mustTurn(ctx context.Context, shard *db.DB, bucket int, fence int64, to db.BucketStanding, from ...db.BucketStanding) error {
	turned, err := turn(ctx, shard, bucket, fence, to, from...)
	if err == nil && !turned {
		err = errStranded(shard, bucket, to)
	}
	return err
}

func errStranded(shard *db.DB, bucket int, to db.BucketStanding) error {
	return fmt.Errorf("bucket %d on %s cannot be %s: it is in a standing that no move leaves behind", bucket, shard.Name, to)
}

// hold ends the writing of a bucket. It waits for the transactions that were admitted before, at most a second: while it waits, others
// wait behind it. After a time, counted from its beginning by the clock of the shard's server, writers take the bucket back from a mover
// that has died, or cannot reach it.
func hold(ctx context.Context, shard *db.DB, bucket int, fence int64, lasts time.Duration) error {
	conn, err := shard.Pool().Conn(ctx)
	if err != nil {
		return db.Error("bucket", err)
	}
	defer conn.Close()
	if _, err := conn.ExecContext(ctx, "SET SESSION innodb_lock_wait_timeout = 1"); err != nil {
		return db.Error("bucket", err)
	}
	defer func() {
		_, _ = conn.ExecContext(context.WithoutCancel(ctx), "SET SESSION innodb_lock_wait_timeout = DEFAULT") // else the connection is broken, and dropped
	}()
	done, err := conn.ExecContext(ctx, "UPDATE bucket SET standing = 'held', held_until = CAST(UNIX_TIMESTAMP(NOW(6)) * 1000000 AS SIGNED) + ? "+
		"WHERE bucket = ? AND fence = ? AND standing = 'watched'", lasts.Microseconds(), bucket, fence)
	if err != nil {
		return errNotYet{"a writer took long: " + err.Error()}
	}
	if n, err := done.RowsAffected(); err != nil || n != 1 {
		return errNotYet{"the bucket is not watched"}
	}
	return nil
}

// change is a participant that writers have noted.
type change struct {
	Bucket        int
	ParticipantID int64
	Changes       int64
}

// changed returns noted participants of buckets, up to limit.
func changed(ctx context.Context, shard *db.DB, buckets []int, limit int) ([]change, error) {
	var rows []change
	err := shard.Read(ctx).Table("participant_change").Select("bucket", "participant_id", "changes").Where("bucket IN ?", buckets).
		Order("bucket, participant_id").Limit(limit).Find(&rows).Error
	return rows, db.Error("changes", err)
}

// forget takes back the notes of participants that were copied after the notes were read. One who has changed again stays noted.
func forget(ctx context.Context, shard *db.DB, notes []change) error {
	for chunk := range slices.Chunk(notes, 200) {
		err := shard.Tx(ctx, func(tx *gorm.DB) error {
			for _, c := range chunk {
				err := tx.Exec("DELETE FROM participant_change WHERE bucket = ? AND participant_id = ? AND changes = ?", c.Bucket, c.ParticipantID, c.Changes).Error
				if err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			return db.Error("changes", err)
		}
	}
	return nil
}

// spooled reports whether a bucket has submissions in the shard's spool: they must reach the log first, for the receipts of who asks
// are looked for where the participant is.
func spooled(ctx context.Context, shard *db.DB, bucket int) (bool, error) {
	var whose []int64
	if err := shard.Read(ctx).Table("spool").Distinct().Pluck("participant_id", &whose).Error; err != nil {
		return false, db.Error("spool", err)
	}
	return slices.ContainsFunc(whose, func(p int64) bool { return db.Bucket(p) == bucket }), nil
}

// standingRow is a study's standing on a shard.
type standingRow struct {
	StudyID  int64
	Standing db.Standing
	Fence    int64
}

// standings returns how the studies stand on a shard, without those that were never closed.
func standings(ctx context.Context, shard *db.DB) (map[int64]standingRow, error) {
	var rows []standingRow
	err := shard.Read(ctx).Table("study_standing").Select("study_id", "standing", "fence").Where("study_id <> 0").Find(&rows).Error
	out := make(map[int64]standingRow, len(rows))
	for _, r := range rows {
		out[r.StudyID] = r
	}
	return out, db.Error("standings of studies", err)
}

// closing reports whether a study is being closed on a shard.
func closing(ctx context.Context, shard *db.DB) (bool, error) {
	all, err := standings(ctx, shard)
	for _, s := range all {
		if s.Standing == db.Closing {
			return true, err
		}
	}
	return false, err
}

// disown says on a shard that buckets which it does not have are away, unless it says something else than here of them already.
func disown(ctx context.Context, shard *db.DB, buckets []int) error {
	if len(buckets) == 0 {
		return nil
	}
	err := shard.Tx(ctx, func(tx *gorm.DB) error {
		return tx.Exec("UPDATE bucket SET standing = 'away' WHERE standing = 'here' AND bucket IN ?", buckets).Error
	})
	return db.Error("buckets of "+shard.Name, err)
}

// rowCounts returns how many rows each table with participants' data has on a shard.
func rowCounts(ctx context.Context, shard *db.DB) (map[string]int64, error) {
	out := make(map[string]int64)
	for _, t := range db.ShardTables() {
		var n int64
		if err := shard.Read(ctx).Table(t.Name).Count(&n).Error; err != nil {
			return nil, db.Error(t.Name, err)
		}
		out[t.Name] = n
	}
	return out, nil
}

// forgetBucket takes back all notes of a bucket whose writers do not note any more.
func forgetBucket(ctx context.Context, shard *db.DB, bucket int) error {
	return db.Error("changes", shard.Tx(ctx, func(tx *gorm.DB) error {
		return tx.Exec("DELETE FROM participant_change WHERE bucket = ?", bucket).Error
	}))
}
