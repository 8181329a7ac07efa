package archive

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/eprod/eprod/internal/audit"
	"github.com/eprod/eprod/internal/db"
	"github.com/eprod/eprod/internal/errs"
	"github.com/eprod/eprod/internal/lock"
	"github.com/eprod/eprod/internal/questionnaire"
)

// worker moves one study, in one process at a time.
type worker struct {
	*Service
	run         *Run
	token       int64
	packer      *packer
	definitions map[string]*questionnaire.Definition
	view        db.View // where the buckets were when the writing began
}

// longest is how long one process may work on a study without giving others the chance to take over.
const longest = 24 * time.Hour

// Drive works on a study's run until it is done. Somebody else at it is errs.Conflict with the code locked; a run that was done
// before changes nothing. What it returns is written down as the run's problem as well.
func (s *Service) Drive(ctx context.Context, study int64) error {
	lease, err := s.Locks.Acquire(ctx, fmt.Sprintf("archive/%d", study), s.Config.LeaseTTL, lock.Renew(longest))
	if err != nil {
		return err
	}
	defer func() { _ = lease.Release(ctx) }() // it ends by itself
	ctx, stop := context.WithCancelCause(ctx)
	var watching sync.WaitGroup
	defer watching.Wait()
	defer stop(nil)
	watching.Go(func() {
		select {
		case <-lease.Done():
			stop(errOvertaken())
		case <-ctx.Done():
		}
	})
	err = s.drive(ctx, study, lease.Token)
	if err != nil && ctx.Err() != nil && context.Cause(ctx) != nil {
		err = errors.Join(context.Cause(ctx), err)
	}
	return err
}

func (s *Service) drive(ctx context.Context, study, token int64) error {
	if err := s.Store.Take(ctx, study, token); err != nil {
		return err
	}
	run, err := s.Store.Run(ctx, study)
	if err != nil || run.Done() {
		return err
	}
	for _, shard := range s.Shards.All() {
		if err := raise(ctx, shard, study, token); err != nil {
			return err
		}
	}
	key, err := s.Keys.DataKey(study, run.Key)
	if err != nil {
		return err
	}
	w := &worker{Service: s, run: run, token: token, definitions: make(map[string]*questionnaire.Definition)}
	run.fence = token
	if w.packer, err = newPacker(key); err != nil {
		return err
	}
	defer w.packer.close()
	for !run.Done() {
		at := run.Step
		run.Changed = s.now()
		err := w.step(ctx)
		if notLocked(err) && run.Direction == Out {
			err = w.abandon(ctx, err)
		}
		if err != nil {
			s.Log.WarnContext(ctx, "the move of a study waits", slog.Int64("study", study), slog.String("step", string(at)), slog.String("error.message", err.Error()))
			noting, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
			defer cancel()
			return errors.Join(err, s.Store.fail(noting, run, problemOf(err)))
		}
		s.Log.InfoContext(ctx, "the move of a study goes on", slog.Int64("study", study), slog.String("direction", string(run.Direction)), slog.String("step", string(run.Step)))
	}
	return nil
}

// problemOf is what may be shown of an error: a code, or where archive and shards differ.
func problemOf(err error) string {
	var d *damaged
	if errors.As(err, &d) {
		return d.Error()[:min(len(d.Error()), 250)]
	}
	if e, ok := errs.As(err); ok {
		return e.Code
	}
	return "internal"
}

// notLocked reports whether a step found the study open.
func notLocked(err error) bool {
	e, ok := errs.As(err)
	return ok && e.Code == codeNotLocked
}

// abandon ends a run whose study was unlocked, and removes its files.
func (w *worker) abandon(ctx context.Context, why error) error {
	entry, err := w.entry("study.archive-abandon", map[string]any{"run": fmt.Sprint(w.run.ID), "problem": problemOf(why)})
	if err == nil {
		err = w.tidy(ctx)
	}
	if err == nil {
		err = w.Store.abandon(ctx, w.run, problemOf(why), entry)
	}
	if err == nil {
		err = w.tidy(ctx)
	}
	return err
}

// step does one step. Each may be repeated after it was cut off anywhere.
func (w *worker) step(ctx context.Context) error {
	if err := w.hit("step " + string(w.run.Step)); err != nil {
		return err
	}
	switch w.run.Step {
	case StepWrite:
		if same, err := w.closed(ctx); err != nil || !same {
			return err
		}
		return w.write(ctx)
	case StepVerify:
		return w.verify(ctx)
	case StepLoad:
		return w.load(ctx)
	case StepList:
		return w.list(ctx)
	case StepClose:
		return w.close(ctx)
	case StepRemove:
		return w.remove(ctx)
	case StepCheck:
		return w.check(ctx)
	case StepInsert:
		return w.insert(ctx)
	case StepCompare:
		return w.compare(ctx)
	case StepReopen:
		return w.reopen(ctx)
	default:
		return fmt.Errorf("a run at the unknown step %s", w.run.Step)
	}
}

// advance moves the run to its next step.
func (w *worker) advance(ctx context.Context, entries ...audit.Entry) error {
	next := after(w.run.Direction, w.run.Step)
	is := *w.run
	is.Step, is.Changed = next, w.now()
	if next == StepDone {
		is.Finished = is.Changed
	}
	if err := w.Store.step(ctx, &is, entries...); err != nil {
		return err
	}
	*w.run = is
	return nil
}

