package db

import (
	"context"
	"slices"
	"strings"
	"time"

	"gorm.io/gorm"

	"github.com/eprod/eprod/internal/errs"
)

// BucketStanding says what a shard has of a bucket. It is kept there, in the bucket's row, and is the last word: maps are only what
// processes believe. At any moment one shard at most has a bucket Here, Watched or Held without another having it Gone.
type BucketStanding string

// The standings of a bucket, in the order of a move: the source goes Here, Watched, Held, Gone, Away; the target Away, Arriving, Here.
const (
	Here     BucketStanding = "here"     // read and written here
	Watched  BucketStanding = "watched"  // as here, but who changes is noted, for the bucket is being copied
	Held     BucketStanding = "held"     // read here, written nowhere, for less than a second or two
	Gone     BucketStanding = "gone"     // elsewhere; a complete copy as of the switch is still here and does not change
	Away     BucketStanding = "away"     // elsewhere, and nothing is here
	Arriving BucketStanding = "arriving" // elsewhere; a copy grows here
)

func (s BucketStanding) writable() bool { return s == Here || s == Watched }
func (s BucketStanding) readable() bool { return s.writable() || s == Held }

type bucketRow struct {
	Bucket   int
	Standing BucketStanding
	Epoch    int64
}

// Standings returns the standing of every bucket on this shard.
func (d *DB) Standings(ctx context.Context) ([Buckets]BucketStanding, error) {
	var out [Buckets]BucketStanding
	var rows []bucketRow
	if err := d.Read(ctx).Table("bucket").Select("bucket", "standing").Find(&rows).Error; err != nil {
		return out, Error("buckets of "+d.Name, err)
	}
	for _, r := range rows {
		if r.Bucket >= 0 && r.Bucket < Buckets {
			out[r.Bucket] = r.Standing
		}
	}
	return out, nil
}

func (d *DB) bucketStanding(ctx context.Context, bucket int) (BucketStanding, error) {
	var row bucketRow
	err := d.Read(ctx).Table("bucket").Select("standing").Where("bucket = ?", bucket).Take(&row).Error
	return row.Standing, Error("bucket", err)
}

// Visit is what a transaction was told that takes whatever is due on a shard, whoever's it is.
type Visit struct {
	Doors
	shut    []int // buckets whose rows here are copies, or may not be changed now
	watched []int
}

// AskAll is Ask for a transaction that does not know beforehand whose rows it will take. It locks the rows of all buckets, so it must
// be short. Rows of Shut buckets must be left alone, and Note must be told whose rows were changed.
func (d *DB) AskAll(tx *gorm.DB) (Visit, error) {
	var rows []bucketRow
	if err := share(tx).Table("bucket").Select("bucket", "standing", "epoch").Find(&rows).Error; err != nil {
		return Visit{}, err
	}
	var v Visit
	epoch := int64(0)
	for _, r := range rows {
		switch {
		case r.Standing == Watched:
			v.watched = append(v.watched, r.Bucket)
		case r.Standing != Here && r.Standing != Away:
			v.shut = append(v.shut, r.Bucket)
		}
		epoch = max(epoch, r.Epoch)
	}
	var err error
	v.Doors, err = d.doors(tx, epoch)
	return v, err
}

// Except leaves the rows of shut buckets out of a query on a table with a column bucket.
func (v Visit) Except(query *gorm.DB) *gorm.DB {
	if len(v.shut) == 0 {
		return query
	}
	return query.Where("bucket NOT IN ?", padded(v.shut))
}

// ExceptOf leaves the rows of shut buckets out of a query on a table without a column bucket, but with one of participants who are
// enrolled. The name of the column is code.
func (v Visit) ExceptOf(query *gorm.DB, participant string) *gorm.DB {
	if len(v.shut) == 0 {
		return query
	}
	return query.Where("NOT EXISTS (SELECT 1 FROM participant p WHERE p.id = "+participant+" AND p.bucket IN ?)", padded(v.shut))
}

// Note must be told, in the same transaction, whose rows were changed.
func (v Visit) Note(tx *gorm.DB, participants ...int64) error {
	return note(tx, v.watched, participants)
}

// note records that participants in watched buckets have changed. A row counts how often, so that whoever copies them can tell
// whether it was again since it looked.
func note(tx *gorm.DB, watched []int, participants []int64) error {
	var changed []int64
	for _, p := range participants {
		if slices.Contains(watched, Bucket(p)) {
			changed = append(changed, p)
		}
	}
	slices.SortFunc(changed, func(a, b int64) int { // all in one order, so that two do not wait for each other
		if x, y := Bucket(a), Bucket(b); x != y {
			return x - y
		}
		return int(min(max(a-b, -1), 1))
	})
	changed = slices.Compact(changed)
	const together = 100
	for chunk := range slices.Chunk(changed, together) {
		args := make([]any, 0, 2*len(chunk))
		for _, p := range chunk {
			args = append(args, Bucket(p), p)
		}
		statement := "INSERT INTO participant_change (bucket, participant_id, changes) VALUES (?, ?, 1)" + strings.Repeat(", (?, ?, 1)", len(chunk)-1)
		if Dialect(tx.Name()) == MySQL {
			statement += " ON DUPLICATE KEY UPDATE changes = changes + 1"
		} else {
			statement += " ON CONFLICT (bucket, participant_id) DO UPDATE SET changes = changes + 1"
		}
		if err := exec(tx, statement, args); err != nil {
			return err
		}
	}
	return nil
}

// NoneClosing must come first in a transaction in which a bucket begins its way to or from the shard. It reports whether no study is
// being closed there, and keeps it so until the transaction ends: of a move and the closing of a study, the first keeps the other off.
func NoneClosing(tx *gorm.DB) (bool, error) {
	var epoch, closing int64
	// The row that orders the changes of standings: see SetStanding, which refuses in its turn by quiet.
	if err := ForUpdate(tx.Table("study_standing")).Select("epoch").Where("study_id = 0").Scan(&epoch).Error; err != nil {
		return false, err
	}
	err := tx.Table("study_standing").Where("standing = ?", string(Closing)).Count(&closing).Error
	return closing == 0, err
}

// quiet refuses to close a study while buckets are on their way: what would be counted and hashed then may be there twice.
func quiet(tx *gorm.DB, standing Standing) error {
	if standing == Open {
		return nil
	}
	var moving int64
	err := tx.Table("bucket").Where("standing IN ?", []string{string(Watched), string(Held), string(Gone), string(Arriving)}).Count(&moving).Error
	if err != nil || moving == 0 {
		return err
	}
	return errs.New(errs.Unavailable, "shards_moving", "data is being moved between shards; the study can be locked when that is finished").WithRetryAfter(time.Minute)
}

// serverMicros is the MySQL server's own clock in microseconds.
const serverMicros = "CAST(UNIX_TIMESTAMP(NOW(6)) * 1000000 AS SIGNED)"

// freeExpired gives a bucket back to its writers whose mover has held it for too long, because it has died, or cannot reach it.
func (d *DB) freeExpired(ctx context.Context, bucket int) error {
	if d.Dialect != MySQL {
		return nil
	}
	return Error("bucket", d.Read(ctx).Exec("UPDATE bucket SET standing = 'watched' WHERE bucket = ? AND standing = 'held' AND held_until < "+serverMicros, bucket).Error)
}
