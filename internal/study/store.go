package study

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"gorm.io/gorm"

	"github.com/eprod/eprod/internal/audit"
	"github.com/eprod/eprod/internal/auth"
	"github.com/eprod/eprod/internal/cache"
	"github.com/eprod/eprod/internal/db"
	"github.com/eprod/eprod/internal/errs"
	"github.com/eprod/eprod/internal/outbox"
	"github.com/eprod/eprod/internal/task"
)

// Store keeps studies in the metadata database. It is safe for concurrent use.
type Store struct{ Meta *db.DB }

var studyColumns = []string{"id", "protocol", "title", "zone", "status", "languages", "participant_pin", "version", "schedule_version", "created_at"}

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

var codedColumns = []string{"id", "study_id", "code", "name"}

// codedRow is a site or an arm.
type codedRow struct {
	ID      int64
	StudyID int64
	Code    string
	Name    string
}

// written gives a refused write its kind: taken names the natural key that is taken already. An id that is taken is not the
// caller's doing and raises the alarm of an internal error.
func written(table, taken string, err error) error {
	if key := db.DuplicateKey(err); key == "PRIMARY" || key == table+".id" || key == "audit.id" {
		return errs.New(errs.Internal, "internal", "an id was issued twice: "+table).WithCause(err)
	}
	if db.IsDuplicate(err) {
		return errs.Exists(taken).WithCause(err)
	}
	return db.Error(table, err)
}

// design locks a study's row until the transaction ends and refuses where its design may not change any more. Changes of one
// study therefore happen one after the other.
func design(tx *gorm.DB, study int64) error { return Mutable(tx, study) }

// Mutable locks a study's row until the transaction ends and refuses where its design may not change any more.
func Mutable(tx *gorm.DB, study int64) error {
	var r studyRow
	if err := db.ForUpdate(tx).Table("study").Select("id", "status").Where("id = ?", study).Take(&r).Error; err != nil {
		return db.Error("study", err)
	}
	st := Study{ID: r.ID, Status: r.Status}
	return st.mutable()
}

// room refuses one more row where a study has the most that it may have. The caller holds the lock of design.
func room(tx *gorm.DB, table, what string, study int64, most int) error {
	var n int64
	if err := tx.Table(table).Where("study_id = ?", study).Count(&n).Error; err != nil {
		return err
	}
	if n >= int64(most) {
		return errFull(what, most)
	}
	return nil
}

// Create writes a study, its creator's grant and the audit entries. A protocol number that is taken is errs.Conflict.
func (s *Store) Create(ctx context.Context, st Study, creator int64, entries ...audit.Entry) error {
	return written("study", "a study with this protocol number", s.Meta.Tx(ctx, func(tx *gorm.DB) error {
		err := db.Insert(tx, "study", append(studyColumns[:len(studyColumns):len(studyColumns)], "revision"), [][]any{{st.ID, st.Protocol, st.Title, st.Zone, st.Status, strings.Join(st.Languages, ","),
			st.ParticipantPin, st.Version, st.ScheduleVersion, db.Micros(st.CreatedAt), 0}})
		if err != nil {
			return err
		}
		if err := db.Insert(tx, "study_staff", staffColumns, [][]any{{st.ID, creator, string(auth.StudyManager), int64(0)}}); err != nil {
			return err
		}
		return changed(tx, st.ID, entries...)
	}))
}

// ByID returns a study.
func (s *Store) ByID(ctx context.Context, id int64) (Study, error) {
	var r studyRow
	err := s.Meta.Read(ctx).Table("study").Select(studyColumns).Where("id = ?", id).Take(&r).Error
	return r.study(), db.Error("study", err)
}

// Revision returns a number that grows with every change of a study's design, sites and questionnaires included.
func (s *Store) Revision(ctx context.Context, id int64) (int64, error) {
	return revision(s.Meta.Read(ctx), id)
}

func revision(tx *gorm.DB, study int64) (int64, error) {
	var r struct{ Revision int64 }
	err := tx.Table("study").Select("revision").Where("id = ?", study).Take(&r).Error
	return r.Revision, db.Error("study", err)
}

// ByProtocol returns a study by its protocol number.
func (s *Store) ByProtocol(ctx context.Context, protocol string) (Study, error) {
	var r studyRow
	err := s.Meta.Read(ctx).Table("study").Select(studyColumns).Where("protocol = ?", protocol).Take(&r).Error
	return r.study(), db.Error("study", err)
}

