package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/eprod/eprod/internal/submission"
	"github.com/eprod/eprod/internal/testenv"
)

// TestReconcileMetrics: what alerts look at has the sums, is what Prometheus reads, and replaces the file before.
func TestReconcileMetrics(t *testing.T) {
	file := filepath.Join(t.TempDir(), "eprod.prom")
	for _, balances := range [][]submission.Balance{nil, {{Missing: 2, Pending: 1}, {Missing: 1}}} {
		if err := writeBalanceMetrics(file, balances, time.Unix(1_800_000_000, 0)); err != nil {
			t.Fatal(err)
		}
	}
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	page, err := os.ReadFile("../../docs/metrics.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range []string{"eprod_reconcile_missing_submissions 3", "eprod_reconcile_pending_submissions 1", "eprod_reconcile_completed_timestamp_seconds 1800000000"} {
		name, _, _ := strings.Cut(line, " ")
		if !strings.Contains(string(text), "\n"+line+"\n") || !strings.Contains(string(page), "| `"+name+"` |") {
			t.Errorf("%q is not in the file, or not in docs/metrics.md:\n%s", line, text)
		}
	}
	check := exec.Command(testenv.Tool(t, "promtool"), "check", "metrics")
	check.Stdin = strings.NewReader(string(text))
	if out, err := check.CombinedOutput(); err != nil {
		t.Errorf("promtool: %v\n%s", err, out)
	}
}
