package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/eprod/eprod/internal/telemetry"
	"github.com/eprod/eprod/internal/testenv"
)

// TestLogsFound: every line that the processes of an end-to-end run write is found again, whole and once, in a real Elasticsearch with the shipped
// strict template, where a real rsyslog brings it by the shipped settings. Only addresses and folders are other than shipped.
func TestLogsFound(t *testing.T) {
	if !testenv.Long() {
		t.Skip("left out: log lines in a real Elasticsearch. To have it: EPROD_TEST_LONG=1, or make test-long")
	}
	search := startElasticsearch(t)
	search.put(t, 200, "PUT", "/_index_template/eprod", deployFile(t, "elasticsearch/template.json"))
	search.put(t, 400, "POST", "/eprod-logs-strict/_doc", []byte(`{"@timestamp":"2026-01-01T00:00:00Z","message":"m","event.mood":"good"}`))

	d := newDeployment(t)
	dir := t.TempDir()
	d.logs = filepath.Join(dir, "log")
	d.env = append(d.env, "EPROD_HTTP__ACCESS_LOG_SAMPLE=1", "EPROD_LOG__LEVEL=debug")
	for _, folder := range []string{d.logs, filepath.Join(dir, "work")} {
		if err := os.Mkdir(folder, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	_, port, _ := net.SplitHostPort(search.address)
	settings := adapted(t, "rsyslog/eprod.conf", dir, "/var/log/eprod/*.log", filepath.Join(d.logs, "*.log"), `serverport="9200"`, `serverport="`+port+`"`, "/var/spool/rsyslog", dir)
	whole := filepath.Join(dir, "rsyslog.conf")
	if err := os.WriteFile(whole, fmt.Appendf(nil, "global(workDirectory=%q)\ninclude(file=%q)\n", filepath.Join(dir, "work"), settings), 0o600); err != nil {
		t.Fatal(err)
	}
	beside(t, testenv.Tool(t, "rsyslog"), "-n", "-f", whole, "-i", filepath.Join(dir, "rsyslog.pid"))

	began := time.Now()
	busyRun(t, d)
	longLine(t, d.logs)
	written := logLines(t, d.logs)
	var found []string
	eventually(t, 120*time.Second, func() string {
		refused, _ := os.ReadFile(filepath.Join(dir, "eprod-refused.json")) // there is none where nothing is refused
		if found = search.lines(t); len(found) != len(written) || len(refused) > 0 {
			return fmt.Sprintf("%d lines are found of %d written; refused were: %.2000s", len(found), len(written), refused)
		}
		return ""
	})
	slices.Sort(written)
	slices.Sort(found)
	for i := range written {
		if written[i] != found[i] {
			t.Fatalf("a line is another than it was:\n%s\n%s", written[i], found[i])
		}
	}
	t.Logf("%d of %d lines found in Elasticsearch, %v after the first was written", len(found), len(written), time.Since(began).Round(time.Second))
	search.asked(t)
}

// busyRun makes the processes write what they write in good and bad times.
func busyRun(t *testing.T, d *deployment) {
	t.Helper()
	api, worker := d.start(roleAPI), d.start(roleProcessor)
	tr := newTrial(t, d, 400, []string{"plain", "closed"}, api.api)
	submit := func(people []*person, status int, body func(p *person) []byte) {
		for _, p := range people {
			a, err := tr.staff.do(t.Context(), 0, "POST", "/api/v1/submissions", p.token, body(p))
			if err != nil || a.Status != status {
				t.Fatalf("%d %s %v, want %d", a.Status, a.Raw, err, status)
			}
		}
	}
	good := func(p *person) []byte {
		return envelopeOf(p.tasks["plain"], burstResponse(uuid.New(), "1.0.0", time.Now().Format(time.RFC3339), ""))
	}
	submit(tr.people[:200], 202, good)
	submit(tr.people[:40], 400, func(*person) []byte { return []byte(`{"task":`) })
	submit(tr.people[:40], 422, func(p *person) []byte {
		return bytes.Replace(good(p), []byte(`"code":"home"`), []byte(`"code":"moon"`), 1)
	})
	tr.staff.must(t, 404, "GET", "/api/v1/studies/1", nil)
	d.serviceDo("stop", "redis")
	submit(tr.people[200:], 202, good)
	d.serviceDo("start", "redis")
	for _, p := range []*process{api, worker} {
		d.terminate(p, 60*time.Second)
	}
}

// longLine writes what a panic with a deep stack would.
func longLine(t *testing.T, logs string) {
	t.Helper()
	file, err := os.Create(filepath.Join(logs, "panic.log"))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	log := telemetry.NewLogger(file, telemetry.DefaultConfig(), telemetry.Service{Version: "test", Node: "test"}, nil)
	log.Error("a handler panicked", "error.message", "runtime error", "error.stack_trace", strings.Repeat("main.deeper(...)\n\t/src/deeper.go:1 +0x1\n", 1000))
}

// logLines returns the lines of all files, each in one form.
func logLines(t *testing.T, logs string) []string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(logs, "*.log"))
	if err != nil {
		t.Fatal(err)
	}
	var lines []string
	for _, file := range files {
		content, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(content)) {
			lines = append(lines, oneForm(t, []byte(line)))
		}
	}
	if len(files) != 3 || len(lines) < 1000 {
		t.Fatalf("%d lines in %d files only", len(lines), len(files))
	}
	return lines
}

