package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/eprod/eprod/internal/testenv"
)

// beside runs a program of the operators' side until the test ends, and shows the end of its output when the test fails.
func beside(t *testing.T, name string, args ...string) {
	t.Helper()
	besideOthers(t, exec.Command(name, args...))
}

// besideOthers is beside for a command with settings of its own. What the program has started ends with it.
func besideOthers(t *testing.T, cmd *exec.Cmd) {
	t.Helper()
	output, err := os.Create(filepath.Join(t.TempDir(), "output"))
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stdout, cmd.Stderr = output, output
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = new(syscall.SysProcAttr)
	}
	cmd.SysProcAttr.Setpgid = true
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
		_ = cmd.Wait()
		if _, err := output.Seek(0, io.SeekStart); err == nil && t.Failed() {
			text, _ := io.ReadAll(output)
			t.Logf("%s:\n%s", filepath.Base(cmd.Path), text[max(0, len(text)-3000):])
		}
		_ = output.Close()
	})
}

// adapted writes a file of deploy/ with some of its text replaced; each must be there.
func adapted(t *testing.T, path, to string, replacements ...string) string {
	t.Helper()
	content := deployFile(t, path)
	for i := 0; i < len(replacements); i += 2 {
		if !bytes.Contains(content, []byte(replacements[i])) {
			t.Fatalf("%s does not have %q any more", path, replacements[i])
		}
		content = bytes.ReplaceAll(content, []byte(replacements[i]), []byte(replacements[i+1]))
	}
	to = filepath.Join(to, filepath.Base(path))
	if err := os.WriteFile(to, content, 0o600); err != nil {
		t.Fatal(err)
	}
	return to
}

// TestAlertLive: the only process that takes submissions is killed, a real Prometheus sees it by the shipped rules, a real Alertmanager sends a
// mail by the shipped routes, and another one when the process is back. Only addresses and waiting times are other than shipped.
func TestAlertLive(t *testing.T) {
	if !testenv.Long() {
		t.Skip("left out: a rule that fires live. To have it: EPROD_TEST_LONG=1, or make test-long")
	}
	prometheus, alertmanager, python := testenv.Tool(t, "prometheus"), testenv.Tool(t, "alertmanager"), testenv.Tool(t, "aiosmtpd")
	dir := t.TempDir()
	d := &deployment{t: t, binary: buildBinary(t), dir: dir, env: []string{"HOME=" + dir, "EPROD_LOG__FORMAT=json", "EPROD_TELEMETRY__SAMPLE__EVERY=500ms"}}
	ops := freeAddress(t)
	p := d.startOn("127.0.0.1:0", ops, roleAll)
	mail, manager, watch := freeAddress(t), freeAddress(t), freeAddress(t)
	inbox := filepath.Join(dir, "inbox")
	beside(t, python, "-m", "aiosmtpd", "-n", "-l", mail, "-c", "aiosmtpd.handlers.Mailbox", inbox)
	beside(t, alertmanager, "--config.file="+adapted(t, "alertmanager/alertmanager.yml", dir, "mail:1025", mail, "group_wait: 10s", "group_wait: 0s", "group_interval: 2m", "group_interval: 1s"),
		"--storage.path="+filepath.Join(dir, "alertmanager"), "--web.listen-address="+manager, "--cluster.listen-address=")
	config := adapted(t, "prometheus/prometheus.yml", dir, `"api-1:9090", "api-2:9090", "processor-1:9090", "processor-2:9090"`, `"`+ops+`"`,
		"alertmanager:9093", manager, ": 15s", ": 1s")
	adapted(t, "prometheus/alerts.yml", dir, "for: 2m", "for: 5s")
	beside(t, prometheus, "--config.file="+config, "--storage.tsdb.path="+filepath.Join(dir, "prometheus"), "--web.listen-address="+watch)

	eventually(t, 60*time.Second, func() string { return missing(watch, `eprod_build_info{role="all"}`) })
	dashboardAnswers(t, watch)
	// Before the first scrape there was no process either, and a slow machine may have told so.
	eventually(t, 60*time.Second, func() string { return missing(watch, `absent(ALERTS{alertname="EprodNoIntake"})`) })
	before := mailed(inbox, "firing")
	began := time.Now()
	if err := p.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	<-p.exited
	eventually(t, 90*time.Second, func() string { return more(inbox, "firing", before) })
	t.Logf("mail %v after the process was killed", time.Since(began).Round(time.Second))
	before, began = mailed(inbox, "resolved"), time.Now()
	d.startOn("127.0.0.1:0", ops, roleAll)
	eventually(t, 90*time.Second, func() string { return more(inbox, "resolved", before) })
	t.Logf("resolved %v after another was started", time.Since(began).Round(time.Second))
}

// query asks Prometheus.
func query(address, expr string) (count int, err error) {
	res, err := http.Get("http://" + address + "/api/v1/query?query=" + url.QueryEscape(expr))
	if err != nil {
		return 0, err
	}
	defer res.Body.Close()
	var answer struct {
		Status, Error string
		Data          struct{ Result []json.RawMessage }
	}
	if err := json.NewDecoder(res.Body).Decode(&answer); err != nil {
		return 0, err
	}
	if answer.Status != "success" {
		return 0, fmt.Errorf("%s: %s", answer.Status, answer.Error)
	}
	return len(answer.Data.Result), nil
}

// missing returns "" when an expression has results.
func missing(address, expr string) string {
	count, err := query(address, expr)
	if err != nil || count == 0 {
		return fmt.Sprintf("%s: %d results, %v", expr, count, err)
	}
	return ""
}

// dashboardAnswers asks a Prometheus that scrapes a process every query of the dashboard.
func dashboardAnswers(t *testing.T, address string) {
	t.Helper()
	content, err := os.ReadFile("../../deploy/grafana/eprod.json")
	if err != nil {
		t.Fatal(err)
	}
	asked := 0
	for _, m := range regexp.MustCompile(`"expr": ("(?:[^"\\]|\\.)*")`).FindAllSubmatch(content, -1) {
		var expr string
		if err := json.Unmarshal(m[1], &expr); err != nil {
			t.Fatal(err)
		}
		expr = strings.NewReplacer("$__rate_interval", "1m", "$instance", ".*").Replace(expr)
		if _, err := query(address, expr); err != nil {
			t.Errorf("%s: %v", expr, err)
		}
		asked++
	}
	if asked < 20 {
		t.Errorf("only %d queries found", asked)
	}
}

// more returns "" when more mails of a status have come than there were before.
func more(inbox, status string, before int) string {
	if count := mailed(inbox, status); count <= before {
		return fmt.Sprintf("%d mails say that EprodNoIntake is %s, there were %d before", count, status, before)
	}
	return ""
}

// mailed counts the mails about the alert that have come to whoever is called.
func mailed(inbox, status string) int {
	count := 0
	files, _ := filepath.Glob(filepath.Join(inbox, "new", "*"))
	for _, file := range files {
		content, err := os.ReadFile(file)
		text := strings.NewReplacer("=\r\n", "", "=\n", "").Replace(string(content)) // quoted-printable breaks lines anywhere
		if err == nil && strings.Contains(text, "on-call@example.org") && strings.Contains(text, "["+status+"] EprodNoIntake") &&
			strings.Contains(text, "docs/playbooks/EprodNoIntake.md") {
			count++
		}
	}
	return count
}
