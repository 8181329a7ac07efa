package study

import (
	"context"
	"encoding/json"
	"strings"
	"time"

	"gorm.io/gorm"

	"github.com/eprod/eprod/internal/audit"
	"github.com/eprod/eprod/internal/auth"
	"github.com/eprod/eprod/internal/db"
	"github.com/eprod/eprod/internal/errs"
	"github.com/eprod/eprod/internal/task"
)

// Store keeps studies in the metadata database. It is safe for concurrent use.
type Store struct{ Meta *db.DB }

var (
	studyColumns = []string{"id", "protocol", "title", "zone", "status", "languages", "participant_pin", "version", "schedule_version", "created_at"}
	headColumns  = []string{"id", "study_id", "url", "version", "title", "status", "sha256", "created_at", "published_at"}
	bodyColumns  = append(append([]string{}, headColumns...), "body")
)

type studyRow struct {
	ID              int64
	Protocol        string
	Title           string
	Zone            string
	Status          string
	Languages       string
	ParticipantPin  string
	Version         int64
	ScheduleVersion int64
	CreatedAt       int64
}

func (r *studyRow) study() Study {
	return Study{ID: r.ID, Protocol: r.Protocol, Title: r.Title, Zone: r.Zone, Status: r.Status, Languages: strings.Split(r.Languages, ","),
		ParticipantPin: r.ParticipantPin, Version: r.Version, ScheduleVersion: r.ScheduleVersion, CreatedAt: db.Time(r.CreatedAt)}
}

type questionnaireRow struct {
	ID          int64
	StudyID     int64
	URL         string
	Version     string
	Title       string
	Status      string
	SHA256      []byte `gorm:"column:sha256"`
	CreatedAt   int64
	PublishedAt int64
	Body        []byte
}

func (r *questionnaireRow) questionnaire() Questionnaire {
	q := Questionnaire{ID: r.ID, Study: r.StudyID, URL: r.URL, Version: r.Version, Title: r.Title, Status: r.Status,
		CreatedAt: db.Time(r.CreatedAt), PublishedAt: db.Time(r.PublishedAt)}
	copy(q.SHA256[:], r.SHA256)
	return q
}

type codedRow struct {
	ID      int64
	StudyID int64
	Code    string
	Name    string
}

// Create writes a study, its creator's grant and the audit entry.
func (s *Store) Create(ctx context.Context, st Study, creator int64, entry audit.Entry) error {
	err := s.Meta.Tx(ctx, func(tx *gorm.DB) error {
		err := db.Insert(tx, "study", studyColumns, [][]any{{st.ID, st.Protocol, st.Title, st.Zone, st.Status, strings.Join(st.Languages, ","),
			st.ParticipantPin, st.Version, st.ScheduleVersion, db.Micros(st.CreatedAt)}})
		if err != nil {
			return err
		}
		if err := db.Insert(tx, "study_staff", staffColumns, [][]any{{st.ID, creator, string(auth.StudyManager), int64(0)}}); err != nil {
			return err
		}
		return audit.Append(tx, entry)
	})
	return db.Error("a study with this protocol number", err)
}

// ByID returns a study.
func (s *Store) ByID(ctx context.Context, id int64) (Study, error) {
	var r studyRow
	err := s.Meta.Read(ctx).Table("study").Select(studyColumns).Where("id = ?", id).Take(&r).Error
	return r.study(), db.Error("study", err)
}

// ByProtocol returns a study by its protocol number.
func (s *Store) ByProtocol(ctx context.Context, protocol string) (Study, error) {
	var r studyRow
	err := s.Meta.Read(ctx).Table("study").Select(studyColumns).Where("protocol = ?", protocol).Take(&r).Error
	return r.study(), db.Error("study", err)
}

// List returns studies by id, after a given one: those of a user, or all where user is 0.
func (s *Store) List(ctx context.Context, user, after int64, limit int) ([]Study, error) {
	tx := s.Meta.Read(ctx).Table("study").Select(studyColumns).Where("id > ?", after)
	if user != 0 {
		tx = tx.Where("id IN (SELECT study_id FROM study_staff WHERE user_id = ?)", user)
	}
	var rows []studyRow
	if err := tx.Order("id").Limit(limit).Find(&rows).Error; err != nil {
		return nil, db.Error("studies", err)
	}
	out := make([]Study, len(rows))
	for i := range rows {
		out[i] = rows[i].study()
	}
	return out, nil
}

