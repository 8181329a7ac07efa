package safety

import (
	"cmp"
	"context"
	"slices"
	"sync"
	"time"

	"gorm.io/gorm"

	"github.com/eprod/eprod/internal/audit"
	"github.com/eprod/eprod/internal/db"
	"github.com/eprod/eprod/internal/errs"
	"github.com/eprod/eprod/internal/outbox"
)

var alertColumns = []string{"id", "participant_id", "study_id", "site_id", "rule", "rules_version", "submission", "response_id", "severity", "state", "urgent", "submission_state",
	"sealed", "notes", "raised_at", "acknowledged_by", "acknowledged_at", "resolved_by", "resolved_at", "step", "next_at", "updated_at"}

type alertRow struct {
	ID, ParticipantID, StudyID, SiteID int64
	Rule                               string
	RulesVersion                       int64
	Submission                         []byte
	ResponseID                         int64
	Severity, State                    string
	Urgent                             bool
	SubmissionState                    string
	Sealed, Notes                      []byte
	RaisedAt                           int64
	AcknowledgedBy, AcknowledgedAt     int64
	ResolvedBy, ResolvedAt             int64
	Step                               int
	NextAt, UpdatedAt                  int64
}

func (r *alertRow) alert() Alert {
	a := Alert{ID: r.ID, Participant: r.ParticipantID, Study: r.StudyID, Site: r.SiteID, Rule: r.Rule, RulesVersion: r.RulesVersion, Response: r.ResponseID, Severity: r.Severity,
		State: r.State, Urgent: r.Urgent, SubmissionState: r.SubmissionState, Sealed: r.Sealed, Notes: r.Notes, RaisedAt: db.Time(r.RaisedAt), AcknowledgedBy: r.AcknowledgedBy,
		AcknowledgedAt: db.Time(r.AcknowledgedAt), ResolvedBy: r.ResolvedBy, ResolvedAt: db.Time(r.ResolvedAt), Step: r.Step, NextAt: db.Time(r.NextAt), UpdatedAt: db.Time(r.UpdatedAt)}
	copy(a.Submission[:], r.Submission)
	return a
}

func (a *Alert) row() []any {
	urgent := 0
	if a.Urgent {
		urgent = 1
	}
	return []any{a.ID, a.Participant, a.Study, a.Site, a.Rule, a.RulesVersion, a.Submission[:], a.Response, a.Severity, a.State, urgent, a.SubmissionState, a.Sealed, a.Notes,
		db.Micros(a.RaisedAt), a.AcknowledgedBy, db.Micros(a.AcknowledgedAt), a.ResolvedBy, db.Micros(a.ResolvedAt), a.Step, db.Micros(a.NextAt), db.Micros(a.UpdatedAt)}
}

// Raise writes alerts of one submission that are not there yet, each with its audit entry and its event, and records what is known of the
// submission ("" for nothing new) in those that are. It returns the rules whose alerts are new. A study that is locked takes none: see
// db.IsClosed.
func (s *Store) Raise(ctx context.Context, study, participant int64, submission [16]byte, state string, at time.Time, alerts []Alert, report func(*Alert) (audit.Entry, outbox.Event)) ([]string, error) {
	var fresh []string
	write := func(tx *gorm.DB) error {
		fresh = nil
		var there []string
		if err := tx.Table("alert").Where("participant_id = ? AND submission = ?", participant, submission[:]).Pluck("rule", &there).Error; err != nil {
			return err
		}
		var rows [][]any
		var entries []audit.Entry
		var events []outbox.Event
		for i := range alerts {
			if a := &alerts[i]; !slices.Contains(there, a.Rule) {
				rows, fresh = append(rows, a.row()), append(fresh, a.Rule)
				entry, event := report(a)
				entries, events = append(entries, entry), append(events, event)
			}
		}
		if len(there) > 0 && state != "" {
			// What is final stays: a conflict is told after the storing of the first body.
			err := tx.Exec("UPDATE alert SET submission_state = ?, updated_at = ? WHERE participant_id = ? AND submission = ? AND submission_state <> ? AND submission_state <> 'conflict'",
				state, db.Micros(at), participant, submission[:], state).Error
			if err != nil {
				return err
			}
		}
		if len(rows) == 0 {
			return nil
		}
		if err := db.Insert(tx, "alert", alertColumns, rows); err != nil {
			return err
		}
		if err := audit.Append(tx, entries...); err != nil {
			return err
		}
		return outbox.Add(tx, events...)
	}
	claim := db.Claim{Study: study, Participant: participant, Pass: db.Drain}
	err := s.Shards.Write(ctx, claim, write)
	if db.IsDuplicate(err) { // the other way was faster by a moment
		err = s.Shards.Write(ctx, claim, write)
	}
	return fresh, db.Error("alert", err)
}

// AlertFilter narrows a list; zero members do not filter. Study and Limit are required.
type AlertFilter struct {
	Study, Participant int64
	Sites              []int64 // nil: every site
	State, Rule        string
	Before             int64 // keyset: only smaller ids
	Limit              int
}

// Alerts lists alerts, newest first, merged over the shards.
func (s *Store) Alerts(ctx context.Context, f AlertFilter) ([]Alert, error) {
	return s.alerts(ctx, func(tx *gorm.DB, before int64) *gorm.DB {
		tx = tx.Where("study_id = ?", f.Study)
		if f.Participant != 0 {
			tx = tx.Where("participant_id = ?", f.Participant)
		}
		if f.Sites != nil {
			tx = tx.Where("site_id IN ?", f.Sites)
		}
		if f.State != "" {
			tx = tx.Where("state = ?", f.State)
		}
		if f.Rule != "" {
			tx = tx.Where("rule = ?", f.Rule)
		}
		if before != 0 {
			tx = tx.Where("id < ?", before)
		}
		return tx
	}, f.Before, f.Limit)
}

