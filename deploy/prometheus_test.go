// Package deploy_test holds what operators are given against the real tools and against the product.
package deploy_test

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"gopkg.in/yaml.v3"

	"github.com/eprod/eprod/internal/testenv"
)

// rules is a file of Prometheus rules.
type rules struct {
	Groups []struct {
		Name  string
		Rules []rule
	}
}

type rule struct {
	Alert, Record, Expr, For string
	Labels, Annotations      map[string]string
}

// ruleTests is a file of promtool's unit tests.
type ruleTests struct {
	Tests []struct {
		Name      string
		Asks      []asked `yaml:"alert_rule_test"`
		InputData []any   `yaml:"input_series"`
	}
}

type asked struct {
	Alert  string `yaml:"alertname"`
	Alerts []any  `yaml:"exp_alerts"`
}

// testFiles are the unit tests of prometheus/alerts.yml.
var testFiles = []string{"alerts.test.yml", "alerts.days.test.yml"}

func readYAML(t *testing.T, path string, into any) {
	t.Helper()
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := yaml.Unmarshal(content, into); err != nil {
		t.Fatalf("%s: %v", path, err)
	}
}

// allRules returns the rules of prometheus/alerts.yml.
func allRules(t *testing.T) []rule {
	t.Helper()
	var file rules
	readYAML(t, "prometheus/alerts.yml", &file)
	var all []rule
	for _, g := range file.Groups {
		all = append(all, g.Rules...)
	}
	if len(all) < 30 {
		t.Fatalf("only %d rules found", len(all))
	}
	return all
}

// promtool runs it in a folder and returns what it printed.
func promtool(t *testing.T, dir string, args ...string) (string, error) {
	t.Helper()
	cmd := exec.Command(testenv.Tool(t, "promtool"), args...)
	cmd.Dir = dir
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// TestAlertRules: every rule fires and resolves in its unit test; when the rules are made deaf, every test says so.
func TestAlertRules(t *testing.T) {
	t.Parallel()
	if out, err := promtool(t, "prometheus", "check", "rules", "--lint-fatal", "alerts.yml"); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if out, err := promtool(t, "prometheus", append([]string{"test", "rules"}, testFiles...)...); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	deaf := t.TempDir()
	content, err := os.ReadFile("prometheus/alerts.yml")
	if err != nil {
		t.Fatal(err)
	}
	var file map[string]any
	if err := yaml.Unmarshal(content, &file); err != nil {
		t.Fatal(err)
	}
	for _, g := range file["groups"].([]any) {
		for _, r := range g.(map[string]any)["rules"].([]any) {
			r.(map[string]any)["expr"] = "vector(0) > 1"
		}
	}
	content, err = yaml.Marshal(file)
	if err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(deaf, "alerts.yml"), content)
	for _, name := range testFiles {
		tests, err := os.ReadFile(filepath.Join("prometheus", name))
		if err != nil {
			t.Fatal(err)
		}
		write(t, filepath.Join(deaf, name), tests)
	}
	out, err := promtool(t, deaf, append([]string{"test", "rules"}, testFiles...)...)
	if err == nil {
		t.Error("the unit tests pass with rules that never fire")
	}
	for _, r := range allRules(t) {
		if r.Alert != "" && !strings.Contains(out, r.Alert) {
			t.Errorf("the unit test of %s passes when the rule never fires", r.Alert)
		}
	}
}

func write(t *testing.T, path string, content []byte) {
	t.Helper()
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
}