// Update writes the changed fields of a study if it still has the version that was read; else errs.Stale.
func (s *Store) Update(ctx context.Context, was, is Study, entry audit.Entry) error {
	return db.Error("study", s.Meta.Tx(ctx, func(tx *gorm.DB) error {
		return change(tx, was, map[string]any{"title": is.Title, "zone": is.Zone, "languages": strings.Join(is.Languages, ","),
			"participant_pin": is.ParticipantPin, "status": is.Status, "version": is.Version}, entry)
	}))
}

func change(tx *gorm.DB, was Study, columns map[string]any, entry audit.Entry) error {
	result := tx.Table("study").Where("id = ? AND version = ?", was.ID, was.Version).Updates(columns)
	if result.Error != nil {
		return result.Error
	}
	if result.RowsAffected != 1 {
		return errStale()
	}
	return audit.Append(tx, entry)
}

// AddCoded writes a site or an arm: table says which.
func (s *Store) AddCoded(ctx context.Context, table string, study, id int64, code, name string, entry audit.Entry) error {
	err := s.Meta.Tx(ctx, func(tx *gorm.DB) error {
		if err := db.Insert(tx, table, []string{"id", "study_id", "code", "name"}, [][]any{{id, study, code, name}}); err != nil {
			return err
		}
		return audit.Append(tx, entry)
	})
	return db.Error("this code", err)
}

func (s *Store) coded(ctx context.Context, table string, study int64) ([]codedRow, error) {
	var rows []codedRow
	err := s.Meta.Read(ctx).Table(table).Select("id", "study_id", "code", "name").Where("study_id = ?", study).Order("code").Limit(maxSites).Find(&rows).Error
	return rows, db.Error(table, err)
}

// Sites returns a study's sites by code.
func (s *Store) Sites(ctx context.Context, study int64) ([]Site, error) {
	rows, err := s.coded(ctx, "site", study)
	out := make([]Site, len(rows))
	for i, r := range rows {
		out[i] = Site{r.ID, r.Code, r.Name}
	}
	return out, err
}

// Arms returns a study's arms by code.
func (s *Store) Arms(ctx context.Context, study int64) ([]Arm, error) {
	rows, err := s.coded(ctx, "arm", study)
	out := make([]Arm, len(rows))
	for i, r := range rows {
		out[i] = Arm{r.ID, r.Code, r.Name}
	}
	return out, err
}

var staffColumns = []string{"study_id", "user_id", "role", "site_id"}

type staffRow struct {
	StudyID int64
	UserID  int64
	Role    string
	SiteID  int64
}

// Grants implements auth.Grants; it always reads the database.
func (s *Store) Grants(ctx context.Context, user, study int64) ([]auth.Grant, error) {
	var rows []staffRow
	err := s.Meta.Read(ctx).Table("study_staff").Select(staffColumns).Where("study_id = ? AND user_id = ?", study, user).Find(&rows).Error
	out := make([]auth.Grant, len(rows))
	for i, r := range rows {
		out[i] = auth.Grant{Role: auth.Role(r.Role), Site: r.SiteID}
	}
	return out, db.Error("rights", err)
}

// AddGrant gives a staff member a right; giving it twice is errs.Conflict.
func (s *Store) AddGrant(ctx context.Context, study int64, g StaffGrant, entry audit.Entry) error {
	err := s.Meta.Tx(ctx, func(tx *gorm.DB) error {
		if err := db.Insert(tx, "study_staff", staffColumns, [][]any{{study, g.User, string(g.Role), g.Site}}); err != nil {
			return err
		}
		return audit.Append(tx, entry)
	})
	return db.Error("this right", err)
}

// StaffOf returns everybody's rights in a study, without usernames.
func (s *Store) StaffOf(ctx context.Context, study int64) ([]StaffGrant, error) {
	var rows []staffRow
	err := s.Meta.Read(ctx).Table("study_staff").Select(staffColumns).Where("study_id = ?", study).Order("user_id, role, site_id").Limit(10_000).Find(&rows).Error
	out := make([]StaffGrant, len(rows))
	for i, r := range rows {
		out[i] = StaffGrant{User: r.UserID, Role: auth.Role(r.Role), Site: r.SiteID}
	}
	return out, db.Error("staff", err)
}

