package testenv

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// toolTimeout is how long the first fetch of a tool may take; the largest is 0.9 GB.
const toolTimeout = 10 * time.Minute

// Tool returns the path of an outside program that dev/tools has, such as "promtool", and fetches it when it is not there yet; of a
// Python package ("duckdb", "chdb", "pyspark", "aiosmtpd") that of a python which can import it. Where it cannot be had, the test fails
// in CI and under make test, and is left out elsewhere, either way with what dev/tools says about installing it.
func Tool(t testing.TB, name string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), toolTimeout)
	defer cancel()
	output, err := exec.CommandContext(ctx, filepath.Join(Root(t), "dev", "tools"), name).Output()
	if err == nil {
		return strings.TrimSpace(string(output))
	}
	why := err.Error()
	if ended := (*exec.ExitError)(nil); errors.As(err, &ended) {
		why = strings.TrimSpace(string(ended.Stderr))
	}
	if complete() {
		t.Fatalf("%s cannot be had (dev/tools %s): %s", name, name, why)
	}
	t.Skipf("left out: what needs %s. To have it: dev/tools %s, which says: %s", name, name, why)
	return ""
}

// complete reports whether a run must not leave anything out: CI, make test and make test-long.
func complete() bool { return os.Getenv("CI") == "true" || os.Getenv("EPROD_TEST_COMPLETE") != "" }

// Root returns the folder of the source tree: the one with go.mod, above where the test runs.
func Root(t testing.TB) string {
	t.Helper()
	at, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for {
		if _, err := os.Stat(filepath.Join(at, "go.mod")); err == nil {
			return at
		}
		if filepath.Dir(at) == at {
			t.Fatal("no go.mod above the test's folder")
		}
		at = filepath.Dir(at)
	}
}

// Long reports whether the long variants of tests were asked for by EPROD_TEST_LONG.
func Long() bool { return os.Getenv("EPROD_TEST_LONG") != "" }
