package user

import (
	"context"
	"time"

	"gorm.io/gorm"

	"github.com/eprod/eprod/internal/audit"
	"github.com/eprod/eprod/internal/auth"
	"github.com/eprod/eprod/internal/db"
)

// Place says where a session is kept: staff sessions in the metadata database, a participant's on the shard of its bucket.
type Place struct {
	Kind   auth.Kind
	Bucket int
}

func (s *Store) read(ctx context.Context, p Place) *gorm.DB {
	if p.Kind == auth.KindStaff {
		return s.Meta.Read(ctx).Table(sessionTable(p.Kind))
	}
	return s.Shards.HomeOf(p.Bucket).Read(ctx).Table(sessionTable(p.Kind))
}

// change runs fn in a transaction of the place of a session, where the study of a participant's session takes changes; staff sessions
// belong to none.
func (s *Store) change(ctx context.Context, p Place, session int64, fn func(tx *gorm.DB, table string) error) error {
	if p.Kind == auth.KindStaff {
		return s.Meta.Tx(ctx, func(tx *gorm.DB) error { return fn(tx, sessionTable(p.Kind)) })
	}
	return s.Shards.Tx(ctx, p.Bucket, func(shard *db.DB, tx *gorm.DB) error {
		if err := admit(tx, shard, p, session); err != nil {
			return err
		}
		return fn(tx, sessionTable(p.Kind))
	})
}

func sessionTable(k auth.Kind) string {
	if k == auth.KindStaff {
		return "staff_session"
	}
	return "participant_session"
}

type sessionRow struct {
	ID          int64
	AccountID   int64
	StudyID     int64
	FamilyHash  []byte
	CurrentHash []byte
	CreatedAt   int64
	ExpiresAt   int64
}

var sessionColumns = []string{"id", "account_id", "study_id", "family_hash", "current_hash", "created_at", "expires_at"}

// openSession writes a session and clears away the account's sessions that have ended by themselves.
func openSession(tx *gorm.DB, session Session, entries ...audit.Entry) error {
	table := sessionTable(session.Kind)
	err := tx.Exec("DELETE FROM "+table+" WHERE account_id = ? AND expires_at <= ?", session.Account, db.Micros(session.CreatedAt)).Error
	if err != nil {
		return err
	}
	row := []any{session.ID, session.Account, session.Study, session.Family[:], session.Current[:], db.Micros(session.CreatedAt), db.Micros(session.ExpiresAt)}
	if err := db.Insert(tx, table, sessionColumns, [][]any{row}); err != nil {
		return err
	}
	return audit.Append(tx, entries...)
}

// Session returns a session that was not ended, or errs.NotFound. It may be past its ExpiresAt.
func (s *Store) Session(ctx context.Context, place Place, id int64) (Session, error) {
	var row sessionRow
	if err := s.read(ctx, place).Select(sessionColumns).Where("id = ?", id).Take(&row).Error; err != nil {
		return Session{}, db.Error("session", err)
	}
	out := Session{ID: row.ID, Kind: place.Kind, Account: row.AccountID, Study: row.StudyID,
		CreatedAt: db.Time(row.CreatedAt), ExpiresAt: db.Time(row.ExpiresAt)}
	copy(out.Family[:], row.FamilyHash)
	copy(out.Current[:], row.CurrentHash)
	return out, nil
}

func admit(tx *gorm.DB, shard *db.DB, place Place, session int64) error {
	doors, err := shard.AskWho(tx, place.Bucket, func() (whose []int64, err error) {
		err = tx.Table(sessionTable(place.Kind)).Where("id = ?", session).Pluck("account_id", &whose).Error
		return whose, err
	})
	if err != nil || doors.AllOpen() {
		return err
	}
	var study int64
	if err := tx.Table(sessionTable(place.Kind)).Select("study_id").Where("id = ?", session).Limit(1).Scan(&study).Error; err != nil {
		return err
	}
	return doors.Admit(study, db.Ordinary)
}

// Rotate replaces the current hash of a session; false means that another caller was faster or the session has ended.
func (s *Store) Rotate(ctx context.Context, place Place, id int64, from, to [32]byte, expires time.Time) (bool, error) {
	var rows int64
	err := s.change(ctx, place, id, func(tx *gorm.DB, table string) error {
		done := tx.Exec("UPDATE "+table+" SET current_hash = ?, expires_at = ? WHERE id = ? AND current_hash = ?",
			to[:], db.Micros(expires), id, from[:])
		rows = done.RowsAffected
		return done.Error
	})
	return rows == 1, db.Error("session", err)
}

// EndSession deletes a session and records why; one that is gone already is no error and leaves no record.
func (s *Store) EndSession(ctx context.Context, place Place, id int64, entry audit.Entry) error {
	err := s.change(ctx, place, id, func(tx *gorm.DB, table string) error {
		done := tx.Exec("DELETE FROM "+table+" WHERE id = ?", id)
		if done.Error != nil || done.RowsAffected == 0 {
			return done.Error
		}
		return audit.Append(tx, entry)
	})
	return db.Error("session", err)
}