// Alert returns one alert of a study, or errs.NotFound.
func (s *Store) Alert(ctx context.Context, study, id int64) (Alert, error) {
	found, err := s.alerts(ctx, func(tx *gorm.DB, before int64) *gorm.DB {
		tx = tx.Where("id = ? AND study_id = ?", id, study)
		if before != 0 {
			tx = tx.Where("id < ?", before)
		}
		return tx
	}, 0, 1)
	if err != nil {
		return Alert{}, err
	}
	if len(found) == 0 {
		return Alert{}, errs.Absent("alert")
	}
	return found[0], nil
}

func (s *Store) alerts(ctx context.Context, narrow func(tx *gorm.DB, before int64) *gorm.DB, before int64, limit int) ([]Alert, error) {
	view, err := s.Shards.View(ctx)
	if err != nil {
		return nil, err
	}
	var mu sync.Mutex
	var all []Alert
	err = s.Shards.Each(ctx, func(ctx context.Context, shard *db.DB) error {
		for from, kept := before, 0; ; {
			var rows []alertRow
			if err := narrow(shard.Read(ctx).Table("alert").Select(alertColumns), from).Order("id DESC").Limit(limit).Find(&rows).Error; err != nil {
				return db.Error("alerts", err)
			}
			mu.Lock()
			for i := range rows {
				from = rows[i].ID
				if view.Owns(shard, rows[i].ParticipantID) {
					all = append(all, rows[i].alert())
					kept++
				}
			}
			mu.Unlock()
			if len(rows) < limit || kept >= limit {
				return nil
			}
		}
	})
	slices.SortFunc(all, func(a, b Alert) int { return cmp.Compare(b.ID, a.ID) })
	return all[:min(len(all), limit)], err
}

// Change writes is over was with its audit entry, if nobody has changed its state meanwhile: else errs.Stale.
func (s *Store) Change(ctx context.Context, was, is Alert, entry audit.Entry, event outbox.Event) error {
	return db.Error("alert", s.Shards.Write(ctx, db.Claim{Study: was.Study, Participant: was.Participant}, func(tx *gorm.DB) error {
		done := tx.Table("alert").Where("id = ? AND state = ?", was.ID, was.State).Updates(map[string]any{"state": is.State, "notes": is.Notes, "acknowledged_by": is.AcknowledgedBy,
			"acknowledged_at": db.Micros(is.AcknowledgedAt), "resolved_by": is.ResolvedBy, "resolved_at": db.Micros(is.ResolvedAt), "next_at": db.Micros(is.NextAt), "updated_at": db.Micros(is.UpdatedAt)})
		if done.Error != nil {
			return done.Error
		}
		if done.RowsAffected != 1 {
			return errStale()
		}
		if err := audit.Append(tx, entry); err != nil {
			return err
		}
		return outbox.Add(tx, event)
	}))
}

// Due takes up to limit open alerts of a shard whose next escalation is due, and moves their time to until: what Escalated does not set
// comes again then.
func (s *Store) Due(ctx context.Context, shard *db.DB, now, until time.Time, limit int) ([]Alert, error) {
	var rows []alertRow
	err := shard.Tx(ctx, func(tx *gorm.DB) error {
		rows = nil
		visit, err := shard.AskAll(tx)
		if err != nil {
			return err
		}
		due := db.SkipLocked(tx).Table("alert").Select(alertColumns).Where("next_at > 0 AND next_at <= ? AND state = ?", db.Micros(now), StateOpen)
		if err := visit.ExceptOf(due, "alert.participant_id").Order("next_at").Limit(limit).Find(&rows).Error; err != nil || len(rows) == 0 {
			return err
		}
		ids, whose := make([]int64, 0, len(rows)), make([]int64, 0, len(rows))
		rows = slices.DeleteFunc(rows, func(r alertRow) bool { return visit.Of(r.StudyID) != db.Open })
		for i := range rows {
			ids, whose = append(ids, rows[i].ID), append(whose, rows[i].ParticipantID)
		}
		if len(ids) == 0 {
			return nil
		}
		if err := visit.Note(tx, whose...); err != nil {
			return err
		}
		return tx.Exec("UPDATE alert SET next_at = ? WHERE id IN ?", db.Micros(until), ids).Error
	})
	out := make([]Alert, len(rows))
	for i := range rows {
		out[i] = rows[i].alert()
	}
	return out, db.Error("alerts", err)
}

// Escalated writes that a step was told and when the next one is due, zero: never, with its audit entry. One that was acknowledged or
// told by another process meanwhile stays as it is.
func (s *Store) Escalated(ctx context.Context, was Alert, next time.Time, entry audit.Entry) error {
	return db.Error("alert", s.Shards.Write(ctx, db.Claim{Study: was.Study, Participant: was.Participant}, func(tx *gorm.DB) error {
		done := tx.Exec("UPDATE alert SET step = ?, next_at = ? WHERE id = ? AND state = ? AND step = ?", was.Step+1, db.Micros(next), was.ID, StateOpen, was.Step)
		if done.Error != nil || done.RowsAffected == 0 {
			return done.Error
		}
		return audit.Append(tx, entry)
	}))
}
