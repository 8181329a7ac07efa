package participant

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/eprod/eprod/internal/errs"
	"github.com/eprod/eprod/internal/task"
)

func pointers(findings []errs.Finding) string {
	var out []string
	for _, f := range findings {
		out = append(out, f.Pointer+" "+f.Code)
	}
	return strings.Join(out, ", ")
}

func TestFindings(t *testing.T) {
	for name, c := range map[string]struct {
		got  []errs.Finding
		want string
	}{
		"number":              {numberFindings("0001"), ""},
		"number with all":     {numberFindings("S01-A/7_b.受"), ""},
		"number missing":      {numberFindings(""), "/number invalid_number"},
		"number with space":   {numberFindings("00 01"), "/number invalid_number"},
		"number with control": {numberFindings("0001\n"), "/number invalid_number"},
		"number too long":     {numberFindings(strings.Repeat("1", maxNumber+1)), "/number invalid_number"},
		"number not UTF-8":    {numberFindings("\xff"), "/number invalid_number"},
		"zone":                {zoneFindings("Asia/Shanghai"), ""},
		"zone missing":        {zoneFindings(""), "/zone unknown_zone"},
		"zone of the server":  {zoneFindings("Local"), "/zone unknown_zone"},
		"zone unknown":        {zoneFindings("Mars/Olympus"), "/zone unknown_zone"},
		"zone as path":        {zoneFindings("../etc/passwd"), "/zone unknown_zone"},
		"language":            {languageFindings("en", []string{"zh-CN", "en"}), ""},
		"language unknown":    {languageFindings("de", []string{"zh-CN", "en"}), "/language unknown_language"},
		"withdraw":            {statusFindings(ActiveStatus, Withdrawn), ""},
		"same status":         {statusFindings(Enrolled, Enrolled), ""},
		"activate by hand":    {statusFindings(Enrolled, ActiveStatus), "/status invalid_status"},
		"come back":           {statusFindings(Withdrawn, ActiveStatus), "/status invalid_status"},
		"status unknown":      {statusFindings(ActiveStatus, "gone"), "/status invalid_status"},
	} {
		if got := pointers(c.got); got != c.want {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
	}
}

func TestReadAnchors(t *testing.T) {
	there := map[string]task.Date{"enrolment": {Year: 2026, Month: 11, Day: 23}}
	got, findings := readAnchors(there, map[string]string{"surgery": "2026-12-01", "enrolment": "2026-11-24"}, nil)
	want := map[string]task.Date{"enrolment": {Year: 2026, Month: 11, Day: 24}, "surgery": {Year: 2026, Month: 12, Day: 1}}
	if diff := cmp.Diff(want, got); diff != "" || findings != nil {
		t.Errorf("%v %s", findings, diff)
	}
	if there["enrolment"].Day != 23 {
		t.Error("the participant's own anchors were changed")
	}
	_, findings = readAnchors(nil, map[string]string{"": "2026-12-01", "a b": "2026-12-01", "ok": "1.12.2026", "too": "2026-02-30"}, nil)
	if got := pointers(findings); got != "/anchors invalid_anchor, /anchors invalid_anchor, /anchors/ok invalid_date, /anchors/too invalid_date" {
		t.Errorf("findings %s", got)
	}
	many := map[string]string{}
	for i := range maxAnchors + 1 {
		many[strings.Repeat("a", i+1)] = "2026-12-01"
	}
	if _, findings = readAnchors(nil, many, nil); pointers(findings) != "/anchors too_many" {
		t.Errorf("findings %s", pointers(findings))
	}
}

func TestToday(t *testing.T) {
	at := time.Date(2026, 11, 23, 18, 30, 0, 0, time.UTC)
	for zone, want := range map[string]string{"Asia/Shanghai": "2026-11-24", "Europe/Berlin": "2026-11-23", "America/New_York": "2026-11-23"} {
		if got := today(at, zone).String(); got != want {
			t.Errorf("%s: %s, want %s", zone, got, want)
		}
	}
}

func TestDifference(t *testing.T) {
	was := &Participant{Number: "1", Site: 5, Arm: "A", Zone: "Europe/Berlin", Language: "en", Status: Enrolled,
		Anchors: map[string]task.Date{"enrolment": {Year: 2026, Month: 11, Day: 23}}}
	is := *was
	is.Arm, is.Zone = "B", "Asia/Tokyo"
	is.Anchors = map[string]task.Date{"enrolment": {Year: 2026, Month: 11, Day: 23}, "surgery": {Year: 2026, Month: 12, Day: 1}}
	before, after, err := difference(was, &is)
	if err != nil {
		t.Fatal(err)
	}
	if string(before) != `{"arm":"A","zone":"Europe/Berlin"}` || string(after) != `{"arm":"B","zone":"Asia/Tokyo","anchors":{"surgery":"2026-12-01"}}` {
		t.Errorf("%s → %s", before, after)
	}
}

func TestProfileZone(t *testing.T) {
	at := time.Date(2026, 11, 23, 0, 0, 0, 0, time.UTC)
	p := &Profile{Person: task.Person{Zones: []task.ZoneChange{{From: at, Zone: "A"}, {From: at.Add(time.Hour), Zone: "B"}}}}
	for offset, want := range map[time.Duration]string{-time.Hour: "A", 0: "A", time.Hour - 1: "A", time.Hour: "B", 9 * time.Hour: "B"} {
		if got := p.Zone(at.Add(offset)); got != want {
			t.Errorf("after %s: %s, want %s", offset, got, want)
		}
	}
}

func TestConfig(t *testing.T) {
	if err := errors.Join(DefaultConfig().Validate(), DefaultProfileConfig().Validate()); err != nil {
		t.Fatal(err)
	}
	err := errors.Join(Config{}.Validate(), ProfileConfig{}.Validate())
	for _, key := range []string{"importLines", "importBytes", "importLine", "importBatch", "importTimeout", "imports", "size", "ttl", "loadTimeout"} {
		if err == nil || !strings.Contains(err.Error(), key+": ") {
			t.Errorf("%s is not named in: %v", key, err)
		}
	}
}

func TestReadLine(t *testing.T) {
	for text, want := range map[string]string{
		`{"number":"1","site":"S01"}`:                   "",
		`{"number":"1","site":"S01","x":1}`:             "unknown_member",
		`{"number":"1","number":"2","site":"S01"}`:      "invalid_json",
		`{"number":1,"site":"S01"}`:                     "invalid_field",
		`{"number":"1"`:                                 "invalid_json",
		`{"number":"1"} {}`:                             "invalid_json",
		`[]`:                                            "invalid_field",
		"{\"number\":\"\xff\"}":                         "invalid_json",
		`{"number":"` + strings.Repeat("1", 300) + `"}`: "too_large",
	} {
		got := ""
		line := readLine(3, []byte(text), 256)
		if e, ok := errs.As(line.Err); ok {
			got = e.Code
		}
		if got != want || line.Line != 3 {
			t.Errorf("%s: %q (%v), want %q", text, got, line.Err, want)
		}
	}
}

func FuzzReadLine(f *testing.F) {
	f.Add([]byte(`{"number":"1","site":"S01","anchors":{"enrolment":"2026-11-23"}}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		line := readLine(1, text, 1024)
		if line.Err == nil {
			return
		}
		if _, ok := errs.As(line.Err); !ok {
			t.Errorf("%q: %v has no kind", text, line.Err)
		}
	})
}
