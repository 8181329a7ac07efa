package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/eprod/eprod/internal/telemetry"
)

// A deployment is the real binary in its roles over the real services, as a trial team would run it.
type deployment struct {
	t       *testing.T
	binary  string
	env     []string
	service string // path of dev/services
	keepLog bool   // whether processes keep every line of their logs
	logs    string // folder where each process writes its log besides, or ""
	dir     string // working folder of the processes; "" is a fresh one each
}

// newDeployment builds the binary once and reads where the real services are. They are required: `make test` starts them.
func newDeployment(t *testing.T) *deployment {
	t.Helper()
	services := os.Getenv("EPROD_TEST_SERVICES")
	if services == "" {
		t.Fatal("the real services are needed: make services-up, then eval \"$(dev/services env --test)\", or simply make test")
	}
	d := &deployment{t: t, binary: buildBinary(t), service: services}
	d.env = d.servicesEnv()
	// Topics of their own, so that runs do not meet each other's records.
	d.env = append(d.env, "EPROD_KAFKA__PREFIX="+fmt.Sprintf("e2e-%d-", time.Now().UnixNano()), "EPROD_LOG__FORMAT=json",
		"EPROD_HTTP__DRAIN_DELAY=100ms")
	d.run("migrate", "up")
	return d
}

func buildBinary(t *testing.T) string {
	t.Helper()
	binary := filepath.Join(t.TempDir(), "eprod")
	build := exec.Command("go", "build", "-o", binary, ".")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
	return binary
}

// servicesEnv returns the settings that point a process at the running services, and nothing else of EPROD_.
func (d *deployment) servicesEnv() []string {
	out, err := exec.Command(d.service, "env").Output()
	if err != nil {
		d.t.Fatalf("%s env: %v", d.service, err)
	}
	shell := exec.Command("env", "-i", "bash", "-c", string(out)+"\nenv -0")
	pairs, err := shell.Output()
	if err != nil {
		d.t.Fatalf("read settings: %v", err)
	}
	env := []string{"PATH=" + os.Getenv("PATH"), "HOME=" + d.t.TempDir()}
	for pair := range strings.SplitSeq(string(pairs), "\x00") {
		if strings.HasPrefix(pair, "EPROD_") {
			env = append(env, pair)
		}
	}
	return env
}

// serviceDo runs a verb of dev/services, such as "stop", "kafka-1".
func (d *deployment) serviceDo(args ...string) {
	d.t.Helper()
	if out, err := exec.Command(d.service, args...).CombinedOutput(); err != nil {
		d.t.Fatalf("dev/services %v: %v\n%s", args, err, out)
	}
}

// run executes a subcommand to its end and returns its standard output.
func (d *deployment) run(args ...string) []byte {
	d.t.Helper()
	return d.runInput("", args...)
}

func (d *deployment) runInput(input string, args ...string) []byte {
	d.t.Helper()
	cmd := exec.Command(d.binary, args...)
	cmd.Env, cmd.Dir, cmd.Stdin = d.env, d.t.TempDir(), strings.NewReader(input)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		d.t.Fatalf("eprod %v: %v\n%s%s", args, err, out, stderr.Bytes())
	}
	return out
}

// process is one running role.
type process struct {
	cmd     *exec.Cmd
	api     string // base URL; "" for a role without the public listener
	ops     string
	mu      sync.Mutex
	log     bytes.Buffer
	keep    bool
	all     bytes.Buffer    // every line, if they are kept
	file    *os.File        // of every line, or nil
	mapped  map[string]bool // fields that Elasticsearch takes by the shipped template
	lines   int             // of its log
	words   bool            // its last words have begun, which are for people
	strange []string        // lines that do not hold to the schema
	exited  chan struct{}
	err     error // of Wait; valid after exited
}

// start runs a role and returns when it says that it is ready.
func (d *deployment) start(role string, env ...string) *process {
	d.t.Helper()
	return d.startOn("127.0.0.1:0", "127.0.0.1:0", role, env...)
}

