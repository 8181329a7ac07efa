package archive

import (
	"context"
	"slices"

	"github.com/eprod/eprod/internal/db"
)

// remove takes the rows off the shards, the participants' own last, and looks that none is left.
func (w *worker) remove(ctx context.Context) error {
	if err := w.shut(ctx); err != nil {
		return err
	}
	for _, t := range forgotten() {
		if err := forget(ctx, w.Shards, w.run.Study, w.token, t, w.Config.BlockRows); err != nil {
			return err
		}
	}
	for _, t := range slices.Backward(Tables()) {
		if err := w.blocks(ctx, t.Name, (*move).remove); err != nil {
			return err
		}
		_, rows, err := w.sumOf(ctx, TableSum{Name: t.Name})
		if err != nil {
			return err
		}
		if rows > 0 {
			return differs("%d rows of table %s are on the shards and not in the archive", rows, t.Name)
		}
	}
	return w.advance(ctx)
}

const noteEvery = 20 // blocks after which the place in a file is kept

// blocks moves every block of a table's files that has not been moved, each in a transaction of each shard that has rows of it.
func (w *worker) blocks(ctx context.Context, table string, do func(*move, context.Context, *db.DB) error) error {
	ours := func(e *Entry) bool { return e.Kind == KindEvidence && e.Table == table && e.moved != allMoved }
	return w.eachFile(ctx, ours, func(e *Entry) error {
		f, err := w.Destination.Open(ctx, e.Path)
		if err != nil {
			return err
		}
		defer f.Close()
		err = eachBlock(ctx, f, e, w.packer, w.run, e.moved, func(number int64, s *shape, rows []row) error {
			if err := w.block(ctx, e, s, rows, do); err != nil {
				return err
			}
			if err := w.hit("block"); err != nil {
				return err
			}
			if e.moved = number + 1; e.moved%noteEvery == 0 {
				if err := w.Store.noted(ctx, w.run, e); err != nil {
					return err
				}
			}
			return pause(ctx, w.Config.Pause)
		})
		if err != nil {
			return err
		}
		e.moved = allMoved
		return w.Store.noted(ctx, w.run, e)
	})
}

const allMoved = 1 << 40 // blocks: more than a file has

// block moves the rows of one block, on the shards where they are now: a bucket may change its shard meanwhile.
func (w *worker) block(ctx context.Context, e *Entry, s *shape, rows []row, do func(*move, context.Context, *db.DB) error) error {
	for try := 0; ; try++ {
		moved, err := w.blockOnce(ctx, e, s, rows, do)
		if !db.IsMoved(err) || try >= followMoves {
			return err
		}
		if err := w.Shards.Await(ctx, moved); err != nil {
			return err
		}
	}
}

const followMoves = 10 // times that the rows of one block are looked for anew

// blockOnce returns one of the participants whose bucket was elsewhere, with the error that says so.
func (w *worker) blockOnce(ctx context.Context, e *Entry, s *shape, rows []row, do func(*move, context.Context, *db.DB) error) (int64, error) {
	view, err := w.Shards.View(ctx)
	if err != nil {
		return 0, err
	}
	for _, shard := range w.Shards.All() {
		m := &move{study: w.run.Study, token: w.token, at: w.now(), shape: s}
		for _, r := range rows {
			if placed(view, w.Shards, s, r, e.Shard) == shard {
				m.rows = append(m.rows, r)
			}
		}
		if len(m.rows) == 0 {
			continue
		}
		if err := do(m, ctx, shard); err != nil {
			return participantOf(s, m.rows[0]), db.Error(s.table.Name, err)
		}
	}
	return 0, nil
}