// closed refuses to go on unless the study is locked and every shard takes no writes of it. Where it was unlocked and locked anew
// since the writing began, that begins again, and same is false.
func (w *worker) closed(ctx context.Context) (same bool, err error) {
	lock, err := w.Studies.Locked(ctx, w.run.Study)
	if err == nil {
		err = w.shut(ctx)
	}
	if err != nil || lock == w.run.Lock {
		return err == nil, err
	}
	view, err := w.Shards.View(ctx)
	if err != nil {
		return false, err
	}
	return false, w.Store.restart(ctx, w.run, layoutOf(view, w.Shards), lock)
}

// shut refuses to go on while a shard takes writes of the study.
func (w *worker) shut(ctx context.Context) error {
	for _, shard := range w.Shards.All() {
		standing, err := shard.StandingOf(ctx, w.run.Study)
		if err != nil {
			return err
		}
		if standing != db.Closed {
			return errNotLocked().WithDetail("the shard " + shard.Name + " still takes writes of the study: lock it again")
		}
	}
	return nil
}

// offers returns which values a version names; nil for one that is not known, whose codes are then withheld.
func (w *worker) offers(ctx context.Context, canonical string) (offering, error) {
	d, known := w.definitions[canonical]
	if !known {
		var err error
		d, err = w.Definitions.Definition(ctx, w.run.Study, canonical)
		if err != nil && errs.KindOf(err) != errs.Unprocessable && errs.KindOf(err) != errs.NotFound {
			return nil, err
		}
		w.definitions[canonical] = d
	}
	if d == nil {
		return nil, nil
	}
	return d, nil
}

const filePage = 200 // files that are listed at once

// eachFile calls fn for every file of the archive that want asks for, in order of their paths.
func (w *worker) eachFile(ctx context.Context, want func(*Entry) bool, fn func(*Entry) error) error {
	after := ""
	for {
		page, err := w.Store.files(ctx, w.run.Study, after, filePage)
		if err != nil || len(page) == 0 {
			return err
		}
		for i := range page {
			if after = page[i].Path; !want(&page[i]) {
				continue
			}
			if err := fn(&page[i]); err != nil {
				return err
			}
		}
	}
}

// verify reads every file back from the destination.
func (w *worker) verify(ctx context.Context) error {
	if err := w.reread(ctx); err != nil {
		return err
	}
	return w.advance(ctx)
}

func (w *worker) reread(ctx context.Context) error {
	return w.eachFile(ctx, func(e *Entry) bool { return !e.verified }, func(e *Entry) error {
		if err := readBack(ctx, w.Destination, e, w.packer, w.run); err != nil {
			return err
		}
		if err := w.hit("verified"); err != nil {
			return err
		}
		e.verified = true
		return w.Store.noted(ctx, w.run, e)
	})
}

// list writes the manifest and reads it back.
func (w *worker) list(ctx context.Context) error {
	m, err := w.manifest(ctx)
	if err != nil {
		return err
	}
	raw, err := json.MarshalIndent(m, "", " ")
	if err != nil {
		return fmt.Errorf("manifest: %w", err)
	}
	path := manifestPath(w.run.Study, w.run.ID)
	if err := w.put(ctx, path, raw); err != nil {
		return err
	}
	if w.Attester != nil {
		signature, err := w.Attester.Attest("eprod-archive-manifest", raw)
		if err != nil {
			return err
		}
		if err := w.put(ctx, path+".jws", []byte(signature)); err != nil {
			return err
		}
	}
	w.run.Place, w.run.Manifest = w.Destination.Place(path), sum256(raw)
	return w.advance(ctx)
}

// put writes a small file and reads it back.
func (w *worker) put(ctx context.Context, path string, raw []byte) error {
	up, err := w.Destination.Create(ctx, path)
	if err != nil {
		return err
	}
	defer up.Abort()
	if _, err := up.Write(raw); err != nil {
		return fmt.Errorf("archive: %w", err)
	}
	if err := up.Commit(); err != nil {
		return err
	}
	again, err := w.get(ctx, path)
	if err == nil && !slices.Equal(again, raw) {
		err = differs("the file %s has other bytes than were written", path)
	}
	return err
}

// close makes the study archived: from here on reads are answered from the manifest. Once it has, rows may leave.
func (w *worker) close(ctx context.Context) error {
	archived, err := w.Studies.Archived(ctx, w.run.Study)
	if err != nil {
		return err
	}
	if !archived {
		if same, err := w.closed(ctx); err != nil || !same {
			return err
		}
	}
	entry, err := w.entry("study.archive", map[string]any{"run": fmt.Sprint(w.run.ID), "manifest": w.run.Place, "sha256": fmt.Sprintf("%x", w.run.Manifest)})
	if err != nil {
		return err
	}
	if err := w.Studies.Archive(ctx, w.run.Study, w.run.Lock, entry); err != nil {
		return err
	}
	return w.advance(ctx)
}

// entry is the evidence of a change, in the trail of the study's design, which does not leave the metadata database.
func (w *worker) entry(action string, what map[string]any) (audit.Entry, error) {
	return w.Service.entry(w.run, action, what)
}
