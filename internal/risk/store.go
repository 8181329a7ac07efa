package risk

import (
	"cmp"
	"context"
	"encoding/json"
	"slices"
	"sync"

	"gorm.io/gorm"

	"github.com/eprod/eprod/internal/audit"
	"github.com/eprod/eprod/internal/db"
	"github.com/eprod/eprod/internal/errs"
	"github.com/eprod/eprod/internal/outbox"
)

// Store keeps settings in the metadata database and assessments on the shards. It is safe for concurrent use.
type Store struct {
	Meta   *db.DB
	Shards *db.Shards
	// Mutable refuses, in a transaction of the metadata database, a study whose design may not change.
	Mutable func(tx *gorm.DB, study int64) error
}

// Setting returns a study's setting; the zero one where there is none.
func (s *Store) Setting(ctx context.Context, study int64) (Setting, error) {
	var rows []struct {
		Version int64
		Body    []byte
	}
	err := s.Meta.Read(ctx).Table("risk_setting").Select("version", "body").Where("study_id = ?", study).Limit(1).Find(&rows).Error
	if err != nil || len(rows) == 0 {
		return Setting{}, db.Error("risk setting", err)
	}
	out := Setting{Version: rows[0].Version}
	return out, json.Unmarshal(rows[0].Body, &out)
}

// PutSetting writes a setting over the version was; errs.Stale where it is another.
func (s *Store) PutSetting(ctx context.Context, study, was int64, is Setting, entry audit.Entry) error {
	body, err := json.Marshal(is)
	if err != nil {
		return err
	}
	stale := errs.New(errs.Stale, "stale", "somebody else changed it; read it again and repeat your change")
	err = s.Meta.Tx(ctx, func(tx *gorm.DB) error {
		if err := s.Mutable(tx, study); err != nil {
			return err
		}
		if was == 0 {
			err := db.Insert(tx, "risk_setting", []string{"study_id", "version", "body", "changed_by", "changed_at"}, [][]any{{study, int64(1), body, entry.Actor, db.Micros(entry.At)}})
			if err != nil {
				return err
			}
			return audit.Append(tx, entry)
		}
		done := tx.Exec("UPDATE risk_setting SET version = ?, body = ?, changed_by = ?, changed_at = ? WHERE study_id = ? AND version = ?", was+1, body, entry.Actor, db.Micros(entry.At), study, was)
		if done.Error != nil {
			return done.Error
		}
		if done.RowsAffected != 1 {
			return stale
		}
		return audit.Append(tx, entry)
	})
	if db.IsDuplicate(err) {
		return stale
	}
	return db.Error("risk setting", err)
}

var columns = []string{"id", "participant_id", "study_id", "site_id", "submission", "response_id", "model", "model_version", "outcome", "inputs", "sealed", "assessed_at"}

type row struct {
	ID, ParticipantID, StudyID, SiteID int64
	Submission                         []byte
	ResponseID                         int64
	Model, ModelVersion, Outcome       string
	Inputs, Sealed                     []byte
	AssessedAt                         int64
}

func (r *row) assessment() (Assessment, error) {
	a := Assessment{ID: r.ID, Participant: r.ParticipantID, Study: r.StudyID, Site: r.SiteID, Response: r.ResponseID, Model: Model{r.Model, r.ModelVersion}, Outcome: r.Outcome,
		Sealed: r.Sealed, At: db.Time(r.AssessedAt)}
	copy(a.Submission[:], r.Submission)
	return a, json.Unmarshal(r.Inputs, &a.Inputs)
}

// Known reports whether a model has assessed a submission.
func (s *Store) Known(ctx context.Context, participant int64, submission [16]byte, m Model) (bool, error) {
	var n int64
	err := s.Shards.Home(participant).Read(ctx).Table("assessment").Where("participant_id = ? AND submission = ? AND model = ? AND model_version = ?", participant, submission[:], m.Name, m.Version).Count(&n).Error
	return n > 0, db.Error("assessment", err)
}

// Add writes an assessment with its audit entry and its event; one that is there already stays, and false is returned. A locked study
// takes none: see db.IsClosed.
func (s *Store) Add(ctx context.Context, a Assessment, entry audit.Entry, event outbox.Event) (bool, error) {
	inputs, err := json.Marshal(a.Inputs)
	if err != nil {
		return false, err
	}
	err = s.Shards.Write(ctx, db.Claim{Study: a.Study, Participant: a.Participant, Pass: db.Drain}, func(tx *gorm.DB) error {
		err := db.Insert(tx, "assessment", columns, [][]any{{a.ID, a.Participant, a.Study, a.Site, a.Submission[:], a.Response, a.Model.Name, a.Model.Version, a.Outcome, inputs, a.Sealed, db.Micros(a.At)}})
		if err != nil {
			return err
		}
		if err := audit.Append(tx, entry); err != nil {
			return err
		}
		return outbox.Add(tx, event)
	})
	if db.IsDuplicate(err) && db.DuplicateKey(err) != "PRIMARY" && db.DuplicateKey(err) != "assessment.id" {
		return false, nil
	}
	return err == nil, db.Error("assessment", err)
}

// Filter narrows a list; Study and Limit are required.
type Filter struct {
	Study, Participant int64
	Sites              []int64 // nil: every site
	Before             int64
	Limit              int
}

// List returns assessments, newest first, merged over the shards.
func (s *Store) List(ctx context.Context, f Filter) ([]Assessment, error) {
	view, err := s.Shards.View(ctx)
	if err != nil {
		return nil, err
	}
	var mu sync.Mutex
	var all []Assessment
	err = s.Shards.Each(ctx, func(ctx context.Context, shard *db.DB) error {
		for before, kept := f.Before, 0; ; {
			tx := shard.Read(ctx).Table("assessment").Select(columns).Where("study_id = ?", f.Study)
			if f.Participant != 0 {
				tx = tx.Where("participant_id = ?", f.Participant)
			}
			if f.Sites != nil {
				tx = tx.Where("site_id IN ?", f.Sites)
			}
			if before != 0 {
				tx = tx.Where("id < ?", before)
			}
			var rows []row
			if err := tx.Order("id DESC").Limit(f.Limit).Find(&rows).Error; err != nil {
				return db.Error("assessments", err)
			}
			for i := range rows {
				before = rows[i].ID
				if !view.Owns(shard, rows[i].ParticipantID) {
					continue
				}
				a, err := rows[i].assessment()
				if err != nil {
					return err
				}
				mu.Lock()
				all = append(all, a)
				mu.Unlock()
				kept++
			}
			if len(rows) < f.Limit || kept >= f.Limit {
				return nil
			}
		}
	})
	slices.SortFunc(all, func(a, b Assessment) int { return cmp.Compare(b.ID, a.ID) })
	return all[:min(len(all), f.Limit)], err
}
