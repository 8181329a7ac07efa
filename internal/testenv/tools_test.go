package testenv_test

import (
	"os/exec"
	"strings"
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