// startOn is start with addresses of the public and of the operators' listener.
func (d *deployment) startOn(listen, ops, role string, env ...string) *process {
	d.t.Helper()
	p := &process{exited: make(chan struct{}), keep: d.keepLog, mapped: mappedFields(d.t)}
	if d.logs != "" {
		var err error
		if p.file, err = os.CreateTemp(d.logs, role+"-*.log"); err != nil {
			d.t.Fatal(err)
		}
		d.t.Cleanup(func() { _ = p.file.Close() })
	}
	p.cmd = exec.Command(d.binary, "serve", "--role="+role, "--listen="+listen, "--ops-listen="+ops)
	p.cmd.Env, p.cmd.Dir = append(append([]string{}, d.env...), env...), d.dir
	if d.dir == "" {
		p.cmd.Dir = d.t.TempDir()
	}
	stderr, err := p.cmd.StderrPipe()
	if err != nil {
		d.t.Fatal(err)
	}
	if err := p.cmd.Start(); err != nil {
		d.t.Fatal(err)
	}
	ready := make(chan struct{})
	go p.follow(stderr, ready)
	d.t.Cleanup(func() {
		_ = p.cmd.Process.Kill()
		<-p.exited
		if len(p.strange) > 0 || p.lines == 0 {
			d.t.Errorf("of %d log lines of %s these are not of the schema: %s", p.lines, role, strings.Join(p.strange, "\n"))
		}
		if d.t.Failed() {
			d.t.Logf("log of %s:\n%s", role, p.tail(6000))
		}
	})
	select {
	case <-ready:
	case <-p.exited:
		d.t.Fatalf("%s ended at once: %v\n%s", role, p.err, p.tail(6000))
	case <-time.After(60 * time.Second):
		d.t.Fatalf("%s is not ready after 60 s\n%s", role, p.tail(6000))
	}
	return p
}

func (p *process) follow(stderr io.Reader, ready chan<- struct{}) {
	defer close(p.exited)
	lines := bufio.NewScanner(stderr)
	lines.Buffer(make([]byte, 64<<10), 1<<20)
	for lines.Scan() {
		var line struct {
			Message string `json:"message"`
			Status  int    `json:"http.response.status_code"`
			API     string `json:"labels.api"`
			Ops     string `json:"labels.ops"`
		}
		err := json.Unmarshal(lines.Bytes(), &line)
		p.hold(lines.Bytes())
		if err == nil && line.Message == "ready" {
			p.api, p.ops = line.API, line.Ops
			close(ready)
		}
		if err != nil || line.Message != "request" || line.Status >= 500 {
			p.mu.Lock()
			p.log.Write(append(lines.Bytes(), '\n'))
			p.mu.Unlock()
		}
	}
	p.err = p.cmd.Wait()
}

