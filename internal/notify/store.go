package notify

import (
	"context"
	"slices"
	"sync"
	"time"

	"gorm.io/gorm"

	"github.com/eprod/eprod/internal/db"
	"github.com/eprod/eprod/internal/errs"
)

// Store keeps deliveries on their participants' shards. It is safe for concurrent use.
type Store struct{ Shards *db.Shards }

var deliveryColumns = []string{"id", "study_id", "participant_id", "purpose", "channel", "template", "language", "sealed", "state", "provider", "reference", "code",
	"attempts", "sent_at", "next_at", "created_at", "updated_at", "trace"}

type deliveryRow struct {
	ID            int64
	StudyID       int64
	ParticipantID int64
	Purpose       string
	Channel       string
	Template      string
	Language      string
	Sealed        []byte
	State         string
	Provider      string
	Reference     string
	Code          string
	Attempts      int
	SentAt        int64 // 0: never
	NextAt        int64
	CreatedAt     int64
	UpdatedAt     int64
	Trace         string
}

func (r *deliveryRow) delivery() Delivery {
	d := Delivery{ID: r.ID, Study: r.StudyID, Participant: r.ParticipantID, Purpose: r.Purpose, Channel: Channel(r.Channel), Template: r.Template, Language: r.Language, Sealed: r.Sealed,
		State: State(r.State), Provider: r.Provider, Reference: r.Reference, Code: r.Code, Attempts: r.Attempts, NextAt: db.Time(r.NextAt),
		CreatedAt: db.Time(r.CreatedAt), UpdatedAt: db.Time(r.UpdatedAt), Trace: r.Trace}
	if r.SentAt != 0 {
		d.SentAt = db.Time(r.SentAt)
	}
	return d
}

func sentMicros(at time.Time) int64 {
	if at.IsZero() {
		return 0
	}
	return db.Micros(at)
}

// Add writes a new delivery. Where the participant has one for the purpose already, that one is returned, and fresh is false.
func (s *Store) Add(ctx context.Context, d Delivery) (kept Delivery, fresh bool, err error) {
	err = s.Shards.Write(ctx, db.Claim{Study: d.Study, Participant: d.Participant}, func(tx *gorm.DB) error {
		return db.Insert(tx, "message", deliveryColumns, [][]any{{d.ID, d.Study, d.Participant, d.Purpose, string(d.Channel), d.Template, d.Language, d.Sealed, string(d.State),
			d.Provider, d.Reference, d.Code, d.Attempts, sentMicros(d.SentAt), db.Micros(d.NextAt), db.Micros(d.CreatedAt), db.Micros(d.UpdatedAt), d.Trace}})
	})
	if err == nil {
		return d, true, nil
	}
	if !db.IsDuplicate(err) {
		return Delivery{}, false, db.Error("message", err)
	}
	var row deliveryRow
	err = s.Shards.Home(d.Participant).Read(ctx).Table("message").Select(deliveryColumns).Where("participant_id = ? AND purpose = ?", d.Participant, d.Purpose).Take(&row).Error
	return row.delivery(), false, db.Error("message", err)
}

// Change writes is over was, if nobody has changed it meanwhile; else it reports false.
func (s *Store) Change(ctx context.Context, was, is Delivery) (bool, error) {
	changed := false
	// What was sent before its study began to close is settled as long as the study is not closed.
	err := s.Shards.Write(ctx, db.Claim{Study: was.Study, Participant: was.Participant, Pass: db.Drain}, func(tx *gorm.DB) error {
		done := tx.Table("message").Where("id = ? AND state = ? AND attempts = ? AND updated_at = ?", was.ID, string(was.State), was.Attempts, db.Micros(was.UpdatedAt)).
			Updates(map[string]any{"state": string(is.State), "provider": is.Provider, "reference": is.Reference, "code": is.Code, "attempts": is.Attempts,
				"sent_at": sentMicros(is.SentAt), "next_at": db.Micros(is.NextAt), "updated_at": db.Micros(is.UpdatedAt)})
		changed = done.RowsAffected == 1
		return done.Error
	})
	return changed, db.Error("message", err)
}

// Due takes up to limit deliveries of a shard that somebody must look at, and moves their time to until, so that no other process
// takes them as well. Those of studies that are closed, or are being closed, are left alone.
func (s *Store) Due(ctx context.Context, shard *db.DB, now, until time.Time, limit int) ([]Delivery, error) {
	var rows []deliveryRow
	err := shard.Tx(ctx, func(tx *gorm.DB) error {
		rows = nil
		visit, err := shard.AskAll(tx)
		if err != nil {
			return err
		}
		due := db.SkipLocked(tx).Table("message").Select(deliveryColumns).
			Where("state IN ? AND next_at <= ?", []string{string(Waiting), string(Sending), string(Unknown), string(Accepted)}, db.Micros(now))
		err = visit.Open(visit.ExceptOf(due, "message.participant_id"), "message.study_id").Order("next_at").Limit(limit).Find(&rows).Error
		if err != nil || len(rows) == 0 {
			return err
		}
		ids, whose := make([]int64, len(rows)), make([]int64, len(rows))
		for i := range rows {
			ids[i], whose[i] = rows[i].ID, rows[i].ParticipantID
		}
		if err := visit.Note(tx, whose...); err != nil {
			return err
		}
		return tx.Exec("UPDATE message SET next_at = ? WHERE id IN ?", db.Micros(until), ids).Error
	})
	out := make([]Delivery, len(rows))
	for i := range rows {
		out[i] = rows[i].delivery()
	}
	return out, db.Error("messages", err)
}

// ByReceipt finds the delivery that a receipt speaks of: by its id, or by the gateway's reference.
func (s *Store) ByReceipt(ctx context.Context, r Receipt) (Delivery, error) {
	var mu sync.Mutex
	var found []deliveryRow
	view, err := s.Shards.View(ctx)
	if err != nil {
		return Delivery{}, err
	}
	err = s.Shards.Each(ctx, func(ctx context.Context, shard *db.DB) error {
		q := shard.Read(ctx).Table("message").Select(deliveryColumns)
		switch {
		case r.ID != 0:
			q = q.Where("id = ?", r.ID)
		case r.Reference != "":
			q = q.Where("provider = ? AND reference = ?", r.Provider, r.Reference)
		default:
			return nil
		}
		var rows []deliveryRow
		if err := q.Limit(2).Find(&rows).Error; err != nil {
			return db.Error("message", err)
		}
		rows = slices.DeleteFunc(rows, func(r deliveryRow) bool { return !view.Owns(shard, r.ParticipantID) })
		mu.Lock()
		found = append(found, rows...)
		mu.Unlock()
		return nil
	})
	if len(found) > 0 {
		return found[0].delivery(), nil
	}
	if err == nil {
		err = errs.Absent("message")
	}
	return Delivery{}, err
}

// Of returns up to limit deliveries of a participant with ids below before (0: all), youngest first.
func (s *Store) Of(ctx context.Context, participant, before int64, limit int) ([]Delivery, error) {
	q := s.Shards.Home(participant).Read(ctx).Table("message").Select(deliveryColumns).Where("participant_id = ?", participant)
	if before > 0 {
		q = q.Where("id < ?", before)
	}
	var rows []deliveryRow
	if err := q.Order("id DESC").Limit(limit).Find(&rows).Error; err != nil {
		return nil, db.Error("messages", err)
	}
	out := make([]Delivery, len(rows))
	for i := range rows {
		out[i] = rows[i].delivery()
	}
	return out, nil
}
