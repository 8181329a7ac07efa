package growth

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sync/errgroup"
	"gorm.io/gorm"

	"github.com/eprod/eprod/internal/db"
)

// Sum is a checksum over any number of rows in any order: for each, SHA-256 over the table's name and the columns, in the order of
// their names, each as its length and its bytes; added as four numbers modulo 2^64. Equal rows on two shards have equal sums.
type Sum struct {
	Rows int64
	sum  [4]uint64
}

func (s *Sum) add(o Sum) {
	s.Rows += o.Rows
	for i := range s.sum {
		s.sum[i] += o.sum[i]
	}
}

// String writes the checksum in hexadecimal digits.
func (s Sum) String() string {
	var b [32]byte
	for i, v := range s.sum {
		binary.BigEndian.PutUint64(b[8*i:], v)
	}
	return hex.EncodeToString(b[:])
}

// rows are those of some participants in one table of one shard.
type rows struct {
	columns []string
	of      map[int64][][]any
	sums    map[int64]Sum
	bytes   int
}

// movedTables returns the tables whose rows move with their participants.
func movedTables() []db.ShardTable {
	return slices.DeleteFunc(db.ShardTables(), func(t db.ShardTable) bool { return t.Kind == db.Local })
}

func bucketTables() []db.ShardTable {
	return slices.DeleteFunc(db.ShardTables(), func(t db.ShardTable) bool { return !t.PerBucket })
}

// theirs leaves out nobody's rows where those belong to the shard or to a study: what is noted without a participant stays.
func theirs(table string, participants []int64) []int64 {
	if table != "audit" || !slices.Contains(participants, 0) {
		return participants
	}
	return slices.DeleteFunc(slices.Clone(participants), func(p int64) bool { return p == 0 })
}

// read returns the rows of participants (or, in tables of buckets, of buckets) in one table.
func read(ctx context.Context, shard *db.DB, table, column string, ids []int64) (rows, error) {
	out := rows{of: make(map[int64][][]any), sums: make(map[int64]Sum)}
	if len(ids) == 0 {
		return out, nil
	}
	args := padded(ids)
	found, err := shard.Pool().QueryContext(ctx, "SELECT * FROM "+table+" WHERE "+column+" IN (?"+strings.Repeat(",?", len(args)-1)+")", args...)
	if err != nil {
		return out, db.Error(table, err)
	}
	defer found.Close()
	if out.columns, err = found.Columns(); err != nil {
		return out, db.Error(table, err)
	}
	at := slices.Index(out.columns, column)
	order := make([]int, len(out.columns)) // by name: a migration that came late added its column elsewhere
	for i := range order {
		order[i] = i
	}
	slices.SortFunc(order, func(a, b int) int { return cmp.Compare(out.columns[a], out.columns[b]) })
	for found.Next() {
		row, into := make([]any, len(out.columns)), make([]any, len(out.columns))
		for i := range row {
			into[i] = &row[i]
		}
		if err := found.Scan(into...); err != nil {
			return out, db.Error(table, err)
		}
		id, ok := row[at].(int64)
		if !ok {
			return out, fmt.Errorf("%s.%s: %T where a number must be", table, column, row[at])
		}
		sum, size, err := rowSum(table, row, order)
		if err != nil {
			return out, err
		}
		total := out.sums[id]
		total.add(sum)
		out.sums[id], out.of[id], out.bytes = total, append(out.of[id], row), out.bytes+size
	}
	return out, db.Error(table, found.Err())
}

func rowSum(table string, row []any, order []int) (Sum, int, error) {
	h := sha256.New()
	size := 0
	put := func(b []byte) {
		size += len(b)
		h.Write(binary.BigEndian.AppendUint64(nil, uint64(len(b))))
		h.Write(b)
	}
	put([]byte(table))
	for _, i := range order {
		switch v := row[i].(type) {
		case nil:
			h.Write(binary.BigEndian.AppendUint64(nil, ^uint64(0)))
		case int64:
			put(strconv.AppendInt(nil, v, 10))
		case []byte:
			put(v)
		case string:
			put([]byte(v))
		default:
			return Sum{}, 0, fmt.Errorf("%s: a value of type %T: only whole numbers, texts and bytes can be compared", table, v)
		}
	}
	digest := h.Sum(nil)
	s := Sum{Rows: 1}
	for i := range s.sum {
		s.sum[i] = binary.BigEndian.Uint64(digest[8*i:])
	}
	return s, size, nil
}

