package archive

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/eprod/eprod/internal/errs"
)

func errClickHouse(err error) error { return errs.Away("ClickHouse", err) }

// load puts the researchers' files into ClickHouse, reads each one's rows back and compares. Without a server it is done at once.
func (w *worker) load(ctx context.Context) error {
	if w.ClickHouse == nil {
		return w.advance(ctx)
	}
	if err := w.ClickHouse.prepare(ctx); err != nil {
		return err
	}
	counts, err := w.Store.Counts(ctx, w.run.Study)
	if err != nil {
		return err
	}
	if counts.Loaded == 0 { // of an earlier archive of the study, or of a try that nobody knows of
		if err := w.ClickHouse.drop(ctx, w.run.Study); err != nil {
			return err
		}
	}
	want := map[string]int64{KindResponses: 0, KindAnswers: 0}
	err = w.eachFile(ctx, func(e *Entry) bool { return e.Kind != KindEvidence }, func(e *Entry) error {
		want[e.Kind] += e.Rows
		if e.loaded {
			return nil
		}
		return w.loadFile(ctx, e)
	})
	if err != nil {
		return err
	}
	for kind, rows := range want {
		if err := w.counted(ctx, kind, rows); err != nil {
			return err
		}
	}
	return w.advance(ctx)
}

func (w *worker) loadFile(ctx context.Context, e *Entry) error {
	if err := w.sendFile(ctx, e); err != nil {
		return err
	}
	if err := w.hit("sent"); err != nil {
		return err
	}
	if err := w.fetched(ctx, e); err != nil {
		return err
	}
	e.loaded = true
	return w.Store.noted(ctx, w.run, e)
}

func (w *worker) sendFile(ctx context.Context, e *Entry) error {
	f, err := w.Destination.Open(ctx, e.Path)
	if err != nil {
		return err
	}
	defer f.Close()
	return w.ClickHouse.insert(ctx, e.Kind, f)
}

// fetched reads the rows of a file back from ClickHouse and holds them against its digest.
func (w *worker) fetched(ctx context.Context, e *Entry) error {
	spool, err := os.CreateTemp("", "eprod-archive-*.parquet")
	if err != nil {
		return fmt.Errorf("archive: %w", err)
	}
	defer func() { _ = errors.Join(spool.Close(), os.Remove(spool.Name())) }()
	if err := w.ClickHouse.fetch(ctx, e, w.run.Study, spool); err != nil {
		return err
	}
	info, err := spool.Stat()
	if err != nil {
		return fmt.Errorf("archive: %w", err)
	}
	var got *digester
	if back := (&openFile{spool, info.Size()}); e.Kind == KindResponses {
		got, err = digestRows(ctx, back, e.Kind, (*Response).encode)
	} else {
		got, err = digestRows(ctx, back, e.Kind, (*Answer).encode)
	}
	if err != nil {
		return fmt.Errorf("%s out of ClickHouse: %w", e.Path, err)
	}
	if got.rows != e.Rows || fmt.Sprintf("%x", got.sum) != e.Digest {
		return differs("ClickHouse has %d rows of %s, and %d with another digest were loaded", got.rows, e.Path, e.Rows)
	}
	return nil
}

// counted looks that a study has as many rows in a table as were loaded, also for readers who do not say FINAL.
func (w *worker) counted(ctx context.Context, kind string, want int64) error {
	for _, final := range []bool{true, false} {
		n, err := w.ClickHouse.count(ctx, kind, w.run.Study, final)
		if err == nil && n > want && !final {
			if err = w.ClickHouse.merge(ctx, kind, w.run.Study); err == nil {
				n, err = w.ClickHouse.count(ctx, kind, w.run.Study, false)
			}
		}
		if err != nil {
			return err
		}
		if n != want {
			return differs("ClickHouse has %d rows of %s, and %d were loaded", n, kind, want)
		}
	}
	return nil
}
