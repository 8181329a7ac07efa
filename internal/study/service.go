package study

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
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
	Create(ctx context.Context, s Study, creator int64, entries ...audit.Entry) error
	List(ctx context.Context, whose Whose, after int64, limit int) ([]Study, error)
	Update(ctx context.Context, was, is Study, entry audit.Entry) error
	AddSite(ctx context.Context, study int64, site Site, entry audit.Entry) error
	SetSiteContact(ctx context.Context, study int64, site Site, entry audit.Entry) error
	AddArm(ctx context.Context, study int64, arm Arm, entry audit.Entry) error
	AddGrant(ctx context.Context, study int64, g StaffGrant, entry audit.Entry) error
	StaffOf(ctx context.Context, study int64) ([]StaffGrant, error)
	PutQuestionnaire(ctx context.Context, q Questionnaire, body []byte, entry func(was *Questionnaire) audit.Entry) (Questionnaire, error)
	Publish(ctx context.Context, q Questionnaire, entry audit.Entry) error
	PutSchedule(ctx context.Context, was Study, v ScheduleVersion, entry audit.Entry) error
}

// Accounts finds staff accounts.
type Accounts interface {
	// Staff returns the id of the account with a username, or errs.NotFound.
	Staff(ctx context.Context, username string) (int64, error)
	// Usernames returns the names of accounts; an id without an account is absent from the map.
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

// Service designs studies. Every change is written with its audit entry and is seen by this process' Catalog at once. It is
// safe for concurrent use.
type Service struct{ Parts }

// New returns the service.
func New(parts Parts) *Service { return &Service{parts} }

// act is what every change has: who, when, an id for a new record, and two for audit entries.
type act struct {
	who         auth.Principal
	at          time.Time
	id          int64
	audit, also int64
	source      string
}

func (s *Service) begin(ctx context.Context, who auth.Principal) (act, error) {
	ids, err := s.IDs.NextN(3)
	if err != nil {
		return act{}, fmt.Errorf("ids: %w", err)
	}
	return act{who: who, at: s.Now().UTC().Truncate(time.Microsecond), id: ids[0], audit: ids[1], also: ids[2], source: web.RequestID(ctx)}, nil
}

func (a *act) entry(action, record string, recordID, study int64, before, after any) audit.Entry {
	return audit.Entry{ID: a.audit, At: a.at, Zone: "UTC", ActorKind: string(a.who.Kind), Actor: a.who.ID, Action: action, Record: record,
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
	st.ID, st.Status, st.Version, st.ScheduleVersion, st.CreatedAt = a.id, Draft, 1, 0, a.at
	grant := a.entry("staff.grant", "study_staff", who.ID, st.ID, nil, grantOf(StaffGrant{User: who.ID, Role: auth.StudyManager}))
	grant.ID = a.also
	err = s.Shelf.Create(ctx, st, who.ID, a.entry("study.create", "study", st.ID, st.ID, nil, auditedOf(st)), grant)
	s.Catalog.Forget(ctx, st.ID) // somebody may have asked for the id before it was given
	return st, err
}

// Get returns a study that the caller may see.
func (s *Service) Get(ctx context.Context, id int64) (Study, error) {
	if _, err := s.Guard.Study(ctx, id, auth.StudyRead); err != nil {
		return Study{}, err
	}
	return s.Shelf.ByID(ctx, id)
}

// List returns the studies after an id in which the caller has a right, all for an administrator.
func (s *Service) List(ctx context.Context, after int64, limit int) ([]Study, error) {
	who, err := auth.Staff(ctx)
	if err != nil {
		return nil, err
	}
	return s.Shelf.List(ctx, Whose{User: who.ID, All: who.Role == auth.Administrator}, after, limit)
}

// Change is what may change of a study; nil members stay.
type Change struct {
	Title, Zone, ParticipantPin *string
	Languages                   []string
}

func (c Change) apply(s Study) Study {
	set := func(to, from *string) {
		if from != nil {
			*to = *from
		}
	}
	set(&s.Title, c.Title)
	set(&s.Zone, c.Zone)
	set(&s.ParticipantPin, c.ParticipantPin)
	if c.Languages != nil {
		s.Languages = c.Languages
	}
	return s
}

// Update changes a study that still has the version; else errs.Stale.
func (s *Service) Update(ctx context.Context, id, version int64, c Change) (Study, error) {
	who, was, err := s.design(ctx, id, auth.StudyDesign)
	if err != nil {
		return Study{}, err
	}
	if was.Version != version {
		return Study{}, errStale()
	}
	is := c.apply(was)
	if f := is.findings(); len(f) > 0 {
		return Study{}, errs.InvalidField(f...)
	}
	return s.write(ctx, who, "study.update", was, is)
}

// write makes a study's next version of it.
func (s *Service) write(ctx context.Context, who auth.Principal, action string, was, is Study) (Study, error) {
	a, err := s.begin(ctx, who)
	if err != nil {
		return Study{}, err
	}
	is.Version = was.Version + 1
	err = s.Shelf.Update(ctx, was, is, a.entry(action, "study", is.ID, is.ID, auditedOf(was), auditedOf(is)))
	s.Catalog.Forget(ctx, is.ID)
	return is, err
}

// design returns the study after asking for the right, and refuses where nothing may change any more. The store looks again
// in its transaction.
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
	sites, err := s.Shelf.Sites(ctx, id)
	if err != nil {
		return Study{}, err
	}
	var missing []errs.Finding
	if len(sites) == 0 {
		missing = append(missing, errs.Finding{Pointer: "/sites", Code: "missing", Detail: "the study needs at least one site"})
	}
	if was.ScheduleVersion == 0 {
		missing = append(missing, errs.Finding{Pointer: "/schedule", Code: "missing", Detail: "the study needs a schedule"})
	}
	if len(missing) > 0 {
		return Study{}, errNotReady(missing)
	}
	schedule, err := s.current(ctx, was)
	if err != nil {
		return Study{}, err
	}
	if _, err := s.checked(ctx, id, was.ScheduleVersion, schedule.Design); err != nil {
		return Study{}, err
	}
	is := was
	is.Status = Active
	return s.write(ctx, who, "study.publish", was, is)
}

// AddSite adds a site; a code that is taken is errs.Conflict.
func (s *Service) AddSite(ctx context.Context, study int64, code, name string) (Site, error) {
	a, err := s.coded(ctx, study, code, name)
	if err != nil {
		return Site{}, err
	}
	site := Site{ID: a.id, Code: code, Name: name}
	err = s.Shelf.AddSite(ctx, study, site, a.entry("site.create", "site", a.id, study, nil, map[string]string{"code": code, "name": name}))
	s.Catalog.Forget(ctx, study)
	return site, err
}

// SetSiteContact says where a site is told of what its participants have missed; empty is nowhere.
func (s *Service) SetSiteContact(ctx context.Context, study, id int64, email, phone string) (Site, error) {
	who, _, err := s.design(ctx, study, auth.StudyDesign)
	if err != nil {
		return Site{}, err
	}
	if f := contactFindings(email, phone); len(f) > 0 {
		return Site{}, errs.InvalidField(f...)
	}
	sites, err := s.Shelf.Sites(ctx, study)
	if err != nil {
		return Site{}, err
	}
	i := slices.IndexFunc(sites, func(s Site) bool { return s.ID == id })
	if i < 0 {
		return Site{}, errs.Absent("site")
	}
	a, err := s.begin(ctx, who)
	if err != nil {
		return Site{}, err
	}
	site := sites[i]
	before := map[string]string{"email": site.Email, "phone": site.Phone}
	site.Email, site.Phone = email, phone
	err = s.Shelf.SetSiteContact(ctx, study, site, a.entry("site.contact", "site", id, study, before, map[string]string{"email": email, "phone": phone}))
	s.Catalog.Forget(ctx, study)
	return site, err
}

// AddArm adds an arm; a code that is taken is errs.Conflict.
func (s *Service) AddArm(ctx context.Context, study int64, code, name string) (Arm, error) {
	a, err := s.coded(ctx, study, code, name)
	if err != nil {
		return Arm{}, err
	}
	arm := Arm{a.id, code, name}
	err = s.Shelf.AddArm(ctx, study, arm, a.entry("arm.create", "arm", a.id, study, nil, map[string]string{"code": code, "name": name}))
	s.Catalog.Forget(ctx, study)
	return arm, err
}

// coded begins the change that adds something with a code and a name.
func (s *Service) coded(ctx context.Context, study int64, code, name string) (act, error) {
	who, _, err := s.design(ctx, study, auth.StudyDesign)
	if err != nil {
		return act{}, err
	}
	if f := append(codeFinding("/code", code, 32), textFinding("/name", name, 200)...); len(f) > 0 {
		return act{}, errs.InvalidField(f...)
	}
	return s.begin(ctx, who)
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

// AddStaff gives a staff member a role in the study, at one site (by code) or at all of them where site is empty. A right
// that is there already is errs.Conflict.
func (s *Service) AddStaff(ctx context.Context, study int64, username string, role auth.Role, site string) (StaffGrant, error) {
	who, _, err := s.design(ctx, study, auth.StudyStaff)
	if err != nil {
		return StaffGrant{}, err
	}
	g := StaffGrant{Username: username, Role: role}
	if !role.Granted() {
		return g, errs.InvalidField(errs.Finding{Pointer: "/role", Code: "invalid_role", Detail: "must be studyManager, dataManager, investigator, coordinator or monitor"})
	}
	g.User, err = s.Accounts.Staff(ctx, username)
	if errs.KindOf(err) == errs.NotFound {
		return g, errs.InvalidField(errs.Finding{Pointer: "/username", Code: "unknown_user", Detail: "must be the name of a staff account"})
	}
	if err == nil && site != "" {
		var found Site
		found, err = s.Catalog.Site(ctx, study, site)
		g.Site = found.ID
	}
	if errs.KindOf(err) == errs.NotFound {
		return g, errs.InvalidField(errs.Finding{Pointer: "/site", Code: "unknown_site", Detail: "must be the code of a site of this study"})
	}
	if err != nil {
		return g, err
	}
	a, err := s.begin(ctx, who)
	if err != nil {
		return g, err
	}
	return g, s.Shelf.AddGrant(ctx, study, g, a.entry("staff.grant", "study_staff", g.User, study, nil, grantOf(g)))
}

// grantOf is a right as the audit entry shows it.
func grantOf(g StaffGrant) map[string]string {
	return map[string]string{"user": strconv.FormatInt(g.User, 10), "role": string(g.Role), "site": strconv.FormatInt(g.Site, 10)}
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