// Whose says whose studies are asked for.
type Whose struct {
	User int64
	All  bool // everybody's
}

// List returns at most limit studies by id, after a given one: those in which a user has a right, or all.
func (s *Store) List(ctx context.Context, whose Whose, after int64, limit int) ([]Study, error) {
	tx := s.Meta.Read(ctx).Table("study").Select(studyColumns).Where("id > ?", after)
	if !whose.All {
		tx = tx.Where("id IN (SELECT study_id FROM study_staff WHERE user_id = ?)", whose.User)
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
	return written("study", "study", s.Meta.Tx(ctx, func(tx *gorm.DB) error {
		return change(tx, was, map[string]any{"title": is.Title, "zone": is.Zone, "languages": strings.Join(is.Languages, ","),
			"participant_pin": is.ParticipantPin, "status": is.Status, "version": is.Version}, entry)
	}))
}

// change writes columns of a study that is still as it was read; whoever locks a study raises its version.
func change(tx *gorm.DB, was Study, columns map[string]any, entry audit.Entry) error {
	result := tx.Table("study").Where("id = ? AND version = ?", was.ID, was.Version).Updates(columns)
	if result.Error != nil {
		return result.Error
	}
	if result.RowsAffected != 1 {
		return errStale()
	}
	return changed(tx, was.ID, entry)
}

// changed ends every change of a study's design: the next revision, the audit entries, and the event that makes the shared
// cache forget older revisions. The event has the number of the first entry.
func changed(tx *gorm.DB, study int64, entries ...audit.Entry) error {
	if err := tx.Exec("UPDATE study SET revision = revision + 1 WHERE id = ?", study).Error; err != nil {
		return err
	}
	now, err := revision(tx, study)
	if err != nil {
		return err
	}
	if err := audit.Append(tx, entries...); err != nil {
		return err
	}
	return outbox.Add(tx, cache.Invalidation(entries[0].ID, designKey(study), now, entries[0].At))
}

// AddSite writes a site; a code that is taken is errs.Conflict.
func (s *Store) AddSite(ctx context.Context, study int64, site Site, entry audit.Entry) error {
	return s.addCoded(ctx, "site", "sites", maxSites, codedRow{site.ID, study, site.Code, site.Name}, entry)
}

// AddArm writes an arm; a code that is taken is errs.Conflict.
func (s *Store) AddArm(ctx context.Context, study int64, arm Arm, entry audit.Entry) error {
	return s.addCoded(ctx, "arm", "arms", maxArms, codedRow{arm.ID, study, arm.Code, arm.Name}, entry)
}

func (s *Store) addCoded(ctx context.Context, table, plural string, most int, r codedRow, entry audit.Entry) error {
	return written(table, "this code", s.Meta.Tx(ctx, func(tx *gorm.DB) error {
		if err := design(tx, r.StudyID); err != nil {
			return err
		}
		if err := room(tx, table, plural, r.StudyID, most); err != nil {
			return err
		}
		if err := db.Insert(tx, table, codedColumns, [][]any{{r.ID, r.StudyID, r.Code, r.Name}}); err != nil {
			return err
		}
		return changed(tx, r.StudyID, entry)
	}))
}

func (s *Store) coded(ctx context.Context, table string, study int64) ([]codedRow, error) {
	var rows []codedRow
	err := s.Meta.Read(ctx).Table(table).Select(codedColumns).Where("study_id = ?", study).Order("code").Limit(maxSites).Find(&rows).Error
	return rows, db.Error(table, err)
}

// Sites returns a study's sites by code.
func (s *Store) Sites(ctx context.Context, study int64) ([]Site, error) {
	var rows []struct {
		ID                       int64
		Code, Name, Email, Phone string
	}
	err := s.Meta.Read(ctx).Table("site").Select("id", "code", "name", "email", "phone").Where("study_id = ?", study).Order("code").Find(&rows).Error
	if err != nil {
		return nil, db.Error("sites", err)
	}
	out := make([]Site, len(rows))
	for i, r := range rows {
		out[i] = Site{r.ID, r.Code, r.Name, r.Email, r.Phone}
	}
	return out, nil
}

// SetSiteContact writes where a site is told; errs.NotFound if the study has no such site.
func (s *Store) SetSiteContact(ctx context.Context, study int64, site Site, entry audit.Entry) error {
	return db.Error("site", s.Meta.Tx(ctx, func(tx *gorm.DB) error {
		if err := design(tx, study); err != nil {
			return err
		}
		done := tx.Exec("UPDATE site SET email = ?, phone = ? WHERE study_id = ? AND id = ?", site.Email, site.Phone, study, site.ID)
		if done.Error != nil {
			return done.Error
		}
		if done.RowsAffected == 0 {
			return errs.Absent("site")
		}
		return changed(tx, study, entry)
	}))
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
	return db.Error("this right", s.Meta.Tx(ctx, func(tx *gorm.DB) error {
		if err := design(tx, study); err != nil {
			return err
		}
		if err := room(tx, "study_staff", "rights", study, maxGrants); err != nil {
			return err
		}
		if err := db.Insert(tx, "study_staff", staffColumns, [][]any{{study, g.User, string(g.Role), g.Site}}); err != nil {
			return err
		}
		return audit.Append(tx, entry)
	}))
}

// StaffOf returns everybody's rights in a study, without usernames.
func (s *Store) StaffOf(ctx context.Context, study int64) ([]StaffGrant, error) {
	var rows []staffRow
	err := s.Meta.Read(ctx).Table("study_staff").Select(staffColumns).Where("study_id = ?", study).Order("user_id, role, site_id").Limit(maxGrants).Find(&rows).Error
	out := make([]StaffGrant, len(rows))
	for i, r := range rows {
		out[i] = StaffGrant{User: r.UserID, Role: auth.Role(r.Role), Site: r.SiteID}
	}
	return out, db.Error("staff", err)
}

// PutSchedule writes the next version of the schedule and makes it the study's, if the study is still as it was read; else
// errs.Stale.
func (s *Store) PutSchedule(ctx context.Context, was Study, v ScheduleVersion, entry audit.Entry) error {
	body, err := json.Marshal(v.Design)
	if err != nil {
		return fmt.Errorf("schedule: %w", err)
	}
	return db.Error("schedule", s.Meta.Tx(ctx, func(tx *gorm.DB) error {
		if err := change(tx, was, map[string]any{"schedule_version": v.Version, "version": was.Version + 1}, entry); err != nil {
			return err
		}
		return db.Insert(tx, "schedule", []string{"study_id", "version", "from_at", "design", "created_by", "created_at"},
			[][]any{{was.ID, v.Version, micros(v.From), body, v.By, db.Micros(v.At)}})
	}))
}

// micros keeps the beginning as 0.
func micros(at time.Time) int64 {
	if at.IsZero() {
		return 0
	}
	return db.Micros(at)
}

type scheduleRow struct {
	Version, FromAt      int64
	Design               []byte
	CreatedBy, CreatedAt int64
}

// Schedules returns every version of a study's schedule, ascending.
func (s *Store) Schedules(ctx context.Context, study int64) ([]ScheduleVersion, error) {
	var rows []scheduleRow
	err := s.Meta.Read(ctx).Table("schedule").Select("version", "from_at", "design", "created_by", "created_at").Where("study_id = ?", study).
		Order("version").Limit(task.MaxVersions).Find(&rows).Error
	if err != nil {
		return nil, db.Error("schedule", err)
	}
	out := make([]ScheduleVersion, len(rows))
	for i, r := range rows {
		out[i] = ScheduleVersion{Version: r.Version, By: r.CreatedBy, At: db.Time(r.CreatedAt)}
		if r.FromAt != 0 {
			out[i].From = db.Time(r.FromAt)
		}
		if err := json.Unmarshal(r.Design, &out[i].Design); err != nil {
			return nil, errs.New(errs.Internal, "internal", "stored schedule is damaged").WithCause(err)
		}
	}
	return out, nil
}

// ActiveStudies returns the ids of the studies that are active.
func (s *Store) ActiveStudies(ctx context.Context) ([]int64, error) {
	var ids []int64
	err := s.Meta.Read(ctx).Table("study").Select("id").Where("status = ?", Active).Order("id").Limit(maxViews).Scan(&ids).Error
	return ids, db.Error("studies", err)
}
