package participant

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/eprod/eprod/internal/audit"
	"github.com/eprod/eprod/internal/auth"
	"github.com/eprod/eprod/internal/errs"
	"github.com/eprod/eprod/internal/study"
)

// Studies knows what studies are made of; what does not exist is errs.NotFound.
type Studies interface {
	Study(ctx context.Context, id int64) (study.Study, error)
	StudyByProtocol(ctx context.Context, protocolOrID string) (study.Study, error)
	Site(ctx context.Context, study int64, code string) (study.Site, error)
	SiteByID(ctx context.Context, study, id int64) (study.Site, error)
	Arm(ctx context.Context, study int64, code string) (study.Arm, error)
	Arms(ctx context.Context, study int64) ([]study.Arm, error)
}

// Shelf keeps participants; see Store for the promises.
type Shelf interface {
	Records
	Reserve(ctx context.Context, study int64, proposed map[string]int64) (map[string]int64, error)
	IDByNumber(ctx context.Context, study int64, number string) (int64, error)
	Existing(ctx context.Context, ids []int64) (map[int64]bool, error)
	Enrol(ctx context.Context, newcomers []*Newcomer) map[int64]error
	Page(ctx context.Context, study int64, sites []int64, after int64, limit int) ([]*Participant, error)
	Update(ctx context.Context, was, is *Participant, entry audit.Entry, ended func(given []string) (audit.Entry, error)) error
	Renew(ctx context.Context, participant int64, hash [32]byte, entry audit.Entry) error
	Contacts(ctx context.Context, ids []int64) (map[int64]*SealedContact, error)
	PutContact(ctx context.Context, is SealedContact, at time.Time, entry audit.Entry) error
	Record(ctx context.Context, participant int64) (SealedRecord, error)
	RecordHistory(ctx context.Context, participant, before int64, limit int) ([]SealedRecord, error)
	FenceRecord(ctx context.Context, participant, fence int64) error
	PutRecord(ctx context.Context, was int64, is SealedRecord, fence int64, entry audit.Entry) error
}

// NewKeys makes the data key of a newcomer, and opens it.
type NewKeys interface {
	Keys
	NewDataKey(owner int64) (wrapped []byte, err error)
}

// IDs gives ascending Snowflake ids; it refuses rather than repeat one.
type IDs interface {
	NextN(n int) ([]int64, error)
}

// Parts are what the service needs. All are required.
type Parts struct {
	Shelf    Shelf
	Studies  Studies
	Guard    auth.Guard
	Profiles *Profiles
	Keys     NewKeys
	IDs      IDs
	Random   io.Reader
	Now      func() time.Time
	Locks    Locks
	Staff    Names
	Logger   *slog.Logger
	// PublicURL is where participants reach the server; activation links begin with it.
	PublicURL string
}

// Service enrols participants and keeps their records. It is safe for concurrent use.
type Service struct {
	Parts
	config  Config
	imports chan struct{} // one token per import that runs
}

// New returns the service.
func New(config Config, parts Parts) *Service {
	return &Service{Parts: parts, config: config, imports: make(chan struct{}, config.Imports)}
}

// The actions in the audit trail.
const (
	actionEnrol  = "participant.enrol"
	actionUpdate = "participant.update"
	actionRenew  = "participant.activation"
)

// desk is a study at the moment of an enrolment, and what the caller may do there.
type desk struct {
	by     auth.Principal
	about  study.Study
	sites  []int64 // where the caller may enrol
	all    bool    // everywhere
	arms   bool    // the study has arms
	source string
}

func (d *desk) covers(site int64) bool { return d.all || slices.Contains(d.sites, site) }

// desk refuses callers without the right and studies that take no changes.
func (s *Service) desk(ctx context.Context, id int64, a auth.Action, source string) (*desk, error) {
	sites, all, err := s.Guard.Sites(ctx, id, a)
	if err != nil {
		return nil, err
	}
	about, err := s.Studies.Study(ctx, id)
	if err != nil {
		return nil, err
	}
	if about.Status != study.Draft && about.Status != study.Active {
		return nil, errClosed()
	}
	arms, err := s.Studies.Arms(ctx, id)
	by, _ := auth.From(ctx)
	return &desk{by: by, about: about, sites: sites, all: all, arms: len(arms) > 0, source: source}, err
}

// Get returns a participant that the caller may see, with the code of its site.
func (s *Service) Get(ctx context.Context, study, id int64) (*Participant, string, error) {
	p, err := s.visible(ctx, study, id, auth.ParticipantRead)
	if err != nil {
		return nil, "", err
	}
	site, err := s.Studies.SiteByID(ctx, study, p.Site)
	return p, site.Code, err
}

