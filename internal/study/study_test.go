package study

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/eprod/eprod/internal/errs"
)

func aStudy() Study {
	return Study{Protocol: "EP-001", Title: "A study", Zone: "Asia/Shanghai", Languages: []string{"zh-CN", "en"}, ParticipantPin: PinRequired}
}

// broken lists findings as pointer and code.
func broken(findings []errs.Finding) []string {
	var out []string
	for _, f := range findings {
		if f.Detail == "" {
			out = append(out, "no detail at "+f.Pointer)
		}
		out = append(out, f.Pointer+" "+f.Code)
	}
	return out
}

func TestStudyFields(t *testing.T) {
	many := make([]string, maxLanguages+1)
	for i := range many {
		many[i] = fmt.Sprintf("en-x%d", i)
	}
	long := make([]string, 21) // 23 characters each
	for i := range long {
		long[i] = fmt.Sprintf("en-abcdefgh-abcdefgh-%02d", i)
	}
	for _, c := range []struct {
		name   string
		change func(s *Study)
		want   []string
	}{
		{"good", func(*Study) {}, nil},
		{"protocol with every sign", func(s *Study) { s.Protocol = "a.B_9-c/d" }, nil},
		{"longest protocol", func(s *Study) { s.Protocol = strings.Repeat("p", 64) }, nil},
		{"no protocol", func(s *Study) { s.Protocol = "" }, []string{"/protocol invalid_code"}},
		{"protocol too long", func(s *Study) { s.Protocol = strings.Repeat("p", 65) }, []string{"/protocol invalid_code"}},
		{"protocol with a space", func(s *Study) { s.Protocol = "EP 001" }, []string{"/protocol invalid_code"}},
		{"protocol outside ASCII", func(s *Study) { s.Protocol = "ÉP" }, []string{"/protocol invalid_code"}},
		{"longest title counts characters", func(s *Study) { s.Title = strings.Repeat("症", 500) }, nil},
		{"title too long", func(s *Study) { s.Title = strings.Repeat("症", 501) }, []string{"/title invalid_length"}},
		{"blank title", func(s *Study) { s.Title = " \t" }, []string{"/title invalid_length"}},
		{"UTC", func(s *Study) { s.Zone = "UTC" }, nil},
		{"no zone", func(s *Study) { s.Zone = "" }, []string{"/zone unknown_zone"}},
		{"the machine's zone", func(s *Study) { s.Zone = "Local" }, []string{"/zone unknown_zone"}},
		{"unknown zone", func(s *Study) { s.Zone = "Mars/Base" }, []string{"/zone unknown_zone"}},
		{"a path", func(s *Study) { s.Zone = "../UTC" }, []string{"/zone unknown_zone"}},
		{"no language", func(s *Study) { s.Languages = nil }, []string{"/languages invalid_languages"}},
		{"too many languages", func(s *Study) { s.Languages = many }, []string{"/languages invalid_languages"}},
		{"languages that do not fit their column", func(s *Study) { s.Languages = long }, []string{"/languages invalid_languages"}},
		{"a language twice", func(s *Study) { s.Languages = []string{"en", "en"} }, []string{"/languages/1 invalid_language"}},
		{"a word", func(s *Study) { s.Languages = []string{"en", "english"} }, []string{"/languages/1 invalid_language"}},
		{"no pin rule", func(s *Study) { s.ParticipantPin = "never" }, []string{"/settings/participantPin invalid_setting"}},
		{"all at once", func(s *Study) { *s = Study{} },
			[]string{"/protocol invalid_code", "/title invalid_length", "/zone unknown_zone", "/languages invalid_languages", "/settings/participantPin invalid_setting"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := aStudy()
			c.change(&s)
			if diff := cmp.Diff(c.want, broken(s.findings())); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestLanguageTag(t *testing.T) {
	for tag, want := range map[string]bool{
		"en": true, "zh-CN": true, "zh-Hans-CN": true, "gsw": true, "es-419": true, "de-1996": true,
		"": false, "e": false, "engl": false, "en-": false, "-en": false, "en_US": false, "e1": false, "en-123456789": false, "en,fr": false,
		"en-abcdefgh-abcdefgh-abcdefgh-abcdefgh": false,
	} {
		if got := languageTag(tag); got != want {
			t.Errorf("%q: %v", tag, got)
		}
	}
}

func TestMutable(t *testing.T) {
	for status, want := range map[string]string{Draft: "ok", Active: "ok", Locked: "study_locked", Archived: "study_locked", "": "study_locked"} {
		s := Study{Status: status}
		if got := code(s.mutable()); got != want {
			t.Errorf("%q: %s, want %s", status, got, want)
		}
	}
}

func code(err error) string {
	if err == nil {
		return "ok"
	}
	if e, ok := errs.As(err); ok {
		return e.Code
	}
	return "internal: " + err.Error()
}

func want(t testing.TB, what string, err error, wanted string) {
	t.Helper()
	if code(err) != wanted {
		t.Errorf("%s: %v, want %s", what, err, wanted)
	}
}

// because is the error's code and its findings.
func because(err error) []string {
	out := []string{code(err)}
	if e, ok := errs.As(err); ok {
		out = append(out, broken(e.Findings)...)
	}
	return out
}

func wantBecause(t testing.TB, what string, err error, reasons ...string) {
	t.Helper()
	if diff := cmp.Diff(reasons, because(err)); diff != "" {
		t.Errorf("%s: %v\n%s", what, err, diff)
	}
}
