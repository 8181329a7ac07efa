package participant

import (
	"context"
	"time"

	"gorm.io/gorm"

	"github.com/eprod/eprod/internal/audit"
	"github.com/eprod/eprod/internal/db"
	"github.com/eprod/eprod/internal/errs"
)

// SealedRecord is one version of a patient record as it is kept.
type SealedRecord struct {
	Participant int64
	Version     int64
	Sealed      []byte // the sections, encrypted; empty for version 0
	At          time.Time
	By          int64
	Reason      string
}

var recordVersionColumns = []string{"participant_id", "version", "sealed", "at", "staff_id", "reason"}

type recordVersionRow struct {
	ParticipantID int64
	Version       int64
	Sealed        []byte
	At            int64
	StaffID       int64
	Reason        string
}

func (r recordVersionRow) record() SealedRecord {
	return SealedRecord{Participant: r.ParticipantID, Version: r.Version, Sealed: r.Sealed, At: db.Time(r.At), By: r.StaffID, Reason: r.Reason}
}

// Record returns the current version of a patient record; version 0 where nothing was written yet.
func (s *Store) Record(ctx context.Context, participant int64) (SealedRecord, error) {
	var rows []recordVersionRow
	err := s.Shards.Home(participant).Read(ctx).Table("record_version").Select(recordVersionColumns).Where("participant_id = ?", participant).
		Order("version DESC").Limit(1).Find(&rows).Error
	if err != nil || len(rows) == 0 {
		return SealedRecord{Participant: participant}, db.Error("record", err)
	}
	return rows[0].record(), nil
}

// RecordHistory returns up to limit versions below before (0: all), youngest first.
func (s *Store) RecordHistory(ctx context.Context, participant, before int64, limit int) ([]SealedRecord, error) {
	tx := s.Shards.Home(participant).Read(ctx).Table("record_version").Select(recordVersionColumns).Where("participant_id = ?", participant)
	if before > 0 {
		tx = tx.Where("version < ?", before)
	}
	var rows []recordVersionRow
	if err := tx.Order("version DESC").Limit(limit).Find(&rows).Error; err != nil {
		return nil, db.Error("record", err)
	}
	out := make([]SealedRecord, len(rows))
	for i, r := range rows {
		out[i] = r.record()
	}
	return out, nil
}

// FenceRecord makes a new holder's fence the one that writes must have; errs.Conflict when a younger holder was here already.
// Fence 0 is nobody's and changes nothing.
func (s *Store) FenceRecord(ctx context.Context, participant, fence int64) error {
	err := s.Shards.Write(ctx, db.Claim{Participant: participant}, func(tx *gorm.DB) error {
		var there int64
		if err := tx.Table("record").Where("participant_id = ?", participant).Count(&there).Error; err != nil {
			return err
		}
		if there == 0 {
			return db.Insert(tx, "record", []string{"participant_id", "version", "fence"}, [][]any{{participant, int64(0), fence}})
		}
		if fence == 0 {
			return nil
		}
		return db.RaiseFence(tx.Table("record").Where("participant_id = ?", participant), fence)
	})
	if db.IsDuplicate(err) { // somebody's first hold came between
		return s.FenceRecord(ctx, participant, fence)
	}
	if errs.KindOf(err) == errs.Stale {
		return errRecordLocked().WithCause(err)
	}
	return db.Error("record", err)
}

// PutRecord writes the version after was and its audit entry. It is errs.Stale when was is not the current version, and
// errs.Conflict when fence is neither 0 nor that of the last holder.
func (s *Store) PutRecord(ctx context.Context, was int64, is SealedRecord, fence int64, entry audit.Entry) error {
	err := s.Shards.Write(ctx, db.Claim{Participant: is.Participant}, func(tx *gorm.DB) error {
		var current []struct{ Version, Fence int64 }
		err := db.ForUpdate(tx).Table("record").Select("version", "fence").Where("participant_id = ?", is.Participant).Find(&current).Error
		switch {
		case err != nil:
			return err
		case len(current) != 1 || current[0].Version != was:
			return errRecordStale()
		}
		needed := fence
		if needed == 0 {
			needed = current[0].Fence // without a lock the version alone decides
		}
		rows := tx.Table("record").Where("participant_id = ? AND version = ?", is.Participant, was)
		if err := db.Fenced(rows, needed, map[string]any{"version": is.Version}); err != nil {
			return errRecordLocked().WithCause(err)
		}
		err = db.Insert(tx, "record_version", recordVersionColumns, [][]any{{is.Participant, is.Version, is.Sealed, db.Micros(is.At), is.By, is.Reason}})
		if err != nil {
			return err
		}
		return audit.Append(tx, entry)
	})
	return db.Error("record", err)
}
