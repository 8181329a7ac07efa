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
	"github.com/eprod/eprod/internal/submission"
)

var alertColumns = []string{"id", "participant_id", "study_id", "site_id", "rule", "rules_version", "submission", "response_id", "severity", "state", "urgent", "submission_state",
	"sealed", "notes", "raised_at", "acknowledged_by", "acknowledged_at", "resolved_by", "resolved_at", "step", "next_at", "updated_at", "trace"}

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
	Trace                              string
}

func (r *alertRow) alert() Alert {
	a := Alert{ID: r.ID, Participant: r.ParticipantID, Study: r.StudyID, Site: r.SiteID, Rule: r.Rule, RulesVersion: r.RulesVersion, Response: r.ResponseID, Severity: r.Severity,
		State: r.State, Urgent: r.Urgent, SubmissionState: r.SubmissionState, Sealed: r.Sealed, Notes: r.Notes, RaisedAt: db.Time(r.RaisedAt), AcknowledgedBy: r.AcknowledgedBy,
		AcknowledgedAt: db.Time(r.AcknowledgedAt), ResolvedBy: r.ResolvedBy, ResolvedAt: db.Time(r.ResolvedAt), Step: r.Step, NextAt: db.Time(r.NextAt), UpdatedAt: db.Time(r.UpdatedAt), Trace: r.Trace}
	copy(a.Submission[:], r.Submission)
	return a
}

func (a *Alert) row() []any {
	urgent := 0
	if a.Urgent {
		urgent = 1
	}
	return []any{a.ID, a.Participant, a.Study, a.Site, a.Rule, a.RulesVersion, a.Submission[:], a.Response, a.Severity, a.State, urgent, a.SubmissionState, a.Sealed, a.Notes,
		db.Micros(a.RaisedAt), a.AcknowledgedBy, db.Micros(a.AcknowledgedAt), a.ResolvedBy, db.Micros(a.ResolvedAt), a.Step, db.Micros(a.NextAt), db.Micros(a.UpdatedAt), a.Trace}
}

// Occurrence is a submission in which rules have found something, or of which something is known.
type Occurrence struct {
	Study, Participant int64
	Submission         [16]byte
	State              string // what is known of the submission
	At                 time.Time
	Alerts             []Alert
	// Raised makes what is written with an alert that is new.
	Raised func(a *Alert) (audit.Entry, outbox.Event)
	// Moved makes the audit entry of an alert whose submission has come to State.
	Moved func(was *Alert) (audit.Entry, error)
}

// states of a submission, in the order in which they may follow one another: what is told late and once more changes nothing. A conflict
// is told after the storing of the first body; what was quarantined may still be stored.
var states = []submission.State{submission.Received, submission.Quarantined, submission.Stored, submission.Conflict}

func follows(is, was string) bool {
	return slices.Index(states, submission.State(is)) > slices.Index(states, submission.State(was))
}

// Raise writes the alerts of an occurrence that are not there yet, each with its audit entry and its event, and records what is known of the
// submission in those that are, each with its audit entry. It returns the rules whose alerts are new. A study that is locked takes
// none: see db.IsClosed.
func (s *Store) Raise(ctx context.Context, o Occurrence) ([]string, error) {
	var fresh []string
	write := func(tx *gorm.DB) error {
		fresh = nil
		var there []alertRow
		err := tx.Table("alert").Select("id", "participant_id", "study_id", "rule", "submission_state").Where("participant_id = ? AND submission = ?", o.Participant, o.Submission[:]).Find(&there).Error
		if err != nil {
			return err
		}
		var rows [][]any
		var entries []audit.Entry
		var events []outbox.Event
		for i := range o.Alerts {
			a := &o.Alerts[i]
			if slices.ContainsFunc(there, func(r alertRow) bool { return r.Rule == a.Rule }) {
				continue
			}
			rows, fresh = append(rows, a.row()), append(fresh, a.Rule)
			entry, event := o.Raised(a)
			entries, events = append(entries, entry), append(events, event)
		}
		for i := range there {
			was := there[i].alert()
			if !follows(o.State, was.SubmissionState) {
				continue
			}
			done := tx.Exec("UPDATE alert SET submission_state = ?, updated_at = ? WHERE id = ? AND submission_state = ?", o.State, db.Micros(o.At), was.ID, was.SubmissionState)
			if done.Error != nil {
				return done.Error
			}
			if done.RowsAffected == 0 { // the other way was faster by a moment
				continue
			}
			entry, err := o.Moved(&was)
			if err != nil {
				return err
			}
			entries = append(entries, entry)
		}
		if len(rows) > 0 {
			if err := db.Insert(tx, "alert", alertColumns, rows); err != nil {
				return err
			}
		}
		if len(entries) > 0 {
			if err := audit.Append(tx, entries...); err != nil {
				return err
			}
		}
		if len(events) == 0 {
			return nil
		}
		return outbox.Add(tx, events...)
	}
	claim := db.Claim{Study: o.Study, Participant: o.Participant, Pass: db.Drain}
	err := s.Shards.Write(ctx, claim, write)
	if db.IsDuplicate(err) { // the other way was faster by a moment
		err = s.Shards.Write(ctx, claim, write)
	}
	return fresh, db.Error("alert", err)
}

// Raised returns the rules that have an alert of a submission.
func (s *Store) Raised(ctx context.Context, participant int64, submission [16]byte) ([]string, error) {
	var rules []string
	err := s.Shards.Home(participant).Read(ctx).Table("alert").Where("participant_id = ? AND submission = ?", participant, submission[:]).Pluck("rule", &rules).Error
	return rules, db.Error("alerts", err)
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

// Alert returns one alert of a study, or errs.NotFound. Only its own shard must answer.
func (s *Store) Alert(ctx context.Context, study, id int64) (Alert, error) {
	found, err := s.alerts(ctx, func(tx *gorm.DB, before int64) *gorm.DB {
		tx = tx.Where("id = ? AND study_id = ?", id, study)
		if before != 0 {
			tx = tx.Where("id < ?", before)
		}
		return tx
	}, 0, 1)
	if len(found) > 0 { // whatever another shard did not answer
		return found[0], nil
	}
	if err != nil {
		return Alert{}, err
	}
	return Alert{}, errs.Absent("alert")
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
// comes again then. Those of studies that are not open stay as they are.
func (s *Store) Due(ctx context.Context, shard *db.DB, now, until time.Time, limit int) ([]Alert, error) {
	var rows []alertRow
	err := shard.Tx(ctx, func(tx *gorm.DB) error {
		rows = nil
		visit, err := shard.AskAll(tx)
		if err != nil {
			return err
		}
		due := db.SkipLocked(tx).Table("alert").Select(alertColumns).Where("next_at > 0 AND next_at <= ? AND state = ?", db.Micros(now), StateOpen).
			Where("NOT EXISTS (SELECT 1 FROM study_standing s WHERE s.study_id = alert.study_id AND s.standing <> ?)", string(db.Open)) // they wait until it is open again
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
