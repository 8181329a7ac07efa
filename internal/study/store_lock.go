package study

import (
	"context"
	"encoding/json"
	"time"

	"gorm.io/gorm"

	"github.com/eprod/eprod/internal/audit"
	"github.com/eprod/eprod/internal/db"
	"github.com/eprod/eprod/internal/errs"
)

var closureColumns = []string{"id", "study_id", "state", "step", "waiting", "step_at", "asked_by", "asked_at", "reason", "locked_at", "report", "signature",
	"unlock_by", "unlock_at", "unlock_reason", "released_by", "released_at", "released_reason"}

type closureRow struct {
	ID, StudyID            int64
	State, Step, Waiting   string
	StepAt                 int64
	AskedBy, AskedAt       int64
	Reason                 string
	LockedAt               int64
	Report                 []byte
	Signature              string
	UnlockBy, UnlockAt     int64
	UnlockReason           string
	ReleasedBy, ReleasedAt int64
	ReleasedReason         string
}

func (r *closureRow) closure() Closure {
	return Closure{ID: r.ID, Study: r.StudyID, State: r.State, Step: r.Step, Waiting: r.Waiting, StepAt: db.Time(r.StepAt), By: r.AskedBy, At: db.Time(r.AskedAt), Reason: r.Reason,
		LockedAt: db.Time(r.LockedAt), Report: json.RawMessage(r.Report), Signature: r.Signature, UnlockBy: r.UnlockBy, UnlockAt: db.Time(r.UnlockAt), UnlockReason: r.UnlockReason,
		ReleasedBy: r.ReleasedBy, ReleasedAt: db.Time(r.ReleasedAt), ReleasedReason: r.ReleasedReason}
}

// BeginLock makes an active study a locking one, with the closure and the audit entry; errs.Stale where the study is not as it was
// read.
func (s *Store) BeginLock(ctx context.Context, was Study, c Closure, entry audit.Entry) error {
	return written("study", "study", s.Meta.Tx(ctx, func(tx *gorm.DB) error {
		err := db.Insert(tx, "study_lock", closureColumns, [][]any{{c.ID, c.Study, c.State, c.Step, c.Waiting, db.Micros(c.StepAt), c.By, db.Micros(c.At), c.Reason, int64(0), nil, "",
			int64(0), int64(0), "", int64(0), int64(0), ""}})
		if err != nil {
			return err
		}
		return change(tx, was, map[string]any{"status": Locking, "version": was.Version + 1}, entry)
	}))
}

// Closure returns the last locking of a study, or errs.NotFound.
func (s *Store) Closure(ctx context.Context, study int64) (Closure, error) {
	var r closureRow
	err := s.Meta.Read(ctx).Table("study_lock").Select(closureColumns).Where("study_id = ?", study).Order("id DESC").Limit(1).Take(&r).Error
	return r.closure(), db.Error("lock of the study", err)
}

// Unfinished returns the lockings and unlockings that somebody must go on with.
func (s *Store) Unfinished(ctx context.Context) ([]Closure, error) {
	var rows []closureRow
	err := s.Meta.Read(ctx).Table("study_lock").Select(closureColumns).Where("state IN ?", []string{ClosureLocking, ClosureUnlocking}).Order("id").Limit(100).Find(&rows).Error
	out := make([]Closure, len(rows))
	for i := range rows {
		out[i] = rows[i].closure()
	}
	return out, db.Error("locks of studies", err)
}

// AskUnlock writes who asks for an unlock, unless somebody has asked meanwhile: errs.Stale.
func (s *Store) AskUnlock(ctx context.Context, was, is Closure, entry audit.Entry) error {
	return s.unlock(ctx, was, entry, map[string]any{"unlock_by": is.UnlockBy, "unlock_at": db.Micros(is.UnlockAt), "unlock_reason": is.UnlockReason})
}

// AgreeUnlock writes who agrees to the unlock that was asked for, unless somebody has agreed meanwhile: errs.Stale.
func (s *Store) AgreeUnlock(ctx context.Context, was, is Closure, entry audit.Entry) error {
	return s.unlock(ctx, was, entry, map[string]any{"state": is.State, "released_by": is.ReleasedBy, "released_at": db.Micros(is.ReleasedAt), "released_reason": is.ReleasedReason})
}

