package participant

import (
	"context"
	"sync"
	"time"

	"gorm.io/gorm"

	"github.com/eprod/eprod/internal/audit"
	"github.com/eprod/eprod/internal/db"
	"github.com/eprod/eprod/internal/errs"
)

var (
	contactColumns = []string{"participant_id", "sealed", "version", "updated_at"}
	consentColumns = []string{"participant_id", "channel", "given", "at"}
)

// contactRow is contact data with one of their consents.
type contactRow struct {
	ParticipantID int64
	Sealed        []byte
	Version       int64
	Channel       *string
	Given         *bool
}

const selectContacts = "SELECT c.participant_id, c.sealed, c.version, k.channel, k.given FROM participant_contact c " +
	"LEFT JOIN participant_consent k ON k.participant_id = c.participant_id WHERE c.participant_id IN ?"

// Contacts returns the contact data of those participants who have any, with one statement per shard and 512 ids.
func (s *Store) Contacts(ctx context.Context, ids []int64) (map[int64]*SealedContact, error) {
	out := make(map[int64]*SealedContact, len(ids))
	var mu sync.Mutex
	err := s.byShard(ctx, ids, func(ctx context.Context, shard *db.DB, ids []int64) error {
		var rows []contactRow
		if err := shard.Read(ctx).Raw(selectContacts, padded(ids)).Scan(&rows).Error; err != nil {
			return db.Error("contacts", err)
		}
		mu.Lock()
		defer mu.Unlock()
		for _, r := range rows {
			c := out[r.ParticipantID]
			if c == nil {
				c = &SealedContact{Participant: r.ParticipantID, Sealed: r.Sealed, Consents: make(map[string]bool), Version: r.Version}
				out[r.ParticipantID] = c
			}
			if r.Channel != nil {
				c.Consents[*r.Channel] = *r.Given
			}
		}
		return nil
	})
	return out, err
}

// PutContact replaces contact data whose version is the one before is, else errs.Stale, and records it. A participant who has
// left cannot give consent any more: errs.Conflict.
func (s *Store) PutContact(ctx context.Context, is SealedContact, at time.Time, entry audit.Entry) error {
	err := s.Shards.Write(ctx, db.Claim{Participant: is.Participant}, func(tx *gorm.DB) error {
		// The participant's row is the lock of its contact data: leaving the study takes it, too.
		var status []string
		if err := db.ForUpdate(tx).Table("participant").Where("id = ?", is.Participant).Pluck("status", &status).Error; err != nil {
			return err
		}
		switch {
		case len(status) == 0:
			return errs.Absent("participant")
		case status[0] == Withdrawn && anyConsent(is.Consents):
			return errLeft()
		}
		if is.Version == 1 {
			if err := insertContacts(tx, []SealedContact{is}, at); db.IsDuplicate(err) {
				return errContactStale()
			} else if err != nil {
				return err
			}
			return audit.Append(tx, entry)
		}
		done := tx.Exec("UPDATE participant_contact SET sealed = ?, version = ?, updated_at = ? WHERE participant_id = ? AND version = ?",
			is.Sealed, is.Version, db.Micros(at), is.Participant, is.Version-1)
		if done.Error != nil {
			return done.Error
		}
		if done.RowsAffected != 1 {
			return errContactStale()
		}
		for _, channel := range channels {
			err := tx.Exec("UPDATE participant_consent SET given = ?, at = ? WHERE participant_id = ? AND channel = ? AND given <> ?",
				is.Consents[channel], db.Micros(at), is.Participant, channel, is.Consents[channel]).Error
			if err != nil {
				return err
			}
		}
		return audit.Append(tx, entry)
	})
	return db.Error("contact", err)
}

// insertContacts writes first contact data: a row for each, and a consent for every channel.
func insertContacts(tx *gorm.DB, contacts []SealedContact, at time.Time) error {
	rows := make([][]any, 0, len(contacts))
	consents := make([][]any, 0, len(contacts)*len(channels))
	for i := range contacts {
		c := &contacts[i]
		rows = append(rows, []any{c.Participant, c.Sealed, c.Version, db.Micros(at)})
		for _, channel := range channels {
			consents = append(consents, []any{c.Participant, channel, c.Consents[channel], db.Micros(at)})
		}
	}
	if err := db.Insert(tx, "participant_contact", contactColumns, rows); err != nil {
		return err
	}
	return db.Insert(tx, "participant_consent", consentColumns, consents)
}

// endConsents takes every consent back in the transaction in which a participant leaves, and records which there were.
func endConsents(tx *gorm.DB, participant int64, at time.Time, entry func(given []string) (audit.Entry, error)) error {
	var given []string
	err := db.ForUpdate(tx).Table("participant_consent").Where("participant_id = ? AND given = 1", participant).Order("channel").Pluck("channel", &given).Error
	if err != nil || len(given) == 0 {
		return err
	}
	if err := tx.Exec("UPDATE participant_consent SET given = 0, at = ? WHERE participant_id = ? AND given = 1", db.Micros(at), participant).Error; err != nil {
		return err
	}
	err = tx.Exec("UPDATE participant_contact SET version = version + 1, updated_at = ? WHERE participant_id = ?", db.Micros(at), participant).Error
	if err != nil {
		return err
	}
	e, err := entry(given)
	if err != nil {
		return err
	}
	return audit.Append(tx, e)
}