func (s *Service) visible(ctx context.Context, study, id int64, a auth.Action) (*Participant, error) {
	sites, all, err := s.Guard.Sites(ctx, study, a)
	if err != nil {
		return nil, err
	}
	found, err := s.Shelf.ByID(ctx, []int64{id})
	if err != nil {
		return nil, err
	}
	p := found[id]
	if p == nil || p.Study != study || !all && !slices.Contains(sites, p.Site) {
		return nil, errs.Absent("participant")
	}
	return p, nil
}

// List returns up to limit participants of the sites that the caller may see, with ids above after and in id order, the codes
// of their sites, and whether there are more.
func (s *Service) List(ctx context.Context, study, after int64, limit int) (page []*Participant, codes map[int64]string, more bool, err error) {
	sites, all, err := s.Guard.Sites(ctx, study, auth.ParticipantRead)
	if err != nil {
		return nil, nil, false, err
	}
	if all {
		sites = nil
	}
	if page, err = s.Shelf.Page(ctx, study, sites, after, limit+1); err != nil {
		return nil, nil, false, err
	}
	if more = len(page) > limit; more {
		page = page[:limit]
	}
	codes = make(map[int64]string)
	for _, p := range page {
		if _, known := codes[p.Site]; known {
			continue
		}
		site, err := s.Studies.SiteByID(ctx, study, p.Site)
		if err != nil {
			return nil, nil, false, fmt.Errorf("site of a participant: %w", err)
		}
		codes[p.Site] = site.Code
	}
	return page, codes, more, nil
}

// Update changes a participant whose version is still the one that the caller edited, else errs.Stale. A new zone applies
// from now on; what was due before stays where it was.
func (s *Service) Update(ctx context.Context, study, id, version int64, c Change, source string) (*Participant, string, error) {
	if _, err := s.visible(ctx, study, id, auth.ParticipantRead); err != nil {
		return nil, "", err
	}
	d, err := s.desk(ctx, study, auth.ParticipantUpdate, source)
	if err != nil {
		return nil, "", err
	}
	was, err := s.visible(ctx, study, id, auth.ParticipantUpdate)
	if err != nil {
		return nil, "", err
	}
	if was.Version != version {
		return nil, "", errStale()
	}
	is, err := s.changed(ctx, d, was, c)
	if err != nil {
		return nil, "", err
	}
	entry, err := s.entry(d, was, actionUpdate, c.Reason)
	if err != nil {
		return nil, "", err
	}
	if entry.Old, entry.New, err = difference(was, is); err != nil {
		return nil, "", err
	}
	ended, err := s.consentsEnd(d, was, c.Reason)
	if err != nil {
		return nil, "", err
	}
	if err := s.Shelf.Update(ctx, was, is, entry, ended); err != nil {
		return nil, "", err
	}
	s.Profiles.Forget(id)
	site, err := s.Studies.SiteByID(ctx, study, is.Site)
	return is, site.Code, err
}

// changed applies a change to a copy, or returns every finding.
func (s *Service) changed(ctx context.Context, d *desk, was *Participant, c Change) (*Participant, error) {
	is := *was
	is.Version++
	anchors, findings := withoutAnchors(was.Anchors, c.Taken)
	is.Anchors, findings = readAnchors(anchors, c.Anchors, findings)
	if c.Zone != nil && *c.Zone != was.Zone {
		findings = append(findings, zoneFindings(*c.Zone)...)
		is.Zone = *c.Zone
	}
	if c.Language != nil {
		findings = append(findings, languageFindings(*c.Language, d.about.Languages)...)
		is.Language = *c.Language
	}
	if c.Status != nil {
		findings = append(findings, statusFindings(was.Status, *c.Status)...)
		is.Status = *c.Status
	}
	if len(c.Reason) > maxReason {
		findings = append(findings, errs.Finding{Pointer: "/reason", Code: "too_long", Detail: fmt.Sprintf("must be at most %d bytes", maxReason)})
	}
	var err error
	if c.Site != nil {
		is.Site, findings, err = s.site(ctx, d, *c.Site, findings)
	}
	if err == nil && c.Arm != nil {
		is.Arm = *c.Arm
		findings, err = s.arm(ctx, d, *c.Arm, findings)
	}
	findings = append(findings, is.since(was, was.follows(s.instant()))...)
	if err == nil && len(findings) > 0 {
		err = errs.InvalidField(findings...)
	}
	return &is, err
}

func (s *Service) site(ctx context.Context, d *desk, code string, findings []errs.Finding) (int64, []errs.Finding, error) {
	site, err := s.Studies.Site(ctx, d.about.ID, code)
	switch {
	case err != nil && errs.KindOf(err) != errs.NotFound:
		return 0, findings, err
	case err != nil:
		return 0, append(findings, errs.Finding{Pointer: "/site", Code: "unknown_site", Detail: "must be the code of a site of the study"}), nil
	case !d.covers(site.ID):
		return 0, findings, errs.NotAllowed("you have no right to this at that site")
	}
	return site.ID, findings, nil
}