func (s *Store) unlock(ctx context.Context, was Closure, entry audit.Entry, columns map[string]any) error {
	return db.Error("lock of the study", s.Meta.Tx(ctx, func(tx *gorm.DB) error {
		// The study's row orders this with the archive: of an unlock and a move into the archive, one comes first.
		var st studyRow
		if err := db.ForUpdate(tx).Table("study").Select("id", "status").Where("id = ?", was.Study).Take(&st).Error; err != nil {
			return err
		}
		if st.Status != Locked {
			return errNotLocked(st.Status)
		}
		done := tx.Table("study_lock").Where("id = ? AND state = ? AND unlock_by = ?", was.ID, was.State, was.UnlockBy).Updates(columns)
		if done.Error != nil {
			return done.Error
		}
		if done.RowsAffected != 1 {
			return errStale()
		}
		return audit.Append(tx, entry)
	}))
}

// Advance writes that a locking has come to a step, or what its step waits for.
func (s *Store) Advance(ctx context.Context, c Closure) error {
	return db.Error("lock of the study", s.Meta.Tx(ctx, func(tx *gorm.DB) error {
		return tx.Table("study_lock").Where("id = ? AND state = ?", c.ID, ClosureLocking).
			Updates(map[string]any{"step": c.Step, "waiting": c.Waiting, "step_at": db.Micros(c.StepAt)}).Error
	}))
}

// FinishLock writes the report and makes the study a locked one; nothing is written where that was done before.
func (s *Store) FinishLock(ctx context.Context, c Closure, entry audit.Entry) error {
	return s.finish(ctx, c, ClosureLocking, Locking, Locked, map[string]any{"state": ClosureLocked, "waiting": "", "locked_at": db.Micros(c.LockedAt), "report": []byte(c.Report), "signature": c.Signature}, entry)
}

// FinishUnlock makes the study an active one again; nothing is written where that was done before.
func (s *Store) FinishUnlock(ctx context.Context, c Closure, entry audit.Entry) error {
	return s.finish(ctx, c, ClosureUnlocking, Locked, Active, map[string]any{"state": ClosureReleased}, entry)
}

func (s *Store) finish(ctx context.Context, c Closure, state, from, to string, columns map[string]any, entry audit.Entry) error {
	return db.Error("lock of the study", s.Meta.Tx(ctx, func(tx *gorm.DB) error {
		var r studyRow
		if err := db.ForUpdate(tx).Table("study").Select(studyColumns).Where("id = ?", c.Study).Take(&r).Error; err != nil {
			return err
		}
		done := tx.Table("study_lock").Where("id = ? AND state = ?", c.ID, state).Updates(columns)
		if done.Error != nil || done.RowsAffected != 1 {
			return done.Error
		}
		if r.Status != from {
			return errs.New(errs.Internal, "internal", "a study that is "+r.Status+" cannot become "+to)
		}
		return change(tx, r.study(), map[string]any{"status": to, "version": r.Version + 1}, entry)
	}))
}

// Passed records that everything which a partition had before the barrier of a locking is stored. It may be repeated.
func (s *Store) Passed(ctx context.Context, lock int64, partition int32, at time.Time) error {
	return db.Error("barrier", s.Meta.Tx(ctx, func(tx *gorm.DB) error {
		return db.InsertNew(tx, "study_barrier", []string{"lock_id", "log_partition", "passed_at"}, [][]any{{lock, partition, db.Micros(at)}})
	}))
}

// Barriers returns which partitions the barrier of a locking has passed.
func (s *Store) Barriers(ctx context.Context, lock int64) (map[int32]bool, error) {
	var partitions []int32
	if err := s.Meta.Read(ctx).Table("study_barrier").Where("lock_id = ?", lock).Pluck("log_partition", &partitions).Error; err != nil {
		return nil, db.Error("barrier", err)
	}
	out := make(map[int32]bool, len(partitions))
	for _, p := range partitions {
		out[p] = true
	}
	return out, nil
}
