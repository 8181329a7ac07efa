package archive

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/parquet-go/parquet-go"

	"github.com/eprod/eprod/internal/db"
)

// lane is one stretch of the writing: a table of a shard, or the researchers' rows of a shard. It is cut into parts; what a part
// wrote is recorded together with where the lane goes on.
type lane struct {
	name  string
	parts int
	mark  []byte // of the last row that is in a file; nil: none yet
	ended bool
}

// part is what was written and not recorded yet.
type part struct {
	lane    lane
	entries []Entry
}

// write fills files from the shards. While it runs no bucket may change its shard: if one did, everything is written anew.
func (w *worker) write(ctx context.Context) error {
	if same, err := w.settled(ctx); err != nil || !same {
		return err
	}
	if err := w.tidy(ctx); err != nil {
		return err
	}
	for _, shard := range w.Shards.All() {
		shapes, err := shapesOf(ctx, shard)
		if err != nil {
			return err
		}
		for _, s := range shapes {
			if err := w.lane(ctx, "evidence/"+shard.Name+"/"+s.table.Name, func(ctx context.Context, l lane) (part, error) {
				return w.evidence(ctx, shard, s, l)
			}); err != nil {
				return err
			}
			if s.table.Name != "response" {
				continue
			}
			if err := w.lane(ctx, "answers/"+shard.Name, func(ctx context.Context, l lane) (part, error) {
				return w.answers(ctx, shard, s, l)
			}); err != nil {
				return err
			}
		}
	}
	if same, err := w.settled(ctx); err != nil || !same {
		return err
	}
	return w.advance(ctx)
}

// settled looks where the buckets are, and begins anew where that is not as it was when the writing began.
func (w *worker) settled(ctx context.Context) (same bool, err error) {
	if w.view, err = w.Shards.View(ctx); err != nil {
		return false, err
	}
	if now := layoutOf(w.view, w.Shards); now != w.run.Layout {
		return false, w.Store.restart(ctx, w.run, now, w.run.Lock)
	}
	return true, nil
}

// lane writes what is left of a lane, part after part.
func (w *worker) lane(ctx context.Context, name string, write func(ctx context.Context, l lane) (part, error)) error {
	l, err := w.Store.lane(ctx, w.run.Study, name)
	for err == nil && !l.ended {
		if err = w.hit("part"); err != nil {
			return err
		}
		var p part
		if p, err = write(ctx, l); err == nil {
			if err = w.hit("written"); err != nil {
				return err
			}
			err = w.Store.record(ctx, w.run, p)
			l = p.lane
		}
	}
	return err
}

// tidy removes what an earlier try, or an earlier archive of the study, left in the destination.
func (w *worker) tidy(ctx context.Context) error {
	stale, err := w.Store.stale(ctx, w.run.Study)
	if err != nil {
		return err
	}
	for _, path := range stale {
		if err := w.Destination.Remove(ctx, path); err != nil {
			return err
		}
		if err := w.Store.dropStale(ctx, w.run, path); err != nil {
			return err
		}
	}
	return nil
}

// shardWord is a shard's name as it stands in names of files.
func shardWord(shards *db.Shards, d *db.DB) string {
	place := 0
	for i, s := range shards.All() {
		if s == d {
			place = i
		}
	}
	word := strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= '0' && r <= '9' {
			return r
		}
		return -1
	}, strings.ToLower(d.Name))
	return fmt.Sprintf("%d%s", place, word)
}

func (w *worker) fileName(shard *db.DB, n int) string {
	return fmt.Sprintf("part-%d-%s-%05d.parquet", w.run.ID, shardWord(w.Shards, shard), n)
}

// evidence writes the next part of a table: its rows in sealed blocks.
func (w *worker) evidence(ctx context.Context, shard *db.DB, s *shape, l lane) (part, error) {
	walk, err := w.walk(shard, s, l.mark)
	if err != nil {
		return part{}, err
	}
	e := Entry{Kind: KindEvidence, Shard: shard.Name, Table: s.table.Name,
		Path: fmt.Sprintf("evidence/study=%d/table=%s/%s", w.run.Study, s.table.Name, w.fileName(shard, l.parts))}
	b := &blocks{worker: w, shape: s, entry: e}
	for b.rows < int64(w.Config.PartRows) {
		rows, err := walk.next(ctx, w.Config.BlockRows)
		if err == nil && len(rows) == 0 {
			l.ended = true
			break
		}
		if err == nil {
			err = b.add(ctx, shard, rows)
		}
		if err != nil {
			b.abort()
			return part{}, err
		}
	}
	l.parts++
	if l.mark, err = appendRow(nil, walk.at); err != nil {
		b.abort()
		return part{}, err
	}
	entries, err := b.finish(ctx)
	return part{l, entries}, err
}

