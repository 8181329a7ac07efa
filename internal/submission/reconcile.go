package submission

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/eprod/eprod/internal/db"
	"github.com/eprod/eprod/internal/kafka"
)

// Balance accounts for the records of one hour of one study. Accepted is the sum of all the others; Missing must be zero,
// and Pending becomes zero when the processor has caught up.
type Balance struct {
	Hour        time.Time `json:"hour"` // UTC, by the door's receive time
	Study       int64     `json:"study,string"`
	Accepted    int       `json:"accepted"`    // records that the log or a spool has
	Stored      int       `json:"stored"`      // first of their identity, with a response row
	Quarantined int       `json:"quarantined"` // first of their identity, with a quarantine row
	Conflict    int       `json:"conflict"`    // another body than the first, kept aside
	Late        int       `json:"late"`        // came too late for a locked study; kept outside of its data
	Duplicate   int       `json:"duplicate"`   // the same submission once more
	Archived    int       `json:"archived"`    // of a study whose rows are in the archive, which accounts for them by its manifest
	Pending     int       `json:"pending"`     // not processed yet
	Missing     int       `json:"missing"`     // processed according to the log, but without a trace: data loss
}

// Log reads the accepted records back.
type Log interface {
	// Scan calls fn for every record of the topic that is there as of the call, oldest first within a partition.
	Scan(ctx context.Context, fn func(kafka.Message) error) error
	// Committed returns, per partition, the offset up to which the processor has finished.
	Committed(ctx context.Context) (map[int32]int64, error)
}

type balanceKey struct {
	hour  time.Time
	study int64
}

// Reconciler proves that everything accepted is stored, quarantined or kept as a conflict: it reads the log, which the
// shards had no part in writing, and looks for each record's row.
type Reconciler struct {
	Shards   *db.Shards
	Log      Log
	Archived map[int64]bool // studies whose rows are, all or in part, in the archive; nil: none
	balances map[balanceKey]*Balance
	finished map[int32]int64
	seen     map[int64]bool // ids of the records counted so far: some 40 bytes each
}

type logged struct {
	record    Record
	partition int32
	offset    int64 // -1: from a spool
}

const reconcileChunk = 1000

// Run returns one balance per hour and study, in order. Unreadable records count under study 0. Not for concurrent use.
func (r *Reconciler) Run(ctx context.Context) ([]Balance, error) {
	r.balances, r.seen = make(map[balanceKey]*Balance), make(map[int64]bool)
	var err error
	// The finished offsets are read first: what the processor finishes during the scan counts as found, never as missing.
	if r.finished, err = r.Log.Committed(ctx); err != nil {
		return nil, fmt.Errorf("offsets of the processor: %w", err)
	}
	chunk := make([]logged, 0, reconcileChunk)
	err = r.Log.Scan(ctx, func(m kafka.Message) error {
		record, err := FromMessage(m)
		if err != nil {
			return nil // kept by the processor under the place in the log, and reported there
		}
		record.Sealed = nil
		chunk = append(chunk, logged{record, m.Partition, m.Offset})
		if len(chunk) < reconcileChunk {
			return nil
		}
		full := chunk
		chunk = chunk[:0]
		return r.count(ctx, full)
	})
	if err != nil {
		return nil, fmt.Errorf("read the log: %w", err)
	}
	if err := r.count(ctx, chunk); err != nil {
		return nil, err
	}
	if err := r.spools(ctx); err != nil {
		return nil, err
	}
	return r.sorted(), nil
}

func (r *Reconciler) sorted() []Balance {
	keys := slices.SortedFunc(maps.Keys(r.balances), func(a, b balanceKey) int {
		return cmp.Or(a.hour.Compare(b.hour), cmp.Compare(a.study, b.study))
	})
	out := make([]Balance, len(keys))
	for i, k := range keys {
		out[i] = *r.balances[k]
	}
	return out
}

