package study

import (
	"context"
	"crypto/sha256"
	"encoding/hex"

	"github.com/eprod/eprod/internal/audit"
	"github.com/eprod/eprod/internal/auth"
	"github.com/eprod/eprod/internal/errs"
	"github.com/eprod/eprod/internal/questionnaire"
)

// ImportQuestionnaire checks a FHIR R4 Questionnaire and keeps it as a draft version. What cannot be enforced on answers is
// refused with findings. The same bytes again are the same version, published or not; other bytes replace a draft and are
// errs.Conflict for a published version.
func (s *Service) ImportQuestionnaire(ctx context.Context, study int64, body []byte) (Questionnaire, error) {
	q, _, err := s.importVersion(ctx, study, body)
	return q, err
}

// importVersion also reports whether the version is new.
func (s *Service) importVersion(ctx context.Context, study int64, body []byte) (Questionnaire, bool, error) {
	who, _, err := s.design(ctx, study, auth.StudyDesign)
	if err != nil {
		return Questionnaire{}, false, err
	}
	d, err := s.compiled(body)
	if err != nil {
		return Questionnaire{}, false, err
	}
	a, err := s.begin(ctx, who)
	if err != nil {
		return Questionnaire{}, false, err
	}
	q := Questionnaire{ID: a.id, Study: study, URL: d.URL(), Version: d.Version(), Title: d.Title(), Status: Draft,
		SHA256: sha256.Sum256(body), CreatedAt: a.at}
	kept, err := s.Shelf.PutQuestionnaire(ctx, q, body, func(was *Questionnaire) audit.Entry {
		if was == nil {
			return a.entry("questionnaire.import", "questionnaire", q.ID, study, nil, versionOf(&q))
		}
		return a.entry("questionnaire.replace", "questionnaire", was.ID, study, versionOf(was), versionOf(&q))
	})
	s.Catalog.Forget(ctx, study)
	return kept, kept.ID == q.ID, err
}

func (s *Service) compiled(body []byte) (*questionnaire.Definition, error) {
	d, findings := questionnaire.Compile(body, s.Limits)
	if len(findings) > 0 {
		return nil, errs.New(errs.Unprocessable, "invalid_questionnaire", "the questionnaire cannot be used; see errors").WithFindings(findings)
	}
	return d, nil
}

// versionOf is a version as the audit entry shows it. The hash stands for the body.
func versionOf(q *Questionnaire) map[string]string {
	return map[string]string{"url": q.URL, "version": q.Version, "status": q.Status, "sha256": hex.EncodeToString(q.SHA256[:])}
}

// PublishQuestionnaire makes a draft version active; from then on it never changes. An active version stays active.
func (s *Service) PublishQuestionnaire(ctx context.Context, study, id int64) (Questionnaire, error) {
	who, _, err := s.design(ctx, study, auth.StudyDesign)
	if err != nil {
		return Questionnaire{}, err
	}
	q, body, err := s.Shelf.Questionnaire(ctx, id)
	if err != nil {
		return Questionnaire{}, err
	}
	if q.Study != study {
		return Questionnaire{}, errs.Absent("questionnaire")
	}
	if q.Status == Active {
		return q, nil
	}
	if _, err := s.compiled(body); err != nil {
		return Questionnaire{}, err
	}
	a, err := s.begin(ctx, who)
	if err != nil {
		return Questionnaire{}, err
	}
	before := versionOf(&q)
	q.Status, q.PublishedAt = Active, a.at
	err = s.Shelf.Publish(ctx, q, a.entry("questionnaire.publish", "questionnaire", id, study, before, versionOf(&q)))
	s.Catalog.Forget(ctx, study)
	return q, err
}

// Questionnaires lists a study's versions.
func (s *Service) Questionnaires(ctx context.Context, study int64) ([]Questionnaire, error) {
	if _, err := s.Guard.Study(ctx, study, auth.StudyRead); err != nil {
		return nil, err
	}
	return s.Shelf.Questionnaires(ctx, study)
}

// Served returns a version as it was imported: a published one to a participant of its study, any one to staff who may read
// the study. To everybody else it does not exist.
func (s *Service) Served(ctx context.Context, id int64) (Published, error) {
	who, ok := auth.From(ctx)
	if !ok {
		return Published{}, errs.NoCredentials("sign in to read questionnaires")
	}
	p, err := s.Catalog.Published(ctx, id)
	if who.Kind == auth.KindParticipant {
		if err == nil && who.Study != p.Study {
			err = errs.Absent("questionnaire")
		}
		return p, err
	}
	if _, err := auth.Staff(ctx); err != nil {
		return Published{}, err
	}
	if errs.KindOf(err) == errs.NotFound {
		p, err = s.draft(ctx, id)
	}
	if err != nil {
		return Published{}, err
	}
	if _, err = s.Guard.Study(ctx, p.Study, auth.StudyRead); errs.KindOf(err) == errs.NotFound {
		err = errs.Absent("questionnaire")
	}
	return p, err
}

// draft reads a version that may change yet, so it comes from the store each time.
func (s *Service) draft(ctx context.Context, id int64) (Published, error) {
	q, body, err := s.Shelf.Questionnaire(ctx, id)
	return Published{Study: q.Study, ETag: etag(q.SHA256), Body: body}, err
}
