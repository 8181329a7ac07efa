package main

import (
	"io"
	"maps"
	"net/http"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// documentedMetrics returns name and type of what docs/metrics.md lists.
func documentedMetrics(t *testing.T) map[string]string {
	t.Helper()
	page, err := os.ReadFile("../../docs/metrics.md")
	if err != nil {
		t.Fatal(err)
	}
	found := make(map[string]string)
	for _, m := range regexp.MustCompile("(?m)^\\| `(eprod_\\w+)` \\| (counter|gauge|histogram)").FindAllSubmatch(page, -1) {
		found[string(m[1])] = string(m[2])
	}
	return found
}

// exposed returns what a process shows at /metrics, once its first look at the stores is over.
func exposed(t *testing.T, ops string) string {
	t.Helper()
	for end := time.Now().Add(30 * time.Second); ; {
		res, err := http.Get(ops + "/metrics")
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(res.Body)
		_ = res.Body.Close()
		if err != nil || res.StatusCode != http.StatusOK {
			t.Fatalf("/metrics: %d %v\n%s", res.StatusCode, err, body)
		}
		sampled := !slices.ContainsFunc([]string{"eprod_submissions_unprocessed{where=\"log\"}", "eprod_submissions_unprocessed{where=\"spool\"}",
			"eprod_outbox_depth{database=\"meta\"}", "eprod_quarantine_depth{"}, func(line string) bool { return !strings.Contains(string(body), "\n"+line) })
		if sampled {
			return string(body)
		}
		if time.Now().After(end) {
			t.Fatalf("the sampled metrics are not shown after 30 s:\n%s", body)
		}
		if err := pause(t.Context(), 50*time.Millisecond); err != nil {
			t.Fatal(err)
		}
	}
}

// families returns name and type of our metrics in an exposition.
func families(exposition string) map[string]string {
	found := make(map[string]string)
	for _, m := range regexp.MustCompile(`(?m)^# TYPE (eprod_\w+) (\w+)$`).FindAllStringSubmatch(exposition, -1) {
		found[m[1]] = m[2]
	}
	return found
}

// compareMetrics holds the page against what a process of a role shows: the same names and types, and nothing else.
func compareMetrics(t *testing.T, role string, documented map[string]string, exposition string) {
	t.Helper()
	want := maps.Clone(documented)
	if role == roleProcessor { // it answers nobody
		delete(want, "eprod_http_requests_total")
		delete(want, "eprod_http_request_seconds")
	}
	if diff := cmp.Diff(want, families(exposition)); diff != "" {
		t.Errorf("role %s: docs/metrics.md (-) and /metrics (+) differ:\n%s", role, diff)
	}
}