// PutQuestionnaire writes a draft version, replacing an earlier draft of the same canonical. It returns what stands there
// then: the same bytes again change nothing; other bytes than those of a published version are errs.Conflict.
func (s *Store) PutQuestionnaire(ctx context.Context, q Questionnaire, body []byte, entry func(was *Questionnaire) audit.Entry) (Questionnaire, error) {
	err := s.Meta.Tx(ctx, func(tx *gorm.DB) error {
		var row questionnaireRow
		find := db.ForUpdate(tx).Table("questionnaire").Select(headColumns).Where("study_id = ? AND url = ? AND version = ?", q.Study, q.URL, q.Version).Limit(1).Find(&row)
		if find.Error != nil {
			return find.Error
		}
		if find.RowsAffected == 0 {
			err := db.Insert(tx, "questionnaire", bodyColumns, [][]any{{q.ID, q.Study, q.URL, q.Version, q.Title, q.Status, q.SHA256[:],
				db.Micros(q.CreatedAt), int64(0), body}})
			if err != nil {
				return err
			}
			return audit.Append(tx, entry(nil))
		}
		was := row.questionnaire()
		if was.SHA256 == q.SHA256 {
			q = was
			return nil
		}
		if was.Status != Draft {
			return errPublished()
		}
		q.ID, q.CreatedAt = was.ID, was.CreatedAt
		err := tx.Table("questionnaire").Where("id = ?", was.ID).Updates(map[string]any{"title": q.Title, "sha256": q.SHA256[:], "body": body}).Error
		if err != nil {
			return err
		}
		return audit.Append(tx, entry(&was))
	})
	return q, db.Error("questionnaire", err)
}

// Publish makes a draft version active. A version that is active already stays as it is.
func (s *Store) Publish(ctx context.Context, q Questionnaire, at time.Time, entry audit.Entry) error {
	return db.Error("questionnaire", s.Meta.Tx(ctx, func(tx *gorm.DB) error {
		result := tx.Table("questionnaire").Where("id = ? AND status = ? AND sha256 = ?", q.ID, Draft, q.SHA256[:]).
			Updates(map[string]any{"status": Active, "published_at": db.Micros(at)})
		if result.Error != nil {
			return result.Error
		}
		if result.RowsAffected == 0 {
			return errStale()
		}
		return audit.Append(tx, entry)
	}))
}

// Questionnaire returns one version with its body.
func (s *Store) Questionnaire(ctx context.Context, id int64) (Questionnaire, []byte, error) {
	var r questionnaireRow
	err := s.Meta.Read(ctx).Table("questionnaire").Select(bodyColumns).Where("id = ?", id).Take(&r).Error
	return r.questionnaire(), r.Body, db.Error("questionnaire", err)
}

// Questionnaires returns a study's versions without their bodies.
func (s *Store) Questionnaires(ctx context.Context, study int64) ([]Questionnaire, error) {
	var rows []questionnaireRow
	err := s.Meta.Read(ctx).Table("questionnaire").Select(headColumns).Where("study_id = ?", study).Order("id").Limit(5000).Find(&rows).Error
	out := make([]Questionnaire, len(rows))
	for i := range rows {
		out[i] = rows[i].questionnaire()
	}
	return out, db.Error("questionnaires", err)
}

// PutSchedule writes the next version of the schedule and makes it the study's.
func (s *Store) PutSchedule(ctx context.Context, was Study, rules []task.Rule, author int64, at time.Time, entry audit.Entry) (int64, error) {
	version := was.ScheduleVersion + 1
	body, err := json.Marshal(rules)
	if err != nil {
		return 0, err
	}
	err = s.Meta.Tx(ctx, func(tx *gorm.DB) error {
		if err := change(tx, was, map[string]any{"schedule_version": version, "version": was.Version + 1}, entry); err != nil {
			return err
		}
		return db.Insert(tx, "schedule", []string{"study_id", "version", "rules", "created_by", "created_at"},
			[][]any{{was.ID, version, body, author, db.Micros(at)}})
	})
	if db.IsDuplicate(err) {
		err = errStale()
	}
	return version, db.Error("schedule", err)
}

// Rules returns one version of a schedule; errs.NotFound where there is none.
func (s *Store) Rules(ctx context.Context, study, version int64) ([]task.Rule, error) {
	var r struct{ Rules []byte }
	err := s.Meta.Read(ctx).Table("schedule").Select("rules").Where("study_id = ? AND version = ?", study, version).Take(&r).Error
	if err != nil {
		return nil, db.Error("schedule", err)
	}
	var rules []task.Rule
	if err := json.Unmarshal(r.Rules, &rules); err != nil {
		return nil, errs.New(errs.Internal, "internal", "stored schedule is damaged").WithCause(err)
	}
	return rules, nil
}
