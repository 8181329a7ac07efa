package auth

import (
	"flag"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "write the golden file anew")

// TestRights prints the permission table, so that a change of rights shows in review as a change of this file.
func TestRights(t *testing.T) {
	var b strings.Builder
	fmt.Fprintf(&b, "%-20s", "")
	for _, r := range Roles() {
		fmt.Fprintf(&b, " %-13s", r)
	}
	b.WriteByte('\n')
	for _, a := range Actions() {
		fmt.Fprintf(&b, "%-20s", a)
		for _, r := range Roles() {
			mark := "-"
			if r.May(a) {
				mark = "yes"
			}
			fmt.Fprintf(&b, " %-13s", mark)
		}
		b.WriteByte('\n')
	}
	const golden = "testdata/rights.txt"
	if *update {
		if err := os.WriteFile(golden, []byte(b.String()), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), b.String()); diff != "" {
		t.Errorf("rights changed (-golden +now); run with -update if that is meant:\n%s", diff)
	}
}

func TestEveryRightIsListed(t *testing.T) {
	for role, actions := range rights {
		if !slices.Contains(Roles(), role) {
			t.Errorf("role %s is not listed", role)
		}
		for _, a := range actions {
			if !slices.Contains(Actions(), a) {
				t.Errorf("action %s of %s is not listed", a, role)
			}
		}
	}
}

func TestParseRole(t *testing.T) {
	for _, r := range Roles() {
		if got, err := ParseRole(string(r)); got != r || err != nil {
			t.Errorf("ParseRole(%q) = %q, %v", r, got, err)
		}
	}
	_, err := ParseRole("boss")
	if err == nil || !strings.Contains(err.Error(), `"boss"`) || !strings.Contains(err.Error(), "administrator, studyManager") {
		t.Errorf("ParseRole(boss): %v; it must name the wrong and the right ones", err)
	}
	if Administrator.Granted() || Service.Granted() || Role("boss").Granted() || !Monitor.Granted() {
		t.Error("only study roles can be granted")
	}
}