// hold holds a log line against the schema that operators' tools know.
func (p *process) hold(line []byte) {
	if p.words = p.words || bytes.HasPrefix(line, []byte("eprod: ")); p.words {
		return
	}
	var fields map[string]any
	problems := []error{json.Unmarshal(line, &fields)}
	if problems[0] == nil {
		problems = telemetry.Fields(fields)
		for name := range fields {
			if !p.mapped[name] && !strings.HasPrefix(name, "labels.") {
				problems = append(problems, fmt.Errorf("%s: deploy/elasticsearch/template.json does not take it", name))
			}
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.lines++
	if p.keep {
		p.all.Write(append(line, '\n'))
	}
	if p.file != nil {
		if _, err := p.file.Write(append(line, '\n')); err != nil {
			p.strange = append(p.strange, err.Error())
		}
	}
	if err := errors.Join(problems...); err != nil && len(p.strange) < 10 {
		p.strange = append(p.strange, fmt.Sprintf("%v in %s", err, line))
	}
}

// mappedFields returns the fields of the shipped template, which is strict.
func mappedFields(t *testing.T) map[string]bool {
	t.Helper()
	var file struct {
		Template struct {
			Mappings struct {
				Dynamic    string
				Properties map[string]any
			}
		}
	}
	if err := json.Unmarshal(deployFile(t, "elasticsearch/template.json"), &file); err != nil {
		t.Fatal(err)
	}
	if file.Template.Mappings.Dynamic != "strict" {
		t.Fatal("the template is not strict")
	}
	names := make(map[string]bool)
	for name := range file.Template.Mappings.Properties {
		names[name] = true
	}
	return names
}

// everything returns the whole log of a process that keeps it.
func (p *process) everything() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.all.String()
}

func (p *process) tail(n int) string {
	p.mu.Lock()
	defer p.mu.Unlock()
	b := p.log.Bytes()
	return string(b[max(0, len(b)-n):])
}

// terminate sends SIGTERM and returns the exit code, failing when the process takes longer than limit.
func (d *deployment) terminate(p *process, limit time.Duration) int {
	d.t.Helper()
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		d.t.Fatalf("SIGTERM: %v", err)
	}
	select {
	case <-p.exited:
	case <-time.After(limit):
		d.t.Fatalf("still running %v after SIGTERM\n%s", limit, p.tail(4000))
	}
	var exit *exec.ExitError
	if errors.As(p.err, &exit) {
		return exit.ExitCode()
	}
	return 0
}

// client speaks to one or more api processes.
type client struct {
	http  *http.Client
	bases []string
	token string
}

func newClient(connections int, bases ...string) *client {
	transport := &http.Transport{MaxIdleConnsPerHost: connections, MaxConnsPerHost: connections / len(bases), DisableCompression: true}
	return &client{http: &http.Client{Transport: transport, Timeout: 30 * time.Second}, bases: bases}
}

// answer is a status and a decoded JSON body.
type answer struct {
	Status int
	Header http.Header
	Body   map[string]any
	Raw    []byte
}

func (a answer) text(key string) string { s, _ := a.Body[key].(string); return s }

func (c *client) do(ctx context.Context, base int, method, path, token string, body []byte) (answer, error) {
	return c.doWith(ctx, base, method, path, token, body, nil)
}

// doWith is do with further headers; empty ones are left out.
func (c *client) doWith(ctx context.Context, base int, method, path, token string, body []byte, headers map[string]string) (answer, error) {
	req, err := http.NewRequestWithContext(ctx, method, c.bases[base%len(c.bases)]+path, bytes.NewReader(body))
	if err != nil {
		return answer{}, err
	}
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	for name, value := range headers {
		if value != "" {
			req.Header.Set(name, value)
		}
	}
	res, err := c.http.Do(req)
	if err != nil {
		return answer{}, err
	}
	defer res.Body.Close()
	raw, err := io.ReadAll(res.Body)
	a := answer{Status: res.StatusCode, Header: res.Header, Raw: raw}
	if err == nil && len(raw) > 0 && raw[0] == '{' {
		err = json.Unmarshal(raw, &a.Body)
	}
	return a, err
}

// must calls as staff and fails the test unless the status is the wanted one.
func (c *client) must(t *testing.T, status int, method, path string, body any) answer {
	t.Helper()
	return c.mustOn(t, 0, status, method, path, body)
}

// mustOn is must on one of the processes.
func (c *client) mustOn(t *testing.T, base, status int, method, path string, body any) answer {
	t.Helper()
	var raw []byte
	switch b := body.(type) {
	case nil:
	case []byte:
		raw = b
	default:
		var err error
		if raw, err = json.Marshal(b); err != nil {
			t.Fatal(err)
		}
	}
	a, err := c.do(t.Context(), base, method, path, c.token, raw)
	if err != nil {
		t.Fatalf("%s %s: %v", method, path, err)
	}
	if a.Status != status {
		t.Fatalf("%s %s: status %d, want %d: %s", method, path, a.Status, status, a.Raw)
	}
	return a
}