// walk returns a walker that stands at a mark.
func (w *worker) walk(shard *db.DB, s *shape, mark []byte) (*walker, error) {
	walk := &walker{shard: shard, study: w.run.Study, shape: s, scan: w.Config.ScanRows}
	if len(mark) > 0 {
		at, rest, err := readRow(mark, len(s.order()))
		if err != nil || len(rest) > 0 {
			return nil, errors.Join(errors.New("a mark does not fit its table: the schema changed while the archive was being written"), err)
		}
		walk.at = at
	}
	return walk, nil
}

// blocks fills one evidence file.
type blocks struct {
	worker  *worker
	shape   *shape
	entry   Entry
	sheet   *sheet[Block]
	pending []byte // encoded rows of the block that is being filled
	sum     *digester
	total   Digest
	rows    int64 // of the file
	number  int64
	group   int // bytes since the last row group
}

const groupBytes = 16 << 20 // of an evidence file's row group, which is held in memory

// add takes rows that belong on the shard; what a move of buckets left behind there is not the shard's any more.
func (b *blocks) add(ctx context.Context, shard *db.DB, rows []row) error {
	var buffer []byte
	for _, r := range rows {
		if placed(b.worker.view, b.worker.Shards, b.shape, r, shard.Name) != shard {
			continue
		}
		var err error
		if buffer, err = appendRow(buffer[:0], r); err != nil {
			return fmt.Errorf("table %s: %w", b.shape.table.Name, err)
		}
		if b.sum == nil {
			b.sum = digesterOf(b.shape)
		}
		b.sum.encoded(buffer)
		b.pending = append(b.pending, buffer...)
		if b.sum.rows >= int64(b.worker.Config.BlockRows) || len(b.pending) >= b.worker.Config.BlockBytes {
			if err := b.flush(ctx); err != nil {
				return err
			}
		}
	}
	return nil
}

// flush seals the block.
func (b *blocks) flush(ctx context.Context) error {
	if b.sum == nil {
		return nil
	}
	w := b.worker
	if b.sheet == nil {
		if err := w.Store.plan(ctx, w.run, b.entry); err != nil {
			return err
		}
		var err error
		b.sheet, err = newSheet[Block](ctx, w.Destination, b.entry, 1<<20, parquet.Compression(&parquet.Uncompressed))
		if err != nil {
			return err
		}
	}
	sealed, err := w.packer.seal(b.shape, int(b.sum.rows), b.pending, blockPlace(w.run.Study, w.run.ID, b.entry.Path, b.number))
	if err != nil {
		return err
	}
	if err := b.sheet.add(Block{Number: b.number, Rows: int32(b.sum.rows), Digest: b.sum.sum[:], Sealed: sealed}); err != nil {
		return fmt.Errorf("parquet: %w", err)
	}
	if b.group += len(sealed); b.group >= groupBytes {
		b.group = 0
		if err := b.sheet.writer.Flush(); err != nil {
			return fmt.Errorf("parquet: %w", err)
		}
	}
	b.total.Add(b.sum.sum)
	b.rows += b.sum.rows
	b.number++
	b.pending, b.sum = b.pending[:0], nil
	return nil
}

func (b *blocks) abort() {
	if b.sheet != nil {
		b.sheet.abort()
	}
}

func (b *blocks) finish(ctx context.Context) ([]Entry, error) {
	if err := b.flush(ctx); err != nil {
		b.abort()
		return nil, err
	}
	if b.sheet == nil {
		return nil, nil
	}
	b.sheet.digest.sum, b.sheet.digest.rows = b.total, b.rows
	e, err := b.sheet.finish()
	return []Entry{e}, err
}

// pause lets others have the shard between two blocks.
func pause(ctx context.Context, d time.Duration) error {
	if d <= 0 {
		return ctx.Err()
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
