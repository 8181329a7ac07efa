package study

import (
	"context"

	"gorm.io/gorm"

	"github.com/eprod/eprod/internal/audit"
	"github.com/eprod/eprod/internal/db"
	"github.com/eprod/eprod/internal/errs"
)

// Shelve makes a study of one status that has the version one of another status: locked to archived, and back. A study that has the
// other status already stays as it is, without another entry. Any other is errs.Conflict.
func (s *Store) Shelve(ctx context.Context, study, version int64, from, to string, entry audit.Entry) error {
	return written("study", "study", s.Meta.Tx(ctx, func(tx *gorm.DB) error {
		var r studyRow
		if err := db.ForUpdate(tx).Table("study").Select(studyColumns).Where("id = ?", study).Take(&r).Error; err != nil {
			return db.Error("study", err)
		}
		switch {
		case r.Status == to:
			return nil
		case r.Status != from || version != 0 && r.Version != version:
			return errs.New(errs.Conflict, "study_not_"+from, "the study is not "+from+" as it was; it is "+r.Status)
		}
		// Two people may just have agreed to open it.
		var opening int64
		if err := tx.Table("study_lock").Where("study_id = ? AND state = ?", study, ClosureUnlocking).Count(&opening).Error; err != nil {
			return err
		}
		if opening > 0 {
			return errs.New(errs.Conflict, "study_not_"+from, "the study is being unlocked")
		}
		return change(tx, r.study(), map[string]any{"status": to, "version": r.Version + 1}, entry)
	}))
}