// padded repeats the last id until the list has one of few lengths, so that few statements are prepared.
func padded(ids []int64) []any {
	size := len(ids)
	for _, n := range [...]int{1, 8, 64, maxBatch} {
		if len(ids) <= n {
			size = n
			break
		}
	}
	out := make([]any, size)
	for i := range out {
		out[i] = ids[min(i, len(ids)-1)]
	}
	return out
}

// copier makes buckets of a target equal to those of a source.
type copier struct {
	source, target *db.DB
	token          int64 // the fence
}

// difference is what some participants have on two shards.
type difference struct {
	differ []int64 // participants with different rows
	Sum            // of the rows at the source
	bytes  int
	tables map[string]rows // rows at the source of those who differ in the table
	clean  map[string][]int64
}

// compare holds the rows of participants on both shards against each other, some tables at a time.
func (c *copier) compare(ctx context.Context, participants []int64) (difference, error) {
	d := difference{tables: make(map[string]rows), clean: make(map[string][]int64)}
	tables := movedTables()
	is, has := make([]rows, len(tables)), make([]rows, len(tables))
	reading, ctx := errgroup.WithContext(ctx)
	reading.SetLimit(4)
	for i, t := range tables {
		ids := theirs(t.Name, participants)
		reading.Go(func() (err error) {
			is[i], err = read(ctx, c.source, t.Name, t.Participant, ids)
			return err
		})
		reading.Go(func() (err error) {
			has[i], err = read(ctx, c.target, t.Name, t.Participant, ids)
			return err
		})
	}
	if err := reading.Wait(); err != nil {
		return d, err
	}
	differ := make(map[int64]bool)
	for i, t := range tables {
		for _, id := range theirs(t.Name, participants) {
			d.add(is[i].sums[id])
			if is[i].sums[id] != has[i].sums[id] {
				differ[id] = true
				d.clean[t.Name] = append(d.clean[t.Name], id)
			}
		}
		d.bytes += is[i].bytes
		if len(d.clean[t.Name]) > 0 {
			d.tables[t.Name] = is[i]
		}
	}
	d.differ = slices.Sorted(maps.Keys(differ))
	return d, nil
}

// sync makes the rows of participants at the target those of the source, in one transaction of the target.
func (c *copier) sync(ctx context.Context, participants []int64) (difference, error) {
	d, err := c.compare(ctx, participants)
	if err != nil || len(d.differ) == 0 {
		return d, err
	}
	err = c.target.Tx(ctx, func(tx *gorm.DB) error {
		if err := guard(tx, d.differ, c.token, db.Arriving); err != nil {
			return err
		}
		for _, t := range movedTables() {
			ids := d.clean[t.Name]
			if len(ids) == 0 {
				continue
			}
			if err := tx.Exec("DELETE FROM "+t.Name+" WHERE "+t.Participant+" IN ?", padded(ids)).Error; err != nil {
				return err
			}
			var fresh [][]any
			for _, id := range ids {
				fresh = append(fresh, d.tables[t.Name].of[id]...)
			}
			if err := db.Insert(tx, t.Name, d.tables[t.Name].columns, fresh); err != nil {
				return fmt.Errorf("%s: %w", t.Name, err)
			}
		}
		return nil
	})
	return d, db.Error("copies", err)
}

// guard holds the buckets of participants in a standing, under a fence, until the transaction ends: a process that was overtaken does
// not get through, and nobody writes over what is alive.
func guard(tx *gorm.DB, participants []int64, fence int64, in db.BucketStanding) error {
	buckets := make([]int, 0, len(participants))
	for _, p := range participants {
		buckets = append(buckets, db.Bucket(p))
	}
	return guardBuckets(tx, buckets, fence, in)
}

