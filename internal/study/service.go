package study

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"strconv"
	"time"

	"github.com/eprod/eprod/internal/audit"
	"github.com/eprod/eprod/internal/auth"
	"github.com/eprod/eprod/internal/errs"
	"github.com/eprod/eprod/internal/questionnaire"
	"github.com/eprod/eprod/internal/task"
	"github.com/eprod/eprod/internal/web"
)

// Shelf keeps studies; see Store for the promises.
type Shelf interface {
	Reader
	Create(ctx context.Context, s Study, creator int64, entry audit.Entry) error
	List(ctx context.Context, user, after int64, limit int) ([]Study, error)
	Update(ctx context.Context, was, is Study, entry audit.Entry) error
	AddCoded(ctx context.Context, table string, study, id int64, code, name string, entry audit.Entry) error
	AddGrant(ctx context.Context, study int64, g StaffGrant, entry audit.Entry) error
	StaffOf(ctx context.Context, study int64) ([]StaffGrant, error)
	PutQuestionnaire(ctx context.Context, q Questionnaire, body []byte, entry func(was *Questionnaire) audit.Entry) (Questionnaire, error)
	Publish(ctx context.Context, q Questionnaire, at time.Time, entry audit.Entry) error
	PutSchedule(ctx context.Context, was Study, rules []task.Rule, author int64, at time.Time, entry audit.Entry) (int64, error)
}

// Accounts finds staff accounts.
type Accounts interface {
	Staff(ctx context.Context, username string) (int64, error)
	Usernames(ctx context.Context, ids []int64) (map[int64]string, error)
}

// IDs gives ascending Snowflake ids.
type IDs interface {
	NextN(n int) ([]int64, error)
}

// Parts are what the service needs. All are required.
type Parts struct {
	Shelf    Shelf
	Catalog  *Catalog
	Guard    auth.Guard
	Accounts Accounts
	Engine   *task.Engine
	IDs      IDs
	Limits   questionnaire.Limits
	Now      func() time.Time
}

// Service designs studies. It is safe for concurrent use.
type Service struct{ Parts }

// New returns the service.
func New(parts Parts) *Service { return &Service{parts} }

// act is what every change has: who, when, and ids for the record and its audit entry.
type act struct {
	who    auth.Principal
	at     time.Time
	ids    [2]int64
	source string
}

func (s *Service) begin(ctx context.Context, who auth.Principal) (act, error) {
	ids, err := s.IDs.NextN(2)
	if err != nil {
		return act{}, fmt.Errorf("ids: %w", err)
	}
	return act{who: who, at: s.Now().UTC().Truncate(time.Microsecond), ids: [2]int64{ids[0], ids[1]}, source: web.RequestID(ctx)}, nil
}

func (a *act) entry(action, record string, recordID, study int64, before, after any) audit.Entry {
	return audit.Entry{ID: a.ids[1], At: a.at, Zone: "UTC", ActorKind: string(a.who.Kind), Actor: a.who.ID, Action: action, Record: record,
		RecordID: recordID, Study: study, Old: object(before), New: object(after), Source: a.source}
}

// object encodes values that are made of strings, numbers and lists, which cannot fail.
func object(v any) []byte {
	if v == nil {
		return nil
	}
	b, _ := json.Marshal(v)
	return b
}

// audited is the part of a study that people change.
type audited struct {
	Protocol       string   `json:"protocol"`
	Title          string   `json:"title"`
	Zone           string   `json:"zone"`
	Languages      []string `json:"languages"`
	ParticipantPin string   `json:"participantPin"`
	Status         string   `json:"status"`
}

func auditedOf(s Study) audited {
	return audited{s.Protocol, s.Title, s.Zone, s.Languages, s.ParticipantPin, s.Status}
}

// Create makes a draft study and gives its creator the role of study manager in it.
func (s *Service) Create(ctx context.Context, st Study) (Study, error) {
	who, err := s.Guard.Global(ctx, auth.StudyCreate)
	if err != nil {
		return Study{}, err
	}
	if f := st.findings(); len(f) > 0 {
		return Study{}, errs.InvalidField(f...)
	}
	a, err := s.begin(ctx, who)
	if err != nil {
		return Study{}, err
	}
	st.ID, st.Status, st.Version, st.CreatedAt = a.ids[0], Draft, 1, a.at
	return st, s.Shelf.Create(ctx, st, who.ID, a.entry("study.create", "study", st.ID, st.ID, nil, auditedOf(st)))
}

// Get returns a study that the caller may see.
func (s *Service) Get(ctx context.Context, id int64) (Study, error) {
	if _, err := s.Guard.Study(ctx, id, auth.StudyRead); err != nil {
		return Study{}, err
	}
	return s.Shelf.ByID(ctx, id)
}

