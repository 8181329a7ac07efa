// Package audit keeps the record of who changed what: append-only rows, written in the caller's own transaction, so that a
// change without its evidence cannot be committed.
package audit

import (
	"context"
	"fmt"
	"time"

	"gorm.io/gorm"

	"github.com/eprod/eprod/internal/db"
)

// Entry is one change. Old and New are JSON; health and identity data stand in them only encrypted or as a hash.
type Entry struct {
	ID          int64 // Snowflake
	At          time.Time
	Zone        string // IANA zone in which At is to be read, "UTC" where none applies
	ActorKind   string // staff, participant or system
	Actor       int64
	Action      string // what was done, as record.verb
	Record      string // kind of record
	RecordID    int64
	Study       int64 // 0 where none applies
	Participant int64
	Old, New    []byte // nil where there is none
	Reason      string
	Source      string // request id
}

var columns = []string{"id", "at", "zone", "actor_kind", "actor_id", "action", "record", "record_id", "study_id", "participant_id",
	"old_value", "new_value", "reason", "source"}

// Append writes entries in tx, the transaction of the changes that they speak of. Nothing in eprod updates or deletes them.
func Append(tx *gorm.DB, entries ...Entry) error {
	rows := make([][]any, len(entries))
	for i := range entries {
		e := &entries[i]
		rows[i] = []any{e.ID, db.Micros(e.At), e.Zone, e.ActorKind, e.Actor, e.Action, e.Record, e.RecordID, e.Study, e.Participant,
			null(e.Old), null(e.New), e.Reason, e.Source}
	}
	if err := db.Insert(tx, "audit", columns, rows); err != nil {
		return fmt.Errorf("audit: %w", err)
	}
	return nil
}

func null(b []byte) any {
	if b == nil {
		return nil
	}
	return b
}

// Filter narrows a list; zero members do not filter.
type Filter struct {
	Study, Participant int64
	Record             string
	RecordID           int64
	Before             int64 // keyset: only smaller ids
	Limit              int   // at most 1000; 0 means 100
}

type row struct {
	ID            int64
	At            int64
	Zone          string
	ActorKind     string
	ActorID       int64
	Action        string
	Record        string
	RecordID      int64
	StudyID       int64
	ParticipantID int64
	OldValue      []byte
	NewValue      []byte
	Reason        string
	Source        string
}

// List returns one database's entries, newest first.
func List(ctx context.Context, d *db.DB, f Filter) ([]Entry, error) {
	tx := d.Read(ctx).Table("audit").Select(columns)
	for _, c := range []struct {
		sql   string
		value int64
	}{{"study_id = ?", f.Study}, {"participant_id = ?", f.Participant}, {"record_id = ?", f.RecordID}, {"id < ?", f.Before}} {
		if c.value != 0 {
			tx = tx.Where(c.sql, c.value)
		}
	}
	if f.Record != "" {
		tx = tx.Where("record = ?", f.Record)
	}
	limit := f.Limit
	if limit <= 0 {
		limit = 100
	}
	var rows []row
	if err := tx.Order("id DESC").Limit(min(limit, 1000)).Find(&rows).Error; err != nil {
		return nil, db.Error("audit", err)
	}
	entries := make([]Entry, len(rows))
	for i, r := range rows {
		entries[i] = Entry{ID: r.ID, At: db.Time(r.At), Zone: r.Zone, ActorKind: r.ActorKind, Actor: r.ActorID, Action: r.Action, Record: r.Record,
			RecordID: r.RecordID, Study: r.StudyID, Participant: r.ParticipantID, Old: r.OldValue, New: r.NewValue, Reason: r.Reason, Source: r.Source}
	}
	return entries, nil
}