func (r *Reconciler) spools(ctx context.Context) error {
	for _, shard := range r.Shards.All() {
		var after int64
		for {
			var rows []recordRow
			err := shard.Read(ctx).Table("spool").Select(without(spoolColumns, "sealed")).Where("id > ?", after).Order("id").Limit(reconcileChunk).Find(&rows).Error
			if err != nil {
				return db.Error("spool", err)
			}
			for _, row := range rows {
				after = row.ID
				if r.seen[row.ID] {
					continue
				}
				record := row.record()
				b := r.balance(&record)
				b.Accepted++
				b.Pending++
			}
			if len(rows) < reconcileChunk {
				break
			}
		}
	}
	return nil
}

func (r *Reconciler) count(ctx context.Context, chunk []logged) error {
	byShard := make(map[*db.DB][]logged)
	view, err := r.Shards.View(ctx)
	if err != nil {
		return err
	}
	for _, l := range chunk {
		shard := view.For(l.record.Participant)
		byShard[shard] = append(byShard[shard], l)
	}
	for shard, part := range byShard {
		if err := r.countShard(ctx, shard, part); err != nil {
			return fmt.Errorf("shard %s: %w", shard.Name, err)
		}
	}
	return nil
}

func (r *Reconciler) countShard(ctx context.Context, shard *db.DB, part []logged) error {
	identities := make([]Identity, len(part))
	ids := make([]int64, len(part))
	for i := range part {
		identities[i], ids[i] = part[i].record.Identity(), part[i].record.ID
	}
	receipts, err := Receipts(shard.Read(ctx), identities)
	if err != nil {
		return db.Error("receipt", err)
	}
	rows := make(map[string]map[int64]bool)
	for _, table := range []string{"response", "quarantine", "conflict", "late_record"} {
		if rows[table], err = present(ctx, shard, table, ids); err != nil {
			return err
		}
	}
	kept := func(record Record) bool {
		yes, keptErr := ConflictKept(shard.Read(ctx), &record)
		err = errors.Join(err, keptErr)
		return yes
	}
	late := func(record Record) bool {
		yes, lateErr := lateKept(shard.Read(ctx), &record)
		err = errors.Join(err, lateErr)
		return yes
	}
	for _, l := range part {
		if r.seen[l.record.ID] {
			continue // the same record once more: its first acknowledgement was lost, and the spool sent it again
		}
		r.seen[l.record.ID] = true
		b := r.balance(&l.record)
		b.Accepted++
		receipt, known := receipts[l.record.Identity()]
		switch id := l.record.ID; {
		case rows["response"][id]:
			b.Stored++
		case rows["quarantine"][id]:
			b.Quarantined++
		case rows["conflict"][id]:
			b.Conflict++
		case rows["late_record"][id]:
			b.Late++
		case known && receipt.ID != id && receipt.SHA256 == l.record.SHA256:
			b.Duplicate++
		case known && receipt.SHA256 != l.record.SHA256 && kept(l.record):
			b.Duplicate++ // a conflicting body that is kept under an earlier record
		case l.offset >= r.finished[l.partition]:
			b.Pending++
		case late(l.record):
			b.Duplicate++ // of a body that is kept as late under an earlier record
		case r.Archived[l.record.Study]:
			b.Archived++
		default:
			b.Missing++
		}
	}
	return db.Error("conflict", err)
}

func (r *Reconciler) balance(record *Record) *Balance {
	key := balanceKey{record.ReceivedAt.Truncate(time.Hour), record.Study}
	b, ok := r.balances[key]
	if !ok {
		b = &Balance{Hour: key.hour, Study: key.study}
		r.balances[key] = b
	}
	return b
}

// present returns which ids have a row in a table of a shard. The table is code, never input.
func present(ctx context.Context, shard *db.DB, table string, ids []int64) (map[int64]bool, error) {
	found := make(map[int64]bool, len(ids))
	for chunk := range slices.Chunk(ids, 500) {
		var here []int64
		if err := shard.Read(ctx).Table(table).Where("id IN ?", chunk).Pluck("id", &here).Error; err != nil {
			return nil, db.Error(table, err)
		}
		for _, id := range here {
			found[id] = true
		}
	}
	return found, nil
}