// List returns the studies in which the caller has a right, all for an administrator.
func (s *Service) List(ctx context.Context, after int64, limit int) ([]Study, error) {
	who, err := auth.Staff(ctx)
	if err != nil {
		return nil, err
	}
	user := who.ID
	if who.Role == auth.Administrator {
		user = 0
	}
	return s.Shelf.List(ctx, user, after, limit)
}

// Change is what may change of a study; nil members stay.
type Change struct {
	Title, Zone, ParticipantPin *string
	Languages                   []string
}

// Update changes a study that still has the version.
func (s *Service) Update(ctx context.Context, id, version int64, c Change) (Study, error) {
	who, was, err := s.design(ctx, id, auth.StudyDesign)
	if err != nil {
		return Study{}, err
	}
	if was.Version != version {
		return Study{}, errStale()
	}
	is := was
	for from, to := range map[*string]*string{c.Title: &is.Title, c.Zone: &is.Zone, c.ParticipantPin: &is.ParticipantPin} {
		if from != nil {
			*to = *from
		}
	}
	if c.Languages != nil {
		is.Languages = c.Languages
	}
	if f := is.findings(); len(f) > 0 {
		return Study{}, errs.InvalidField(f...)
	}
	is.Version++
	a, err := s.begin(ctx, who)
	if err != nil {
		return Study{}, err
	}
	err = s.Shelf.Update(ctx, was, is, a.entry("study.update", "study", id, id, auditedOf(was), auditedOf(is)))
	s.Catalog.Forget(id)
	return is, err
}

// design returns the study after asking for the right, and refuses where nothing may change any more.
func (s *Service) design(ctx context.Context, id int64, action auth.Action) (auth.Principal, Study, error) {
	who, err := s.Guard.Study(ctx, id, action)
	if err != nil {
		return auth.Principal{}, Study{}, err
	}
	st, err := s.Shelf.ByID(ctx, id)
	if err != nil {
		return auth.Principal{}, Study{}, err
	}
	return who, st, st.mutable()
}

// Publish makes a draft study active: it needs a site and a schedule whose questionnaires are active. An active study
// stays active.
func (s *Service) Publish(ctx context.Context, id int64) (Study, error) {
	who, was, err := s.design(ctx, id, auth.StudyPublish)
	if err != nil || was.Status == Active {
		return was, err
	}
	var missing []errs.Finding
	sites, err := s.Shelf.Sites(ctx, id)
	if err != nil {
		return Study{}, err
	}
	if len(sites) == 0 {
		missing = append(missing, errs.Finding{Pointer: "/sites", Code: "missing", Detail: "the study needs at least one site"})
	}
	if was.ScheduleVersion == 0 {
		missing = append(missing, errs.Finding{Pointer: "/schedule", Code: "missing", Detail: "the study needs a schedule"})
	}
	if len(missing) > 0 {
		return Study{}, errNotReady(missing)
	}
	is := was
	is.Status = Active
	is.Version++
	a, err := s.begin(ctx, who)
	if err != nil {
		return Study{}, err
	}
	err = s.Shelf.Update(ctx, was, is, a.entry("study.publish", "study", id, id, auditedOf(was), auditedOf(is)))
	s.Catalog.Forget(id)
	return is, err
}

// AddSite adds a site; a code that is taken is errs.Conflict.
func (s *Service) AddSite(ctx context.Context, study int64, code, name string) (Site, error) {
	id, err := s.addCoded(ctx, "site", study, code, name)
	return Site{id, code, name}, err
}

// AddArm adds an arm; a code that is taken is errs.Conflict.
func (s *Service) AddArm(ctx context.Context, study int64, code, name string) (Arm, error) {
	id, err := s.addCoded(ctx, "arm", study, code, name)
	return Arm{id, code, name}, err
}

func (s *Service) addCoded(ctx context.Context, table string, study int64, code, name string) (int64, error) {
	who, _, err := s.design(ctx, study, auth.StudyDesign)
	if err != nil {
		return 0, err
	}
	if f := append(codeFinding("/code", code, 32), textFinding("/name", name, 200)...); len(f) > 0 {
		return 0, errs.InvalidField(f...)
	}
	a, err := s.begin(ctx, who)
	if err != nil {
		return 0, err
	}
	after := map[string]string{"code": code, "name": name}
	err = s.Shelf.AddCoded(ctx, table, study, a.ids[0], code, name, a.entry(table+".create", table, a.ids[0], study, nil, after))
	s.Catalog.Forget(study)
	return a.ids[0], err
}

// Sites lists a study's sites.
func (s *Service) Sites(ctx context.Context, study int64) ([]Site, error) {
	if _, err := s.Guard.Study(ctx, study, auth.StudyRead); err != nil {
		return nil, err
	}
	return s.Shelf.Sites(ctx, study)
}

