package embedded_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestNoPortIsOpened looks for a listening socket among this process' descriptors.
func TestNoPortIsOpened(t *testing.T) {
	open(t, t.TempDir())
	listening := map[string]bool{}
	for _, table := range []string{"/proc/self/net/tcp", "/proc/self/net/tcp6"} {
		content, err := os.ReadFile(table)
		if err != nil {
			continue // a kernel without this family
		}
		for _, line := range strings.Split(string(content), "\n") {
			if f := strings.Fields(line); len(f) > 9 && f[3] == "0A" {
				listening["socket:["+f[9]+"]"] = true
			}
		}
	}
	descriptors, err := filepath.Glob("/proc/self/fd/*")
	if err != nil || len(descriptors) == 0 {
		t.Fatalf("no descriptors to look at: %v", err)
	}
	for _, d := range descriptors {
		if target, err := os.Readlink(d); err == nil && listening[target] {
			t.Errorf("this process listens on %s", target)
		}
	}
}
