package archive

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"

	"github.com/eprod/eprod/internal/db"
)

// check holds the manifest and all files against what was recorded, before anything comes back.
func (w *worker) check(ctx context.Context) error {
	m, err := w.listed(ctx)
	if err != nil {
		return err
	}
	listed := make(map[string]Entry, len(m.Files))
	for _, e := range m.Files {
		listed[e.Path] = e
	}
	n := 0
	err = w.eachFile(ctx, func(*Entry) bool { return true }, func(e *Entry) error {
		in, ok := listed[e.Path]
		if !ok || in.SHA256 != e.SHA256 || in.Digest != e.Digest || in.Rows != e.Rows {
			return differs("the file %s is not as the manifest lists it", e.Path)
		}
		n++
		return nil
	})
	if err == nil && n != len(m.Files) {
		err = differs("the manifest lists %d files, and %d are known", len(m.Files), n)
	}
	if err == nil {
		err = w.reread(ctx)
	}
	if err != nil {
		return err
	}
	return w.advance(ctx)
}

// listed returns the manifest after comparing its bytes with what was recorded.
func (w *worker) listed(ctx context.Context) (*Manifest, error) {
	raw, err := w.get(ctx, manifestPath(w.run.Study, w.run.ID))
	if err != nil {
		return nil, err
	}
	if sum256(raw) != w.run.Manifest {
		return nil, differs("the manifest has other bytes than were written")
	}
	var m Manifest
	if err := json.Unmarshal(raw, &m); err != nil {
		return nil, fmt.Errorf("manifest: %w", err)
	}
	return &m, nil
}

// insert brings the rows back, the participants first.
func (w *worker) insert(ctx context.Context) error {
	for _, shard := range w.Shards.All() {
		if _, err := shapesOf(ctx, shard); err != nil {
			return err
		}
	}
	for _, t := range Tables() {
		if err := w.blocks(ctx, t.Name, (*move).insert); err != nil {
			return err
		}
	}
	return w.advance(ctx)
}

// compare counts and digests every row of the study on the shards and holds the sums against the manifest.
func (w *worker) compare(ctx context.Context) error {
	m, err := w.listed(ctx)
	if err != nil {
		return err
	}
	for _, t := range m.Tables {
		sum, rows, err := w.sumOf(ctx, t)
		if err != nil {
			return err
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		if rows != t.Rows || hex.EncodeToString(sum[:]) != t.Digest {
			return differs("table %s has %d rows, and %d with another digest were archived", t.Name, rows, t.Rows)
		}
	}
	return w.advance(ctx)
}

// sumOf digests a study's rows of a table on all shards, by the columns that it had when it was archived.
func (w *worker) sumOf(ctx context.Context, t TableSum) (Digest, int64, error) {
	var sum Digest
	var rows int64
	view, err := w.Shards.View(ctx)
	if err != nil {
		return sum, 0, err
	}
	for _, shard := range w.Shards.All() {
		one, n, err := digestTable(ctx, shard, view, w.Shards, w.run.Study, t.Name, t.Columns, w.Config)
		if err != nil {
			return sum, 0, err
		}
		sum.Add(one)
		rows += n
	}
	return sum, rows, nil
}

// digestTable digests a study's rows of a table that belong on a shard. Columns narrows it to some; nil: all there are.
func digestTable(ctx context.Context, shard *db.DB, view db.View, shards *db.Shards, study int64, table string, columns []string, c Config) (Digest, int64, error) {
	shapes, err := shapesOf(ctx, shard)
	if err != nil {
		return Digest{}, 0, err
	}
	at := slices.IndexFunc(shapes, func(s *shape) bool { return s.table.Name == table })
	if at < 0 {
		return Digest{}, 0, differs("table %s is not on shard %s", table, shard.Name)
	}
	full := shapes[at]
	narrow, places, err := narrowed(full, columns)
	if err != nil {
		return Digest{}, 0, err
	}
	walk := &walker{shard: shard, study: study, shape: full, scan: c.ScanRows}
	d := digesterOf(narrow)
	var buffer []byte
	for {
		rows, err := walk.next(ctx, c.BlockRows)
		if err != nil || len(rows) == 0 {
			return d.sum, d.rows, err
		}
		for _, r := range rows {
			if placed(view, shards, full, r, shard.Name) != shard {
				continue
			}
			some := make(row, len(places))
			for i, p := range places {
				some[i] = r[p]
			}
			if buffer, err = appendRow(buffer[:0], some); err != nil {
				return Digest{}, 0, err
			}
			d.encoded(buffer)
		}
	}
}

// narrowed returns a shape of some of the columns, and where they stand in the whole.
func narrowed(s *shape, columns []string) (*shape, []int, error) {
	if columns == nil {
		columns = s.names()
	}
	out := &shape{table: s.table}
	places := make([]int, len(columns))
	for i, name := range columns {
		if places[i] = s.place(name); places[i] < 0 {
			return nil, nil, differs("table %s has no column %s any more: restore with the version of eprod that made the archive, and migrate then", s.table.Name, name)
		}
		out.columns = append(out.columns, s.columns[places[i]])
	}
	return out, places, nil
}

// reopen makes the study locked again: its rows are all there.
func (w *worker) reopen(ctx context.Context) error {
	entry, err := w.entry("study.restore", map[string]any{"run": fmt.Sprint(w.run.ID), "manifest": w.run.Place})
	if err != nil {
		return err
	}
	if err := w.Studies.Relock(ctx, w.run.Study, entry); err != nil {
		return err
	}
	return w.advance(ctx)
}