func guardBuckets(tx *gorm.DB, buckets []int, fence int64, in db.BucketStanding) error {
	slices.Sort(buckets)
	buckets = slices.Compact(buckets)
	var held []int
	err := tx.Raw("SELECT bucket FROM bucket WHERE bucket IN ? AND fence = ? AND standing = ? FOR SHARE", buckets, fence, string(in)).Scan(&held).Error
	if err == nil && len(held) != len(buckets) {
		return errOvertaken()
	}
	return err
}

// syncBucket does what sync does for the rows that belong to a bucket.
func (c *copier) syncBucket(ctx context.Context, bucket int) error {
	for _, t := range bucketTables() {
		is, err := read(ctx, c.source, t.Name, "bucket", []int64{int64(bucket)})
		if err != nil {
			return err
		}
		err = c.target.Tx(ctx, func(tx *gorm.DB) error {
			if err := guardBuckets(tx, []int{bucket}, c.token, db.Arriving); err != nil {
				return err
			}
			if err := tx.Exec("DELETE FROM "+t.Name+" WHERE bucket = ?", bucket).Error; err != nil {
				return err
			}
			return db.Insert(tx, t.Name, is.columns, is.of[int64(bucket)])
		})
		if err != nil {
			return db.Error(t.Name, err)
		}
		has, err := read(ctx, c.target, t.Name, "bucket", []int64{int64(bucket)})
		if err != nil || is.sums[int64(bucket)] != has.sums[int64(bucket)] {
			return cmp.Or(err, fmt.Errorf("%s of bucket %d differs on %s after it was copied", t.Name, bucket, c.target.Name))
		}
	}
	return nil
}

const maxBatch = 256 // participants at once

// people returns everybody who has a row in buckets of a shard, in ascending order. Not only who is enrolled: what came for strangers
// is kept as well. It reads the participants' column of every table, by its index.
func people(ctx context.Context, shard *db.DB, buckets []int) ([]int64, error) {
	var wanted [db.Buckets]bool
	for _, b := range buckets {
		wanted[b] = true
	}
	var out []int64
	for _, t := range movedTables() {
		const page = 5000
		query := "SELECT DISTINCT " + t.Participant + " AS who FROM " + t.Name + " WHERE " + t.Participant + " > ? ORDER BY who LIMIT ?"
		for after := int64(-1); ; {
			var ids []int64
			if err := shard.Read(ctx).Raw(query, after, page).Scan(&ids).Error; err != nil {
				return nil, db.Error(t.Name, err)
			}
			for _, id := range ids {
				if after = id; wanted[db.Bucket(id)] && len(theirs(t.Name, []int64{id})) == 1 {
					out = append(out, id)
				}
			}
			if len(ids) < page {
				break
			}
		}
		slices.Sort(out)
		out = slices.Compact(out)
	}
	return out, nil
}

// purge deletes what is in buckets of a shard that are in a standing in which nobody reads them.
func purge(ctx context.Context, shard *db.DB, buckets []int, fence int64, in db.BucketStanding) error {
	ids, err := people(ctx, shard, buckets)
	if err != nil {
		return err
	}
	for chunk := range slices.Chunk(ids, 32) { // a transaction of some megabytes
		err := shard.Tx(ctx, func(tx *gorm.DB) error {
			if err := guard(tx, chunk, fence, in); err != nil {
				return err
			}
			for _, t := range movedTables() {
				if whose := theirs(t.Name, chunk); len(whose) > 0 {
					if err := tx.Exec("DELETE FROM "+t.Name+" WHERE "+t.Participant+" IN ?", padded(whose)).Error; err != nil {
						return err
					}
				}
			}
			return nil
		})
		if err != nil {
			return db.Error("old copies", err)
		}
	}
	for _, b := range buckets {
		err := shard.Tx(ctx, func(tx *gorm.DB) error {
			if err := guardBuckets(tx, []int{b}, fence, in); err != nil {
				return err
			}
			for _, t := range bucketTables() {
				if err := tx.Exec("DELETE FROM "+t.Name+" WHERE bucket = ?", b).Error; err != nil {
					return err
				}
			}
			return tx.Exec("DELETE FROM participant_change WHERE bucket = ?", b).Error
		})
		if err != nil {
			return db.Error("old copies", err)
		}
	}
	return nil
}