// Arms lists a study's arms.
func (s *Service) Arms(ctx context.Context, study int64) ([]Arm, error) {
	if _, err := s.Guard.Study(ctx, study, auth.StudyRead); err != nil {
		return nil, err
	}
	return s.Shelf.Arms(ctx, study)
}

// AddStaff gives a staff member a role in the study, at one site (by code) or at all.
func (s *Service) AddStaff(ctx context.Context, study int64, username string, role auth.Role, site string) (StaffGrant, error) {
	who, _, err := s.design(ctx, study, auth.StudyStaff)
	if err != nil {
		return StaffGrant{}, err
	}
	g := StaffGrant{Username: username, Role: role}
	if !role.Granted() {
		return g, errs.InvalidField(errs.Finding{Pointer: "/role", Code: "invalid_role", Detail: "must be studyManager, dataManager, investigator, coordinator or monitor"})
	}
	if g.User, err = s.Accounts.Staff(ctx, username); err != nil {
		if errs.KindOf(err) == errs.NotFound {
			err = errs.InvalidField(errs.Finding{Pointer: "/username", Code: "unknown_user", Detail: "must be the name of a staff account"})
		}
		return g, err
	}
	if site != "" {
		found, err := s.Catalog.Site(ctx, study, site)
		if err != nil {
			return g, errs.InvalidField(errs.Finding{Pointer: "/site", Code: "unknown_site", Detail: "must be the code of a site of this study"})
		}
		g.Site = found.ID
	}
	a, err := s.begin(ctx, who)
	if err != nil {
		return g, err
	}
	after := map[string]string{"user": strconv.FormatInt(g.User, 10), "role": string(role), "site": strconv.FormatInt(g.Site, 10)}
	return g, s.Shelf.AddGrant(ctx, study, g, a.entry("staff.grant", "study_staff", g.User, study, nil, after))
}

// Staff lists everybody's rights in a study.
func (s *Service) Staff(ctx context.Context, study int64) ([]StaffGrant, error) {
	if _, err := s.Guard.Study(ctx, study, auth.StudyStaff); err != nil {
		return nil, err
	}
	grants, err := s.Shelf.StaffOf(ctx, study)
	if err != nil {
		return nil, err
	}
	ids := make([]int64, len(grants))
	for i, g := range grants {
		ids[i] = g.User
	}
	names, err := s.Accounts.Usernames(ctx, ids)
	for i := range grants {
		grants[i].Username = names[grants[i].User]
	}
	return grants, err
}

// ImportQuestionnaire checks a FHIR R4 Questionnaire and keeps it as a draft version. What cannot be enforced on answers is
// refused with findings. The same bytes again are the same version.
func (s *Service) ImportQuestionnaire(ctx context.Context, study int64, body []byte) (Questionnaire, error) {
	who, _, err := s.design(ctx, study, auth.StudyDesign)
	if err != nil {
		return Questionnaire{}, err
	}
	d, findings := questionnaire.Compile(body, s.Limits)
	if len(findings) > 0 {
		return Questionnaire{}, errs.New(errs.Unprocessable, "invalid_questionnaire", "the questionnaire cannot be used; see errors").WithFindings(findings)
	}
	a, err := s.begin(ctx, who)
	if err != nil {
		return Questionnaire{}, err
	}
	q := Questionnaire{ID: a.ids[0], Study: study, URL: d.URL(), Version: d.Version(), Title: d.Title(), Status: Draft,
		SHA256: sha256.Sum256(body), CreatedAt: a.at}
	q, err = s.Shelf.PutQuestionnaire(ctx, q, body, func(was *Questionnaire) audit.Entry {
		if was == nil {
			return a.entry("questionnaire.import", "questionnaire", q.ID, study, nil, versionOf(&q))
		}
		return a.entry("questionnaire.replace", "questionnaire", was.ID, study, versionOf(was), versionOf(&q))
	})
	s.Catalog.Forget(study)
	return q, err
}

func versionOf(q *Questionnaire) map[string]string {
	return map[string]string{"url": q.URL, "version": q.Version, "status": q.Status, "sha256": hex.EncodeToString(q.SHA256[:])}
}

// PublishQuestionnaire makes a draft version active; from then on it never changes.
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
	if _, findings := questionnaire.Compile(body, s.Limits); len(findings) > 0 {
		return Questionnaire{}, errs.New(errs.Unprocessable, "invalid_questionnaire", "the questionnaire cannot be published; see errors").WithFindings(findings)
	}
	a, err := s.begin(ctx, who)
	if err != nil {
		return Questionnaire{}, err
	}
	before := versionOf(&q)
	q.Status, q.PublishedAt = Active, a.at
	err = s.Shelf.Publish(ctx, q, a.at, a.entry("questionnaire.publish", "questionnaire", id, study, before, versionOf(&q)))
	s.Catalog.Forget(study)
	return q, err
}

