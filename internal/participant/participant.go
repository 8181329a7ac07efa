// Package participant decides who takes part in a study: enrolment one by one and by file, what a participant's record
// holds, how it may be changed, and the profile that the rest of the server works with.
//
// A participant number is unique in its study. Numbers stand in one table of the metadata database and are written first;
// the participant itself lives on the shard of its bucket. A number whose participant is missing, because the process ended
// between the two writes, is completed by enrolling the same number again.
package participant

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/eprod/eprod/internal/errs"
	"github.com/eprod/eprod/internal/task"
)

// The status words of a participant.
const (
	Enrolled     = "enrolled"  // has an activation code that was not used
	ActiveStatus = "active"    // has signed in at least once
	Withdrawn    = "withdrawn" // has left the study: no sign-in, no submission; final
)

// Enrolment is what staff state about a new participant.
type Enrolment struct {
	Number   string
	Site     string            // code
	Arm      string            // code; empty only in a study without arms
	Zone     string            // IANA name; empty means the study's
	Language string            // one of the study's; empty means its first
	Anchors  map[string]string // event → local date YYYY-MM-DD
	Contact  Contact           // its version says nothing here
}

// Participant is the record of one participant. Treat it as immutable.
type Participant struct {
	ID, Study, Site                     int64
	Number, Arm, Zone, Language, Status string
	Anchors                             map[string]task.Date
	Zones                               []task.ZoneChange // ascending; the first applies from the beginning
	Earlier                             []task.Facts      // what arm and anchors were before, ascending
	Left                                time.Time         // when the participant left the study; zero: has not
	WrappedKey                          []byte            // data key of the participant, wrapped by the keyring
	Version                             int64             // 1 after enrolment
	CreatedAt                           time.Time
}

// Person is the participant as the schedule engine sees it.
func (p *Participant) Person() task.Person {
	return task.Person{ID: p.ID, Study: p.Study, Arm: p.Arm, Anchors: p.Anchors, Earlier: p.Earlier, Zones: p.Zones, Left: p.Left}
}

// Change is what staff change about a participant; nil and empty members stay as they are.
type Change struct {
	Site     *string // code
	Arm      *string // code
	Zone     *string // IANA name; applies from now on
	Language *string
	Status   *string           // only Withdrawn can be asked for
	Anchors  map[string]string // event → local date, set or replaced
	Taken    []string          // events that have no date from now on
	Reason   string
}

const (
	maxNumber  = 32
	maxAnchors = 32
	maxAnchor  = 64
	maxReason  = 500

	// EnrolmentAnchor is the event that every participant has: the local date of enrolment unless staff state another.
	EnrolmentAnchor = "enrolment"
)

// numberFindings holds a participant number against its form.
func numberFindings(number string) []errs.Finding {
	n := utf8.RuneCountInString(number)
	ok := n > 0 && n <= maxNumber && utf8.ValidString(number)
	for _, r := range number {
		ok = ok && (unicode.IsLetter(r) || unicode.IsDigit(r) || strings.ContainsRune("._-/", r))
	}
	if ok {
		return nil
	}
	return []errs.Finding{{Pointer: "/number", Code: "invalid_number",
		Detail: fmt.Sprintf("must be 1 to %d letters, digits, dots, underscores, hyphens or slashes", maxNumber)}}
}

// zoneFindings refuses everything but a zone of the IANA database.
func zoneFindings(zone string) []errs.Finding {
	if task.KnownZone(zone) {
		return nil
	}
	return []errs.Finding{{Pointer: "/zone", Code: "unknown_zone", Detail: "must be an IANA time zone such as Europe/Berlin or Asia/Shanghai"}}
}

func languageFindings(language string, known []string) []errs.Finding {
	if slices.Contains(known, language) {
		return nil
	}
	return []errs.Finding{{Pointer: "/language", Code: "unknown_language", Detail: "must be a language of the study: " + strings.Join(known, ", ")}}
}

// readAnchors adds the stated dates to those that are there already, and what is wrong with them to findings.
func readAnchors(there map[string]task.Date, stated map[string]string, findings []errs.Finding) (map[string]task.Date, []errs.Finding) {
	out := maps.Clone(there)
	if out == nil {
		out = make(map[string]task.Date, len(stated)+1)
	}
	for _, event := range slices.Sorted(maps.Keys(stated)) {
		if !anchorName(event) {
			findings = append(findings, errs.Finding{Pointer: "/anchors", Code: "invalid_anchor",
				Detail: fmt.Sprintf("the name of an anchor must be 1 to %d letters, digits, dots, underscores or hyphens", maxAnchor)})
			continue
		}
		date, err := task.ParseDate(stated[event])
		if err != nil {
			findings = append(findings, errs.Finding{Pointer: "/anchors/" + event, Code: "invalid_date", Detail: "must be a date as YYYY-MM-DD"})
			continue
		}
		out[event] = date
	}
	if len(out) > maxAnchors {
		findings = append(findings, errs.Finding{Pointer: "/anchors", Code: "too_many", Detail: fmt.Sprintf("a participant has at most %d anchors", maxAnchors)})
	}
	return out, findings
}

func anchorName(event string) bool {
	for _, r := range event {
		if r > unicode.MaxASCII || !unicode.IsLetter(r) && !unicode.IsDigit(r) && !strings.ContainsRune("._-", r) {
			return false
		}
	}
	return event != "" && len(event) <= maxAnchor
}

// today is the local date of an instant in a zone that zoneFindings accepted.
func today(now time.Time, zone string) task.Date {
	loc, err := task.LoadZone(zone)
	if err != nil {
		loc = time.UTC
	}
	y, m, d := now.In(loc).Date()
	return task.Date{Year: y, Month: m, Day: d}
}

// statusFindings allows the one change of status that staff make; enrolled → active happens by activation.
func statusFindings(from, to string) []errs.Finding {
	if to == from || to == Withdrawn {
		return nil
	}
	return []errs.Finding{{Pointer: "/status", Code: "invalid_status", Detail: "can only be changed to " + Withdrawn + ", which is final"}}
}

func errClosed() *errs.Error {
	return errs.New(errs.Conflict, "study_locked", "the study takes no new participants and no changes to participants now")
}

func errStale() *errs.Error {
	return errs.New(errs.Stale, "stale", "the participant was changed by somebody else; read it again")
}

// errEnrolled refuses a number that is taken and says whose it is.
func errEnrolled(id int64) *errs.Error {
	return errs.Exists("a participant with this number").WithMembers(map[string]any{"id": fmt.Sprint(id)})
}
