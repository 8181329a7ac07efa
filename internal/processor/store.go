package processor

import (
	"context"
	"time"

	"gorm.io/gorm"

	"github.com/eprod/eprod/internal/audit"
	"github.com/eprod/eprod/internal/db"
	"github.com/eprod/eprod/internal/outbox"
	"github.com/eprod/eprod/internal/submission"
	"github.com/eprod/eprod/internal/task"
	"github.com/eprod/eprod/internal/trace"
)

func (s *Service) try(ctx context.Context, shard *db.DB, verdicts []verdict, look bool) (fate, error) {
	var f fate
	err := shard.Tx(ctx, func(tx *gorm.DB) error {
		doors, err := shard.AskOf(tx, whose(verdicts)...)
		if err != nil {
			return err
		}
		closed := func(study int64) bool { return doors.Admit(study, db.Drain) != nil }
		var have known
		if look || !doors.AllOpen() { // what a locked study has already must be told from what comes too late for it
			if have, err = lookUp(tx, verdicts); err != nil {
				return err
			}
		}
		at := s.Now().UTC().Truncate(time.Microsecond)
		f = settle(verdicts, have, closed, at)
		return s.write(tx, &f, at)
	})
	return f, err
}

// whose returns whose records verdicts are about.
func whose(verdicts []verdict) []int64 {
	out := make([]int64, len(verdicts))
	for i := range verdicts {
		out[i] = verdicts[i].record.Participant
	}
	return out
}

func lookUp(tx *gorm.DB, verdicts []verdict) (known, error) {
	ids := make([]submission.Identity, len(verdicts))
	keys := make([]task.Key, len(verdicts))
	for i := range verdicts {
		ids[i] = verdicts[i].record.Identity()
		keys[i] = task.Key{Participant: verdicts[i].record.Participant, Task: verdicts[i].record.Task}
	}
	receipts, err := submission.Receipts(tx, ids)
	if err != nil {
		return known{}, err
	}
	tasks, err := task.DoneFor(tx, keys)
	return known{receipts, tasks}, err
}

func (s *Service) write(tx *gorm.DB, f *fate, at time.Time) error {
	if err := submission.InsertReceipts(tx, f.receipts); err != nil {
		return err
	}
	if err := task.Complete(tx, f.done); err != nil {
		return err
	}
	if err := submission.InsertResponses(tx, f.responses); err != nil {
		return err
	}
	if err := submission.InsertQuarantine(tx, f.quarantine); err != nil {
		return err
	}
	if err := s.writeConflicts(tx, f, at); err != nil {
		return err
	}
	if err := submission.InsertLate(tx, f.late); err != nil {
		return err
	}
	return s.report(tx, f, at)
}

// writeConflicts keeps bodies aside that are not kept yet: the same conflicting body may come any number of times.
func (s *Service) writeConflicts(tx *gorm.DB, f *fate, at time.Time) error {
	fresh := f.conflicts[:0]
	for i := range f.conflicts {
		kept, err := submission.ConflictKept(tx, &f.conflicts[i])
		if err != nil {
			return err
		}
		if kept {
			f.duplicates++
		} else {
			fresh = append(fresh, f.conflicts[i])
		}
	}
	f.conflicts = fresh
	return submission.InsertConflicts(tx, at, f.conflicts)
}

// report writes the audit entries and the outbox events of a batch, in the same transaction as the rows they speak of.
func (s *Service) report(tx *gorm.DB, f *fate, at time.Time) error {
	total := len(f.responses) + len(f.quarantine) + len(f.conflicts)
	if total == 0 {
		return nil
	}
	ids, err := s.IDs.NextN(2 * total)
	if err != nil {
		return err
	}
	entries := make([]audit.Entry, 0, total)
	events := make([]outbox.Event, 0, total)
	note := func(r *submission.Record, action, table string, about ...member) {
		n := len(entries)
		entries = append(entries, entry(ids[2*n], at, r, action, table, about...))
		e := event(ids[2*n+1], at, r, action, about...)
		e.Trace = trace.HeaderFor(tx.Statement.Context, r.Trace)
		events = append(events, e)
	}
	for i := range f.responses {
		r := &f.responses[i]
		note(&r.Record, submission.EventStored, "response", member{"questionnaire", r.Questionnaire}, member{"version", r.Version})
	}
	for i := range f.quarantine {
		q := &f.quarantine[i]
		note(&q.Record, submission.EventQuarantined, "quarantine", member{"reason", q.Reason})
		events = append(events, deadLetter(q, at))
	}
	for i := range f.conflicts {
		note(&f.conflicts[i], submission.EventConflict, "conflict")
	}
	if err := audit.Append(tx, entries...); err != nil {
		return err
	}
	return outbox.Add(tx, events...)
}
