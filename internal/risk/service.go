package risk

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"github.com/eprod/eprod/internal/audit"
	"github.com/eprod/eprod/internal/auth"
	"github.com/eprod/eprod/internal/errs"
	"github.com/eprod/eprod/internal/participant"
	"github.com/eprod/eprod/internal/questionnaire"
	"github.com/eprod/eprod/internal/web"
)

// Catalog knows questionnaire versions.
type Catalog interface {
	Definition(ctx context.Context, study int64, canonical string) (*questionnaire.Definition, error)
	Versions(ctx context.Context, study int64, url string) ([]*questionnaire.Definition, error)
}

// People knows participants.
type People interface {
	Get(ctx context.Context, id int64) (*participant.Profile, error)
	GetMany(ctx context.Context, ids []int64) (map[int64]*participant.Profile, error)
}

// IDs gives ascending Snowflake ids.
type IDs interface {
	NextN(n int) ([]int64, error)
}

// Service is what staff do with assessments. It is safe for concurrent use.
type Service struct {
	Store   *Store
	Catalog Catalog
	People  People
	Guard   auth.Guard
	IDs     IDs
	Now     func() time.Time
	Remote  bool // a sponsor's own model is set up
}

// Setting returns how a study is assessed.
func (s *Service) Setting(ctx context.Context, study int64) (Setting, error) {
	if _, err := s.Guard.Study(ctx, study, auth.StudyRead); err != nil {
		return Setting{}, err
	}
	return s.Store.Setting(ctx, study)
}

// PutSetting replaces the setting that has the version of is; else errs.Stale.
func (s *Service) PutSetting(ctx context.Context, study int64, is Setting) (Setting, error) {
	who, err := s.Guard.Study(ctx, study, auth.StudyDesign)
	if err != nil {
		return Setting{}, err
	}
	var failed error
	findings := is.findings(s.Remote, func(url, score string) bool {
		versions, err := s.Catalog.Versions(ctx, study, url)
		failed = err
		return slices.ContainsFunc(versions, func(d *questionnaire.Definition) bool {
			return slices.ContainsFunc(d.ScoreRules(), func(r *questionnaire.ScoreRule) bool { return r.Name == score })
		})
	})
	if failed != nil {
		return Setting{}, failed
	}
	if len(findings) > 0 {
		return Setting{}, errs.InvalidField(findings...)
	}
	ids, err := s.IDs.NextN(1)
	if err != nil {
		return Setting{}, err
	}
	value, err := json.Marshal(is)
	if err != nil {
		return Setting{}, err
	}
	entry := audit.Entry{ID: ids[0], At: s.Now().UTC().Truncate(time.Microsecond), Zone: "UTC", ActorKind: string(who.Kind), Actor: who.ID, Action: "risk.setting", Record: "risk_setting", RecordID: study,
		Study: study, New: value, Source: web.RequestID(ctx)}
	err = s.Store.PutSetting(ctx, study, is.Version, is, entry)
	is.Version++
	return is, err
}

// View is an assessment as staff see it.
type View struct {
	Assessment
	Number string // participant number
	Result Result
}

// List returns one page of a study's assessments, newest first, of the sites whose responses the caller may read.
func (s *Service) List(ctx context.Context, f Filter) ([]View, error) {
	sites, all, err := s.Guard.Sites(ctx, f.Study, auth.ResponseRead)
	if err != nil {
		return nil, err
	}
	if !all {
		f.Sites = sites
	}
	list, err := s.Store.List(ctx, f)
	if err != nil {
		return nil, err
	}
	ids := make([]int64, len(list))
	for i, a := range list {
		ids[i] = a.Participant
	}
	people, err := s.People.GetMany(ctx, ids)
	if err != nil {
		return nil, err
	}
	views := make([]View, len(list))
	for i, a := range list {
		p := people[a.Participant]
		if p == nil {
			return nil, errs.Absent("participant")
		}
		views[i] = View{Assessment: a, Number: p.Number}
		plain, err := p.Key.Open(a.Sealed, place(a.Participant, a.ID))
		if err != nil {
			return nil, fmt.Errorf("assessment %d: %w", a.ID, err)
		}
		if err := json.Unmarshal(plain, &views[i].Result); err != nil {
			return nil, err
		}
	}
	return views, nil
}

func place(participant, id int64) []byte {
	return fmt.Appendf(nil, "eprod/assessment/1/%d/%d", participant, id)
}
