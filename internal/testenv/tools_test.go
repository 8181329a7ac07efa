package testenv_test

import (
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"testing"

	"github.com/eprod/eprod/internal/testenv"
)

// Two callers at once: neither sees a half-fetched program.
func TestTool(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"promtool", "amtool"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			output, err := exec.Command(testenv.Tool(t, name), "--version").CombinedOutput()
			if err != nil || !strings.HasPrefix(string(output), name+", version ") {
				t.Errorf("%v: %s", err, output)
			}
		})
	}
}

// told is a test that takes down how it ends.
type told struct {
	testing.TB
	failed, skipped bool
}

func (r *told) Fatalf(string, ...any) { r.failed = true; runtime.Goexit() }
func (r *told) Skipf(string, ...any)  { r.skipped = true; runtime.Goexit() }

// What cannot be had is left out where a developer runs one test, and fails where everything is to be run.
func TestToolMissing(t *testing.T) {
	for _, tt := range []struct {
		ci, complete    string
		failed, skipped bool
	}{{"", "", false, true}, {"true", "", true, false}, {"", "1", true, false}} {
		t.Setenv("CI", tt.ci)
		t.Setenv("EPROD_TEST_COMPLETE", tt.complete)
		r := &told{TB: t}
		var running sync.WaitGroup
		running.Go(func() { testenv.Tool(r, "no-such-tool") })
		running.Wait()
		if r.failed != tt.failed || r.skipped != tt.skipped {
			t.Errorf("CI=%q EPROD_TEST_COMPLETE=%q: failed %v, skipped %v", tt.ci, tt.complete, r.failed, r.skipped)
		}
	}
}
