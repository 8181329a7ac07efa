package user

import (
	"context"

	"gorm.io/gorm"

	"github.com/eprod/eprod/internal/audit"
	"github.com/eprod/eprod/internal/auth"
	"github.com/eprod/eprod/internal/db"
	"github.com/eprod/eprod/internal/errs"
)

// Store keeps staff accounts in the metadata database and participants' accounts on their shards, each with its sessions.
// It is safe for concurrent use.
type Store struct {
	Meta   *db.DB
	Shards *db.Shards
	// Activated runs in the transaction of a first sign-in, so that the participant's record follows.
	Activated func(tx *gorm.DB, participant int64) error
}

type staffRow struct {
	ID           int64
	Username     string
	PasswordHash string
	Role         string
	Disabled     bool
	OTPSecret    []byte `gorm:"column:otp_secret"`
	OTPStep      int64  `gorm:"column:otp_step"`
	Failed       int
	LockedUntil  int64
	CreatedAt    int64
}

func (r staffRow) staff() Staff {
	return Staff{
		ID: r.ID, Username: r.Username, PasswordHash: r.PasswordHash, Role: auth.Role(r.Role), Disabled: r.Disabled,
		OTPSecret: r.OTPSecret, OTPStep: r.OTPStep, Attempts: Attempts{Failed: r.Failed, LockedUntil: db.Time(r.LockedUntil)}, CreatedAt: db.Time(r.CreatedAt),
	}
}

var staffColumns = []string{"id", "username", "password_hash", "role", "disabled", "otp_secret", "otp_step", "failed", "locked_until", "created_at"}

// AddStaff writes a new account; a user name that is taken is errs.Conflict.
func (s *Store) AddStaff(ctx context.Context, a Staff, entry audit.Entry) error {
	err := s.Meta.Tx(ctx, func(tx *gorm.DB) error {
		row := []any{a.ID, a.Username, a.PasswordHash, string(a.Role), a.Disabled, a.OTPSecret, a.OTPStep, a.Attempts.Failed,
			db.Micros(a.Attempts.LockedUntil), db.Micros(a.CreatedAt)}
		if err := db.Insert(tx, "staff_user", staffColumns, [][]any{row}); err != nil {
			return err
		}
		return audit.Append(tx, entry)
	})
	return db.Error("user name", err)
}

// StaffByName returns the account of a normalised user name, or errs.NotFound.
func (s *Store) StaffByName(ctx context.Context, username string) (Staff, error) {
	return s.staffBy(ctx, "username = ?", username)
}

// StaffByID returns an account, or errs.NotFound.
func (s *Store) StaffByID(ctx context.Context, id int64) (Staff, error) {
	return s.staffBy(ctx, "id = ?", id)
}

func (s *Store) staffBy(ctx context.Context, where string, value any) (Staff, error) {
	var row staffRow
	err := s.Meta.Read(ctx).Table("staff_user").Select(staffColumns).Where(where, value).Take(&row).Error
	if err != nil {
		return Staff{}, db.Error("staff account", err)
	}
	return row.staff(), nil
}

// Usernames returns the user names of those ids that exist.
func (s *Store) Usernames(ctx context.Context, ids []int64) (map[int64]string, error) {
	var rows []staffRow
	if err := s.Meta.Read(ctx).Table("staff_user").Select("id", "username").Where("id IN ?", ids).Find(&rows).Error; err != nil {
		return nil, db.Error("staff accounts", err)
	}
	out := make(map[int64]string, len(rows))
	for _, r := range rows {
		out[r.ID] = r.Username
	}
	return out, nil
}

// StaffSignedIn opens a session and clears the failed attempts, unless the account was locked or disabled meanwhile or the
// one-time code's step was used: then it is errs.NotFound. A step of 0 means that no one-time code was used.
func (s *Store) StaffSignedIn(ctx context.Context, session Session, step int64, entry audit.Entry) error {
	err := s.Meta.Tx(ctx, func(tx *gorm.DB) error {
		done := tx.Exec("UPDATE staff_user SET failed = 0, locked_until = 0, otp_step = CASE WHEN ? > 0 THEN ? ELSE otp_step END "+
			"WHERE id = ? AND disabled = 0 AND locked_until <= ? AND (? = 0 OR otp_step < ?)",
			step, step, session.Account, db.Micros(session.CreatedAt), step, step)
		if done.Error != nil {
			return done.Error
		}
		if done.RowsAffected != 1 {
			return errs.Absent("account")
		}
		return openSession(tx, session, entry)
	})
	return db.Error("staff account", err)
}

// StaffFailed counts a failed sign-in.
func (s *Store) StaffFailed(ctx context.Context, id int64, count func(Attempts) Attempts, entry audit.Entry) error {
	err := s.Meta.Tx(ctx, func(tx *gorm.DB) error { return failed(tx, "staff_user", "id", id, count, entry) })
	return db.Error("account", err)
}

// Refused records a sign-in that no account could be found for.
func (s *Store) Refused(ctx context.Context, entry audit.Entry) error {
	return db.Error("audit trail", s.Meta.Tx(ctx, func(tx *gorm.DB) error { return audit.Append(tx, entry) }))
}

func failed(tx *gorm.DB, table, key string, id int64, count func(Attempts) Attempts, entry audit.Entry) error {
	var row struct {
		Failed      int
		LockedUntil int64
	}
	err := db.ForUpdate(tx).Table(table).Select("failed", "locked_until").Where(key+" = ?", id).Take(&row).Error
	if err != nil {
		return err
	}
	next := count(Attempts{Failed: row.Failed, LockedUntil: db.Time(row.LockedUntil)})
	err = tx.Exec("UPDATE "+table+" SET failed = ?, locked_until = ? WHERE "+key+" = ?", next.Failed, db.Micros(next.LockedUntil), id).Error
	if err != nil {
		return err
	}
	return audit.Append(tx, entry)
}
