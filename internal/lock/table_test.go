package lock

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestSuccession(t *testing.T) {
	const now, minute = int64(1_000_000_000), int64(time.Minute / time.Microsecond)
	c := &claim{id: "new", holder: "bert"}
	for what, v := range map[string]struct {
		last, want tenure
		held       string
	}{
		"nobody yet":          {tenure{}, tenure{now, "new", "bert", now + minute}, ""},
		"free":                {tenure{fence: 7, holder: "anna"}, tenure{now, "new", "bert", now + minute}, ""},
		"held":                {tenure{7, "old", "anna", now + 1}, tenure{}, "anna"},
		"over":                {tenure{7, "old", "anna", now}, tenure{now, "new", "bert", now + minute}, ""},
		"the clock went back": {tenure{now + 7, "old", "anna", now}, tenure{now + 8, "new", "bert", now + minute}, ""},
		"the answer was lost": {tenure{7, "new", "bert", now + 1}, tenure{7, "new", "bert", now + minute}, ""},
		"lost, then over":     {tenure{7, "new", "bert", now}, tenure{7, "new", "bert", now + minute}, ""},
	} {
		got, held := v.last.succeed(c, now, time.Minute)
		if (held != nil) != (v.held != "") || held != nil && held.Owner != v.held {
			t.Errorf("%s: held by %v", what, held)
		}
		if d := cmp.Diff(v.want, got, cmp.AllowUnexported(tenure{})); d != "" {
			t.Errorf("%s: %s", what, d)
		}
	}
}
