package participant

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/eprod/eprod/internal/errs"
)

// Record is the patient record: named sections, each a JSON object that sites choose the form of. It is edited as a whole;
// every version is kept. Treat it as immutable.
type Record struct {
	Participant int64
	Version     int64 // 0: nobody has written yet
	Sections    map[string]json.RawMessage
	At          time.Time // of this version
	By          int64     // staff account
	Reason      string
}

// Bounds of a record and of an editing session.
const (
	maxSections    = 64
	maxSectionName = 64
	maxRecord      = 256 << 10 // bytes of all sections
	writeHold      = 10 * time.Second
	defaultSession = time.Minute
	maxSession     = 5 * time.Minute
)

// sectionFindings holds a record's sections against their form.
func sectionFindings(sections map[string]json.RawMessage) []errs.Finding {
	var findings []errs.Finding
	add := func(pointer, code, detail string) {
		findings = append(findings, errs.Finding{Pointer: pointer, Code: code, Detail: detail})
	}
	if sections == nil {
		add("/sections", "missing", "must be an object of named sections")
	}
	if len(sections) > maxSections {
		add("/sections", "too_many", fmt.Sprintf("a record has at most %d sections", maxSections))
	}
	size := 0
	for _, name := range slices.Sorted(maps.Keys(sections)) {
		size += len(name) + len(sections[name])
		if !sectionName(name) {
			add("/sections", "invalid_name", fmt.Sprintf("the name of a section must be 1 to %d letters, digits, underscores or hyphens, beginning with a letter", maxSectionName))
			continue
		}
		if body := bytes.TrimSpace(sections[name]); len(body) == 0 || body[0] != '{' {
			add("/sections/"+name, "invalid_section", "must be a JSON object")
		}
	}
	if size > maxRecord {
		add("/sections", "too_large", fmt.Sprintf("all sections together must have at most %d bytes", maxRecord))
	}
	return findings
}

func sectionName(name string) bool {
	for i, r := range []byte(name) {
		letter := r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z'
		if !letter && (i == 0 || r != '_' && r != '-' && (r < '0' || r > '9')) {
			return false
		}
	}
	return name != "" && len(name) <= maxSectionName
}

// changedSections returns what was and what is of the sections that differ; a section that is missing on one side is absent there.
func changedSections(was, is map[string]json.RawMessage) (before, after map[string]json.RawMessage) {
	before, after = make(map[string]json.RawMessage), make(map[string]json.RawMessage)
	for name, old := range was {
		if now, there := is[name]; !there || !sameJSON(old, now) {
			before[name] = old
		}
	}
	for name, now := range is {
		if old, there := was[name]; !there || !sameJSON(old, now) {
			after[name] = now
		}
	}
	return before, after
}

// sameJSON compares spelling apart from white space.
func sameJSON(a, b json.RawMessage) bool {
	var x, y bytes.Buffer
	return json.Compact(&x, a) == nil && json.Compact(&y, b) == nil && bytes.Equal(x.Bytes(), y.Bytes())
}

// session bounds the length of an editing session; 0 is the default.
func session(asked time.Duration) (time.Duration, error) {
	switch {
	case asked == 0:
		return defaultSession, nil
	case asked < time.Second || asked > maxSession:
		return 0, errs.InvalidField(errs.Finding{Pointer: "/ttl", Code: "invalid_ttl", Detail: "must be a duration from PT1S to PT5M"})
	}
	return asked, nil
}

func recordLock(participant int64) string { return "record:" + strconv.FormatInt(participant, 10) }

// owner is how a lock names a staff account; holder is its reverse.
func owner(account int64) string { return "staff:" + strconv.FormatInt(account, 10) }

func holder(owner string) (account int64, ok bool) {
	_, err := fmt.Sscanf(owner, "staff:%d", &account)
	return account, err == nil
}

// recordPlace binds a sealed version to its record, so that it opens nowhere else.
func recordPlace(participant, version int64) []byte {
	return fmt.Appendf(nil, "eprod/record/1/%d/%d", participant, version)
}

func errRecordStale() *errs.Error {
	return errs.New(errs.Stale, "stale", "the record was changed by somebody else; read it again")
}

func errRecordLocked() *errs.Error {
	return errs.New(errs.Conflict, "record_locked", "somebody else is editing the record")
}

// isoSeconds reads an ISO 8601 duration of hours, minutes and seconds, such as PT90S or PT1M30S.
func isoSeconds(text string) (time.Duration, bool) {
	rest, ok := strings.CutPrefix(text, "PT")
	if !ok || strings.Trim(rest, "0123456789HMS") != "" {
		return 0, false
	}
	d, err := time.ParseDuration(strings.ToLower(rest)) // takes units in any order, which harms nobody
	return d, err == nil
}