// Questionnaires lists a study's versions.
func (s *Service) Questionnaires(ctx context.Context, study int64) ([]Questionnaire, error) {
	if _, err := s.Guard.Study(ctx, study, auth.StudyRead); err != nil {
		return nil, err
	}
	return s.Shelf.Questionnaires(ctx, study)
}

// Served returns a published version to a participant of its study or to staff who may read it.
func (s *Service) Served(ctx context.Context, id int64) (Published, error) {
	who, ok := auth.From(ctx)
	if !ok {
		return Published{}, errs.NoCredentials("sign in to read questionnaires")
	}
	p, err := s.Catalog.Published(ctx, id)
	if err != nil {
		return Published{}, err
	}
	if who.Kind == auth.KindParticipant {
		if who.Study != p.Study {
			return Published{}, errs.Absent("questionnaire")
		}
		return p, nil
	}
	_, err = s.Guard.Study(ctx, p.Study, auth.StudyRead)
	return p, err
}

// PutSchedule checks rules and makes them the study's next schedule version.
func (s *Service) PutSchedule(ctx context.Context, study int64, rules []task.Rule) (task.Schedule, error) {
	who, was, err := s.design(ctx, study, auth.StudyDesign)
	if err != nil {
		return task.Schedule{}, err
	}
	schedule, err := s.checked(ctx, study, was.ScheduleVersion+1, rules)
	if err != nil {
		return task.Schedule{}, err
	}
	a, err := s.begin(ctx, who)
	if err != nil {
		return task.Schedule{}, err
	}
	before := map[string]int64{"version": was.ScheduleVersion}
	after := map[string]any{"version": schedule.Version, "rules": schedule.Rules}
	_, err = s.Shelf.PutSchedule(ctx, was, schedule.Rules, who.ID, a.at, a.entry("schedule.put", "schedule", study, study, before, after))
	s.Catalog.Forget(study)
	return schedule, err
}

// checked holds rules against what the study has.
func (s *Service) checked(ctx context.Context, study, version int64, rules []task.Rule) (task.Schedule, error) {
	arms, err := s.Shelf.Arms(ctx, study)
	if err != nil {
		return task.Schedule{}, err
	}
	list, err := s.Shelf.Questionnaires(ctx, study)
	if err != nil {
		return task.Schedule{}, err
	}
	schedule, findings := task.NewSchedule(version, rules, task.Known{
		Arm: func(code string) bool {
			for _, a := range arms {
				if a.Code == code {
					return true
				}
			}
			return false
		},
		Questionnaire: func(canonical string) bool {
			for i := range list {
				if list[i].Status == Active && list[i].Canonical() == canonical {
					return true
				}
			}
			return false
		},
	})
	if len(findings) > 0 {
		return task.Schedule{}, errs.New(errs.Unprocessable, "invalid_schedule", "the schedule breaks a rule; see errors").WithFindings(findings)
	}
	return schedule, nil
}

// Schedule returns a study's current schedule; errs.NotFound where there is none.
func (s *Service) Schedule(ctx context.Context, study int64) (task.Schedule, error) {
	if _, err := s.Guard.Study(ctx, study, auth.StudyRead); err != nil {
		return task.Schedule{}, err
	}
	st, err := s.Shelf.ByID(ctx, study)
	if err != nil {
		return task.Schedule{}, err
	}
	rules, err := s.Shelf.Rules(ctx, study, st.ScheduleVersion)
	return task.Schedule{Version: st.ScheduleVersion, Rules: rules}, err
}

// Preview computes the tasks of an imagined participant by given rules, or by the current ones where there are none.
func (s *Service) Preview(ctx context.Context, study int64, rules []task.Rule, p task.Person, from, to time.Time) ([]task.Task, error) {
	current, err := s.Schedule(ctx, study)
	if rules == nil {
		rules = current.Rules
	} else if errs.KindOf(err) == errs.NotFound {
		_, err = s.Guard.Study(ctx, study, auth.StudyRead) // no schedule yet, or no such study for the caller
	}
	if err != nil {
		return nil, err
	}
	schedule, err := s.checked(ctx, study, current.Version+1, rules)
	if err != nil {
		return nil, err
	}
	if !from.Before(to) || to.Sub(from) > task.MaxRange {
		return nil, errs.InvalidField(errs.Finding{Pointer: "/to", Code: "invalid_range", Detail: "must be after from and at most 400 days later"})
	}
	p.ID, p.Study = 1, study
	return s.Engine.Generate(schedule, p, from, to), nil
}
