package study

import (
	"context"

	"gorm.io/gorm"

	"github.com/eprod/eprod/internal/audit"
	"github.com/eprod/eprod/internal/db"
)

var (
	headColumns = []string{"id", "study_id", "url", "version", "title", "status", "sha256", "created_at", "published_at"}
	bodyColumns = append(append([]string{}, headColumns...), "body")
)

type questionnaireRow struct {
	ID          int64
	StudyID     int64
	URL         string
	Version     string
	Title       string
	Status      string
	SHA256      []byte `gorm:"column:sha256"`
	CreatedAt   int64
	PublishedAt int64 // 0: a draft
	Body        []byte
}

func (r *questionnaireRow) questionnaire() Questionnaire {
	q := Questionnaire{ID: r.ID, Study: r.StudyID, URL: r.URL, Version: r.Version, Title: r.Title, Status: r.Status, CreatedAt: db.Time(r.CreatedAt)}
	if r.PublishedAt != 0 {
		q.PublishedAt = db.Time(r.PublishedAt)
	}
	copy(q.SHA256[:], r.SHA256)
	return q
}

// PutQuestionnaire writes a draft version, replacing an earlier draft of the same canonical. It returns what stands there
// then: the same bytes again change nothing; other bytes than those of a published version are errs.Conflict.
func (s *Store) PutQuestionnaire(ctx context.Context, q Questionnaire, body []byte, entry func(was *Questionnaire) audit.Entry) (Questionnaire, error) {
	var kept Questionnaire
	err := s.Meta.Tx(ctx, func(tx *gorm.DB) error {
		if err := design(tx, q.Study); err != nil {
			return err
		}
		var row questionnaireRow
		found := tx.Table("questionnaire").Select(headColumns).Where("study_id = ? AND url = ? AND version = ?", q.Study, q.URL, q.Version).Limit(1).Find(&row)
		if found.Error != nil {
			return found.Error
		}
		if found.RowsAffected == 0 {
			kept = q
			return addQuestionnaire(tx, q, body, entry(nil))
		}
		was := row.questionnaire()
		if kept = was; was.SHA256 == q.SHA256 {
			return nil
		}
		if was.Status != Draft {
			return errPublished()
		}
		kept.Title, kept.SHA256 = q.Title, q.SHA256
		err := tx.Table("questionnaire").Where("id = ?", was.ID).Updates(map[string]any{"title": q.Title, "sha256": q.SHA256[:], "body": body}).Error
		if err != nil {
			return err
		}
		return changed(tx, q.Study, entry(&was))
	})
	return kept, written("questionnaire", "questionnaire", err)
}

func addQuestionnaire(tx *gorm.DB, q Questionnaire, body []byte, entry audit.Entry) error {
	if err := room(tx, "questionnaire", "questionnaire versions", q.Study, maxQuestionnaires); err != nil {
		return err
	}
	err := db.Insert(tx, "questionnaire", bodyColumns, [][]any{{q.ID, q.Study, q.URL, q.Version, q.Title, q.Status, q.SHA256[:],
		db.Micros(q.CreatedAt), int64(0), body}})
	if err != nil {
		return err
	}
	return changed(tx, q.Study, entry)
}

// Publish makes a draft version active if it still has the bytes that were read; else errs.Stale.
func (s *Store) Publish(ctx context.Context, q Questionnaire, entry audit.Entry) error {
	return written("questionnaire", "questionnaire", s.Meta.Tx(ctx, func(tx *gorm.DB) error {
		if err := design(tx, q.Study); err != nil {
			return err
		}
		result := tx.Table("questionnaire").Where("id = ? AND status = ? AND sha256 = ?", q.ID, Draft, q.SHA256[:]).
			Updates(map[string]any{"status": Active, "published_at": db.Micros(q.PublishedAt)})
		if result.Error != nil {
			return result.Error
		}
		if result.RowsAffected == 0 {
			return errStale()
		}
		return changed(tx, q.Study, entry)
	}))
}

// Questionnaire returns one version with its body.
func (s *Store) Questionnaire(ctx context.Context, id int64) (Questionnaire, []byte, error) {
	var r questionnaireRow
	err := s.Meta.Read(ctx).Table("questionnaire").Select(bodyColumns).Where("id = ?", id).Take(&r).Error
	return r.questionnaire(), r.Body, db.Error("questionnaire", err)
}

// Questionnaires returns a study's versions without their bodies, by id.
func (s *Store) Questionnaires(ctx context.Context, study int64) ([]Questionnaire, error) {
	var rows []questionnaireRow
	err := s.Meta.Read(ctx).Table("questionnaire").Select(headColumns).Where("study_id = ?", study).Order("id").Limit(maxQuestionnaires).Find(&rows).Error
	out := make([]Questionnaire, len(rows))
	for i := range rows {
		out[i] = rows[i].questionnaire()
	}
	return out, db.Error("questionnaires", err)
}
