// Package study decides what a trial is made of and when it may run: studies, sites, arms, staff rights, questionnaire
// versions and schedules. A published questionnaire version never changes; each schedule is a new version; an active study
// has a site and a schedule whose questionnaires are all active.
//
// Catalog is the view of all this that the way of a submission uses, from memory.
package study

import (
	"fmt"
	"net/mail"
	"regexp"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/eprod/eprod/internal/auth"
	"github.com/eprod/eprod/internal/errs"
	"github.com/eprod/eprod/internal/task"
)

// The status words of studies; questionnaires are Draft or Active.
const (
	Draft    = "draft"
	Active   = "active"
	Locked   = "locked"
	Archived = "archived"
)

// Whether participants must choose a PIN when they activate their account.
const (
	PinRequired = "required"
	PinOptional = "optional"
)

// Study is one clinical trial.
type Study struct {
	ID              int64
	Protocol        string // protocol number, unique
	Title           string
	Zone            string // IANA; default of its participants
	Status          string
	Languages       []string // BCP 47, first is the default
	ParticipantPin  string
	Version         int64 // for If-Match
	ScheduleVersion int64 // 0: no schedule yet
	CreatedAt       time.Time
}

// Site is a hospital or clinic that enrols participants.
type Site struct {
	ID           int64
	Code, Name   string
	Email, Phone string // where the site is told of what its participants have missed; may be empty
}

// Arm is a treatment arm.
type Arm struct {
	ID         int64
	Code, Name string
}

// StaffGrant is a right of a staff member in a study.
type StaffGrant struct {
	User     int64
	Username string
	Role     auth.Role
	Site     int64 // 0: every site
}

// Questionnaire is one version of a questionnaire, without its body.
type Questionnaire struct {
	ID, Study   int64
	URL         string
	Version     string
	Title       string
	Status      string
	SHA256      [32]byte
	CreatedAt   time.Time
	PublishedAt time.Time
}

// Canonical returns url|version.
func (q *Questionnaire) Canonical() string { return q.URL + "|" + q.Version }

// Bounds of one study. Lists within them are read and answered whole.
const (
	maxSites          = 2000
	maxArms           = 100
	maxGrants         = 10_000
	maxQuestionnaires = 5000 // versions
	maxLanguages      = 40
	languagesLength   = 500    // of all tags together, with a comma between them
	maxPreview        = 50_000 // windows that one dry run may look at
)

func textFinding(pointer, value string, most int) []errs.Finding {
	if n := utf8.RuneCountInString(strings.TrimSpace(value)); n == 0 || utf8.RuneCountInString(value) > most {
		return []errs.Finding{{Pointer: pointer, Code: "invalid_length", Detail: fmt.Sprintf("must have 1 to %d characters", most)}}
	}
	return nil
}

func codeFinding(pointer, code string, most int) []errs.Finding {
	ok := code != "" && len(code) <= most
	for _, r := range code {
		ok = ok && (r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("._-/", r))
	}
	if ok {
		return nil
	}
	return []errs.Finding{{Pointer: pointer, Code: "invalid_code", Detail: fmt.Sprintf("must be 1 to %d letters, digits, dots, underscores, hyphens or slashes", most)}}
}

// findings holds a study against the rules of its own fields.
func (s *Study) findings() []errs.Finding {
	out := slices.Concat(codeFinding("/protocol", s.Protocol, 64), textFinding("/title", s.Title, 500))
	if _, ok := zone(s.Zone); !ok {
		out = append(out, errs.Finding{Pointer: "/zone", Code: "unknown_zone", Detail: "must be an IANA time zone such as Asia/Shanghai"})
	}
	if len(s.Languages) == 0 || len(s.Languages) > maxLanguages || len(strings.Join(s.Languages, ",")) > languagesLength {
		out = append(out, errs.Finding{Pointer: "/languages", Code: "invalid_languages",
			Detail: fmt.Sprintf("must list 1 to %d language tags with at most %d characters together, the default first", maxLanguages, languagesLength)})
	}
	for i, l := range s.Languages {
		if !languageTag(l) || slices.Contains(s.Languages[:i], l) {
			out = append(out, errs.Finding{Pointer: fmt.Sprintf("/languages/%d", i), Code: "invalid_language", Detail: "must be a language tag such as en or zh-CN, listed once"})
		}
	}
	if s.ParticipantPin != PinRequired && s.ParticipantPin != PinOptional {
		out = append(out, errs.Finding{Pointer: "/settings/participantPin", Code: "invalid_setting", Detail: "must be required or optional"})
	}
	return out
}

// zone returns the zone of an IANA name.
func zone(name string) (*time.Location, bool) {
	z, err := task.LoadZone(name)
	return z, err == nil
}

// languageTag accepts the plain shape of a BCP 47 tag: subtags of 1 to 8 letters and digits, the first of 2 or 3 letters.
func languageTag(tag string) bool {
	for i, part := range strings.Split(tag, "-") {
		if len(part) == 0 || len(part) > 8 || i == 0 && (len(part) < 2 || len(part) > 3) {
			return false
		}
		for _, r := range part {
			if !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || i > 0 && r >= '0' && r <= '9') {
				return false
			}
		}
	}
	return len(tag) <= 35
}

var e164 = regexp.MustCompile(`^\+[1-9][0-9]{6,14}$`) // ITU-T E.164

// contactFindings holds the addresses of a site against their form; both may be empty.
func contactFindings(email, phone string) []errs.Finding {
	var out []errs.Finding
	if a, err := mail.ParseAddress(email); email != "" && (err != nil || a.Address != email || len(email) > 254) {
		out = append(out, errs.Finding{Pointer: "/email", Code: "invalid_email", Detail: "must be a mail address such as clinic@example.org, or empty"})
	}
	if phone != "" && !e164.MatchString(phone) {
		out = append(out, errs.Finding{Pointer: "/phone", Code: "invalid_phone", Detail: "must be an E.164 number such as +8613800138000, or empty"})
	}
	return out
}

func errLocked() *errs.Error {
	return errs.New(errs.Conflict, "study_locked", "the study takes no changes now")
}

func errStale() *errs.Error {
	return errs.New(errs.Stale, "stale", "somebody else changed it; read it again and repeat your change")
}

func errPublished() *errs.Error {
	return errs.New(errs.Conflict, "already_exists", "this version is published and cannot change; give the changed questionnaire a new version")
}

func errFull(what string, most int) *errs.Error {
	return errs.InvalidField(errs.Finding{Code: "too_many", Detail: fmt.Sprintf("a study has at most %d %s", most, what)})
}

func errUnknownVersion() *errs.Error {
	return errs.New(errs.Unprocessable, "invalid_response", "the questionnaire version is not active in this study").
		WithFindings([]errs.Finding{{Pointer: "/response/questionnaire", Expression: "QuestionnaireResponse.questionnaire",
			Code: "unknown_questionnaire", Detail: "must be the url|version that the task names"}})
}

func errNotReady(findings []errs.Finding) *errs.Error {
	return errs.New(errs.Unprocessable, "invalid_field", "the study cannot be published yet; see errors").WithFindings(findings)
}

// mutable reports whether the study's design may change.
func (s *Study) mutable() error {
	if s.Status == Draft || s.Status == Active {
		return nil
	}
	return errLocked()
}
