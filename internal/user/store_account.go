package user

import (
	"context"

	"gorm.io/gorm"

	"github.com/eprod/eprod/internal/audit"
	"github.com/eprod/eprod/internal/db"
	"github.com/eprod/eprod/internal/errs"
)

type accountRow struct {
	ParticipantID  int64
	StudyID        int64
	ActivationHash []byte
	ActivatedAt    int64
	PINHash        string `gorm:"column:pin_hash"`
	Closed         bool
	Failed         int
	LockedUntil    int64
}

func (r accountRow) account() Account {
	a := Account{Participant: r.ParticipantID, Study: r.StudyID, ActivatedAt: db.Time(r.ActivatedAt), PINHash: r.PINHash, Closed: r.Closed,
		Attempts: Attempts{Failed: r.Failed, LockedUntil: db.Time(r.LockedUntil)}}
	if len(r.ActivationHash) == 32 {
		sum := [32]byte(r.ActivationHash)
		a.Activation = &sum
	}
	return a
}

var accountColumns = []string{"participant_id", "study_id", "activation_hash", "activated_at", "pin_hash", "closed", "failed", "locked_until"}

// AddAccounts writes accounts in the transaction that enrols their participants, on the shard where they live.
func AddAccounts(tx *gorm.DB, accounts []Account) error {
	rows := make([][]any, len(accounts))
	for i, a := range accounts {
		var activation []byte
		if a.Activation != nil {
			activation = a.Activation[:]
		}
		rows[i] = []any{a.Participant, a.Study, activation, db.Micros(a.ActivatedAt), a.PINHash, a.Closed, a.Attempts.Failed,
			db.Micros(a.Attempts.LockedUntil)}
	}
	return db.Insert(tx, "participant_account", accountColumns, rows)
}

// CloseAccount ends every way in for a participant who leaves, in the transaction that records it.
func CloseAccount(tx *gorm.DB, participant int64) error {
	err := tx.Exec("UPDATE participant_account SET closed = 1, activation_hash = NULL WHERE participant_id = ?", participant).Error
	if err != nil {
		return err
	}
	return tx.Exec("DELETE FROM participant_session WHERE account_id = ?", participant).Error
}

// RenewActivation gives an open account a new activation code, in the transaction that records it. It ends the account's
// sessions and forgets its PIN: the code stands for a person who lost device or PIN. A closed account is errs.NotFound.
func RenewActivation(tx *gorm.DB, participant int64, hash [32]byte) error {
	done := tx.Exec("UPDATE participant_account SET activation_hash = ?, pin_hash = '', failed = 0, locked_until = 0 WHERE participant_id = ? AND closed = 0",
		hash[:], participant)
	if done.Error != nil {
		return done.Error
	}
	if done.RowsAffected != 1 {
		return errs.Absent("open account")
	}
	return tx.Exec("DELETE FROM participant_session WHERE account_id = ?", participant).Error
}

// AccountByActivation returns the open account whose activation code was not used yet, or errs.NotFound.
func (s *Store) AccountByActivation(ctx context.Context, bucket int, hash [32]byte) (Account, error) {
	return s.accountBy(ctx, s.Shards.HomeOf(bucket), "activation_hash = ?", hash[:])
}

// Account returns a participant's account, or errs.NotFound.
func (s *Store) Account(ctx context.Context, participant int64) (Account, error) {
	return s.accountBy(ctx, s.Shards.Home(participant), "participant_id = ?", participant)
}

func (s *Store) accountBy(ctx context.Context, d db.Home, where string, value any) (Account, error) {
	var row accountRow
	err := d.Read(ctx).Table("participant_account").Select(accountColumns).Where(where, value).Take(&row).Error
	if err != nil {
		return Account{}, db.Error("account", err)
	}
	return row.account(), nil
}

// Activate uses up an activation code, sets the PIN where there is one, and opens a session. A code that was used meanwhile
// is errs.NotFound.
func (s *Store) Activate(ctx context.Context, hash [32]byte, pinHash string, session Session, entry audit.Entry) error {
	err := s.Shards.Write(ctx, db.Claim{Study: session.Study, Participant: session.Account}, func(tx *gorm.DB) error {
		done := tx.Exec("UPDATE participant_account SET activation_hash = NULL, activated_at = ?, pin_hash = ?, failed = 0, locked_until = 0 "+
			"WHERE participant_id = ? AND activation_hash = ? AND closed = 0", db.Micros(session.CreatedAt), pinHash, session.Account, hash[:])
		if done.Error != nil {
			return done.Error
		}
		if done.RowsAffected != 1 {
			return errs.Absent("activation code")
		}
		if err := s.Activated(tx, session.Account); err != nil {
			return err
		}
		return openSession(tx, session, entry)
	})
	return db.Error("account", err)
}

// ParticipantSignedIn opens a session and clears the failed attempts, unless the account was locked or closed meanwhile:
// then it is errs.NotFound.
func (s *Store) ParticipantSignedIn(ctx context.Context, session Session, entry audit.Entry) error {
	err := s.Shards.Write(ctx, db.Claim{Study: session.Study, Participant: session.Account}, func(tx *gorm.DB) error {
		done := tx.Exec("UPDATE participant_account SET failed = 0, locked_until = 0 WHERE participant_id = ? AND closed = 0 AND locked_until <= ?",
			session.Account, db.Micros(session.CreatedAt))
		if done.Error != nil {
			return done.Error
		}
		if done.RowsAffected != 1 {
			return errs.Absent("account")
		}
		return openSession(tx, session, entry)
	})
	return db.Error("account", err)
}

// ParticipantFailed counts a failed sign-in.
func (s *Store) ParticipantFailed(ctx context.Context, participant int64, count func(Attempts) Attempts, entry audit.Entry) error {
	err := s.Shards.Write(ctx, db.Claim{Participant: participant}, func(tx *gorm.DB) error {
		return failed(tx, "participant_account", "participant_id", participant, count, entry)
	})
	return db.Error("account", err)
}