// TestAlertsAreComplete: every rule has a test in which it fires and then resolves, a page that the index lists, a severity, and
// a summary; there are no pages and tests beside.
func TestAlertsAreComplete(t *testing.T) {
	t.Parallel()
	index, err := os.ReadFile("../docs/alerts.md")
	if err != nil {
		t.Fatal(err)
	}
	tested := make(map[string][]asked)
	for _, name := range testFiles {
		var file ruleTests
		readYAML(t, filepath.Join("prometheus", name), &file)
		for _, test := range file.Tests {
			for _, a := range test.Asks {
				tested[a.Alert] = append(tested[a.Alert], a)
			}
		}
	}
	pages, err := filepath.Glob("../docs/playbooks/*.md")
	if err != nil {
		t.Fatal(err)
	}
	count := 0
	for _, r := range allRules(t) {
		if r.Alert == "" {
			continue
		}
		count++
		asks := tested[r.Alert]
		fires := slices.IndexFunc(asks, func(a asked) bool { return len(a.Alerts) > 0 })
		if fires < 0 || fires == len(asks)-1 || len(asks[len(asks)-1].Alerts) != 0 {
			t.Errorf("%s: no unit test in which it fires and then resolves", r.Alert)
		}
		page := "docs/playbooks/" + r.Alert + ".md"
		if r.Annotations["playbook"] != page || r.Annotations["summary"] == "" || !slices.Contains([]string{"page", "ticket"}, r.Labels["severity"]) {
			t.Errorf("%s: annotations %v and labels %v, want a summary, the page %s and a severity", r.Alert, r.Annotations, r.Labels, page)
		}
		content, err := os.ReadFile("../" + page)
		if err != nil {
			t.Errorf("%s has no page: %v", r.Alert, err)
		}
		for _, part := range []string{"# " + r.Alert + "\n", strings.TrimSpace(r.Expr), "## What it means", "## Where to look first", "## What to do", "## What never to do"} {
			if !strings.Contains(string(content), part) {
				t.Errorf("%s lacks %q", page, part)
			}
		}
		if !strings.Contains(string(index), "](playbooks/"+r.Alert+".md) | "+r.Labels["severity"]+" |") {
			t.Errorf("docs/alerts.md does not list %s with severity %s", r.Alert, r.Labels["severity"])
		}
	}
	if len(pages) != count || len(tested) != count {
		t.Errorf("%d rules, %d tested, %d pages", count, len(tested), len(pages))
	}
}

var metricName = regexp.MustCompile(`\b(?:eprod|process|go)_\w+|\bup\b`)

// knownMetrics are those of docs/metrics.md, which another test holds against running processes, and what Prometheus and the
// runtime add.
func knownMetrics(t *testing.T) map[string]bool {
	t.Helper()
	page, err := os.ReadFile("../docs/metrics.md")
	if err != nil {
		t.Fatal(err)
	}
	known := map[string]bool{"up": true, "process_start_time_seconds": true, "process_resident_memory_bytes": true, "process_cpu_seconds_total": true, "go_goroutines": true}
	for _, m := range regexp.MustCompile("(?m)^\\| `(eprod_\\w+)` \\| (\\w+)").FindAllSubmatch(page, -1) {
		name := string(m[1])
		known[name] = true
		if string(m[2]) == "histogram" {
			known[name+"_bucket"], known[name+"_sum"], known[name+"_count"] = true, true, true
		}
	}
	if len(known) < 40 {
		t.Fatalf("docs/metrics.md lists only %d metrics", len(known))
	}
	return known
}

func checkMetrics(t *testing.T, where, expr string, known map[string]bool) {
	t.Helper()
	used := metricName.FindAllString(expr, -1)
	for _, name := range used {
		if !known[name] {
			t.Errorf("%s: %s is in no process' metrics", where, name)
		}
	}
	if len(used) == 0 && !strings.Contains(expr, "eprod:") {
		t.Errorf("%s uses no metric: %s", where, expr)
	}
}

// TestRulesUseRealMetrics: what the rules ask for exists.
func TestRulesUseRealMetrics(t *testing.T) {
	t.Parallel()
	known := knownMetrics(t)
	for _, r := range allRules(t) {
		checkMetrics(t, r.Alert+r.Record, r.Expr, known)
	}
}

// TestDashboard: every query of the dashboard is PromQL and asks for metrics that exist.
func TestDashboard(t *testing.T) {
	t.Parallel()
	content, err := os.ReadFile("grafana/eprod.json")
	if err != nil {
		t.Fatal(err)
	}
	var board struct {
		UID    string
		Panels []struct {
			Title   string
			Type    string
			Targets []struct{ Expr string }
		}
	}
	if err := json.Unmarshal(content, &board); err != nil {
		t.Fatal(err)
	}
	known := knownMetrics(t)
	type recorded struct {
		Record string `yaml:"record"`
		Expr   string `yaml:"expr"`
	}
	var queries []recorded
	for _, p := range board.Panels {
		if p.Type == "row" {
			continue
		}
		if p.Title == "" || len(p.Targets) == 0 {
			t.Errorf("panel %q asks for nothing", p.Title)
		}
		for _, target := range p.Targets {
			expr := strings.NewReplacer("$__rate_interval", "1m", "$instance", ".*").Replace(target.Expr)
			checkMetrics(t, p.Title, expr, known)
			queries = append(queries, recorded{"query:" + strings.Repeat("x", len(queries)+1), expr})
		}
	}
	if board.UID != "eprod" || len(queries) < 20 {
		t.Fatalf("dashboard %q with %d queries", board.UID, len(queries))
	}
	file, err := yaml.Marshal(map[string]any{"groups": []any{map[string]any{"name": "dashboard", "rules": queries}}})
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	write(t, filepath.Join(dir, "queries.yml"), file)
	if out, err := promtool(t, dir, "check", "rules", "queries.yml"); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}