func (s *Service) arm(ctx context.Context, d *desk, code string, findings []errs.Finding) ([]errs.Finding, error) {
	if code == "" && !d.arms {
		return findings, nil
	}
	if code != "" {
		_, err := s.Studies.Arm(ctx, d.about.ID, code)
		if err == nil || errs.KindOf(err) != errs.NotFound {
			return findings, err
		}
	}
	return append(findings, errs.Finding{Pointer: "/arm", Code: "unknown_arm", Detail: "must be the code of an arm of the study"}), nil
}

// Lookup finds a participant by its number in a study, named by id or protocol number; errs.NotFound if there is none.
func (s *Service) Lookup(ctx context.Context, study, number string) (participant, studyID int64, err error) {
	about, err := s.Studies.StudyByProtocol(ctx, study)
	if err != nil {
		return 0, 0, err
	}
	id, err := s.Shelf.IDByNumber(ctx, about.ID, number)
	return id, about.ID, err
}

// Number returns a participant's study and number, and leaves its profile in memory for the requests that follow.
func (s *Service) Number(ctx context.Context, participant int64) (studyID int64, number string, err error) {
	return s.Profiles.Number(ctx, participant)
}

// Activated tells this process that a participant has signed in for the first time.
func (s *Service) Activated(participant int64) { s.Profiles.activated(participant) }

// Self is what a participant is told about itself. The arm is not: it may be blinded.
type Self struct {
	Profile *Profile
	Study   study.Study
	Zone    string // that applies now
}

// Me returns the calling participant.
func (s *Service) Me(ctx context.Context) (Self, error) {
	who, err := auth.Participant(ctx)
	if err != nil {
		return Self{}, err
	}
	p, err := s.Profiles.Get(ctx, who.ID)
	if err != nil {
		return Self{}, err
	}
	about, err := s.Studies.Study(ctx, p.Study)
	return Self{Profile: p, Study: about, Zone: p.Zone(s.Now())}, err
}

func (s *Service) entry(d *desk, p *Participant, action, reason string) (audit.Entry, error) {
	ids, err := s.IDs.NextN(1)
	if err != nil {
		return audit.Entry{}, fmt.Errorf("id of an audit entry: %w", err)
	}
	return audit.Entry{ID: ids[0], At: s.instant(), Zone: d.about.Zone, ActorKind: string(d.by.Kind), Actor: d.by.ID, Action: action,
		Record: "participant", RecordID: p.ID, Study: p.Study, Participant: p.ID, Reason: reason, Source: d.source}, nil
}

// instant is now as the databases keep it.
func (s *Service) instant() time.Time { return s.Now().UTC().Truncate(time.Microsecond) }

// audited is what the audit trail keeps of a participant: codes and dates of the protocol, nothing that names the person.
type audited struct {
	Number   string            `json:"number,omitempty"`
	Site     string            `json:"site,omitempty"` // id
	Arm      string            `json:"arm,omitempty"`
	Zone     string            `json:"zone,omitempty"`
	Language string            `json:"language,omitempty"`
	Status   string            `json:"status,omitempty"`
	Anchors  map[string]string `json:"anchors,omitempty"`
	Contact  []string          `json:"contact,omitempty"` // which members were stated at enrolment
	Consents map[string]bool   `json:"consents,omitempty"`
}

func auditedOf(p *Participant) audited {
	a := audited{Number: p.Number, Site: fmt.Sprint(p.Site), Arm: p.Arm, Zone: p.Zone, Language: p.Language, Status: p.Status, Anchors: make(map[string]string)}
	for event, date := range p.Anchors {
		a.Anchors[event] = date.String()
	}
	return a
}

// difference returns the old and the new values of what changed.
func difference(was, is *Participant) (before, after []byte, err error) {
	a, b := auditedOf(was), auditedOf(is)
	for _, same := range [][2]*string{{&a.Number, &b.Number}, {&a.Site, &b.Site}, {&a.Arm, &b.Arm}, {&a.Zone, &b.Zone},
		{&a.Language, &b.Language}, {&a.Status, &b.Status}} {
		if *same[0] == *same[1] {
			*same[0], *same[1] = "", ""
		}
	}
	maps.DeleteFunc(b.Anchors, func(event, date string) bool {
		if a.Anchors[event] == date {
			delete(a.Anchors, event)
			return true
		}
		return false
	})
	if before, err = json.Marshal(a); err == nil {
		after, err = json.Marshal(b)
	}
	return before, after, err
}

func (s *Service) link(code string) string {
	return strings.TrimRight(s.PublicURL, "/") + "/activate#" + code
}