func oneForm(t *testing.T, object []byte) string {
	t.Helper()
	var fields map[string]any
	if err := json.Unmarshal(object, &fields); err != nil {
		t.Fatalf("%v in %.300s", err, object)
	}
	out, err := json.Marshal(fields)
	if err != nil {
		t.Fatal(err)
	}
	return string(out)
}

// elasticsearch is a real one.
type elasticsearch struct{ address string }

// startElasticsearch runs it until the test ends. It never runs as root: as root it gets an account without rights, and a copy of the program that
// this account may read.
func startElasticsearch(t *testing.T) *elasticsearch {
	t.Helper()
	java, err := exec.LookPath("java")
	if err != nil {
		t.Fatal(err)
	}
	if java, err = filepath.EvalSymlinks(java); err != nil {
		t.Fatal(err)
	}
	home, err := os.MkdirTemp("", "eprod-elasticsearch-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(home); err != nil {
			t.Error(err)
		}
	})
	if err := os.CopyFS(home, os.DirFS(filepath.Dir(filepath.Dir(testenv.Tool(t, "elasticsearch"))))); err != nil {
		t.Fatal(err)
	}
	e := &elasticsearch{address: freeAddress(t)}
	host, port, _ := net.SplitHostPort(e.address)
	_, transport, _ := net.SplitHostPort(freeAddress(t))
	settings := fmt.Sprintf("discovery.type: single-node\nnetwork.host: %s\nhttp.port: %s\ntransport.port: %s\nxpack.security.enabled: false\n", host, port, transport)
	if err := os.WriteFile(filepath.Join(home, "config", "elasticsearch.yml"), []byte(settings), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(filepath.Join(home, "bin", "elasticsearch"))
	cmd.Dir = home
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + home, "ES_JAVA_HOME=" + filepath.Dir(filepath.Dir(java)), "ES_JAVA_OPTS=-Xms512m -Xmx512m"}
	if os.Getuid() == 0 {
		const nobody = 65534
		if err := filepath.WalkDir(home, func(path string, _ os.DirEntry, err error) error {
			return errors.Join(err, os.Chown(path, nobody, nobody))
		}); err != nil {
			t.Fatal(err)
		}
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
	}
	besideOthers(t, cmd)
	eventually(t, 120*time.Second, func() string {
		res, err := http.Get("http://" + e.address + "/_cluster/health")
		if err != nil {
			return err.Error()
		}
		defer res.Body.Close()
		if res.StatusCode != http.StatusOK {
			return res.Status
		}
		return ""
	})
	return e
}

// put sends a body and returns the answer, which must have the status.
func (e *elasticsearch) put(t *testing.T, status int, method, path string, body []byte) []byte {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, "http://"+e.address+path, bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	raw, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	if res.StatusCode != status {
		t.Fatalf("%s %s: %d, want %d: %s", method, path, res.StatusCode, status, raw)
	}
	return raw
}

// lines returns every line that is there, each in one form.
func (e *elasticsearch) lines(t *testing.T) []string {
	t.Helper()
	e.put(t, 200, "POST", "/eprod-logs-*/_refresh", nil)
	var page struct {
		Hits struct {
			Hits []struct {
				Source json.RawMessage `json:"_source"`
			}
		}
	}
	if err := json.Unmarshal(e.put(t, 200, "GET", "/eprod-logs-*/_search?size=10000", nil), &page); err != nil {
		t.Fatal(err)
	}
	lines := make([]string, 0, len(page.Hits.Hits))
	for _, hit := range page.Hits.Hits {
		lines = append(lines, oneForm(t, hit.Source))
	}
	return lines
}

// asked asks as operators do: by level and words, by status, by a label.
func (e *elasticsearch) asked(t *testing.T) {
	t.Helper()
	for _, query := range []string{`log.level:warn`, `http.response.status_code:[400 TO 499] AND event.outcome:failure AND event.duration:>0`, `error.code:invalid_json`,
		`url.path:"/api/v1/submissions" AND http.response.status_code:202`, `labels.breaker:redis`, `message:panicked AND error.stack_trace:"deeper.go"`} {
		body, _ := json.Marshal(map[string]any{"query": map[string]any{"query_string": map[string]string{"query": query}}})
		var answer struct{ Count int }
		if err := json.Unmarshal(e.put(t, 200, "GET", "/eprod-logs-*/_count", body), &answer); err != nil || answer.Count == 0 {
			t.Errorf("%s finds %d lines, %v", query, answer.Count, err)
		}
	}
}

// deployFile returns a file of deploy/.
func deployFile(t *testing.T, path string) []byte {
	t.Helper()
	content, err := os.ReadFile(filepath.Join("../../deploy", path))
	if err != nil {
		t.Fatal(err)
	}
	return content
}
