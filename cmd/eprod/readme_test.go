package main

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

// TestReadme runs the shell lines of both READMEs as printed, against the demonstration on embedded stores.
func TestReadme(t *testing.T) {
	for _, tool := range []string{"curl", "jq"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Fatalf("%s is needed to run the README's lines: apt-get install %s", tool, tool)
		}
	}
	binary := buildBinary(t)
	for name, last := range map[string]string{"README.md": `"linkId": "medicine-time"`, "README.zh-CN.md": `"state": "open"`} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			d := &deployment{t: t, binary: binary, dir: dir, env: []string{"PATH=" + os.Getenv("PATH"), "HOME=" + dir, "EPROD_LOG__FORMAT=json"}}
			d.start("all", "EPROD_DEMO=true")
			script := exec.Command("bash", "-euo", "pipefail", "-c", readmeLines(t, name))
			script.Dir = dir
			out, err := script.CombinedOutput()
			if err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
			if !bytes.Contains(out, []byte(last)) || bytes.Contains(out, []byte(`"status": 4`)) {
				t.Errorf("the lines do not end with what they promise:\n%s", out)
			}
		})
	}
}

// readmeLines returns the code block that begins with API=.
func readmeLines(t *testing.T, name string) string {
	t.Helper()
	content, err := os.ReadFile(filepath.Join("..", "..", name))
	if err != nil {
		t.Fatal(err)
	}
	for _, block := range regexp.MustCompile("(?s)```sh\n(.*?)```").FindAllSubmatch(content, -1) {
		if strings.HasPrefix(string(block[1]), "API=") {
			return string(block[1])
		}
	}
	t.Fatal("no code block begins with API=")
	return ""
}

// TestEmbeddedAlone: a folder has one process; a restart finds everything again; another process is told who has it.
func TestEmbeddedAlone(t *testing.T) {
	dir := t.TempDir()
	d := &deployment{t: t, binary: buildBinary(t), dir: dir, env: []string{"PATH=" + os.Getenv("PATH"), "HOME=" + dir, "EPROD_LOG__FORMAT=json", "EPROD_HTTP__DRAIN_DELAY=10ms"}}
	first := d.start("all", "EPROD_DEMO=true")
	second := exec.Command(d.binary, "reconcile")
	second.Dir, second.Env = dir, d.env
	if out, err := second.CombinedOutput(); err == nil || !strings.Contains(string(out), "another eprod process") {
		t.Errorf("a second process: %v\n%s", err, out)
	}
	before, err := os.ReadFile(filepath.Join(dir, "data", "demo.json"))
	if err != nil {
		t.Fatal(err)
	}
	if code := d.terminate(first, 20*time.Second); code != 0 {
		t.Fatalf("exit code %d", code)
	}
	d.start("all", "EPROD_DEMO=true")
	after, err := os.ReadFile(filepath.Join(dir, "data", "demo.json"))
	if err != nil {
		t.Fatal(err)
	}
	var was, is demoFile
	if err := json.Unmarshal(before, &was); err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(after, &is); err != nil {
		t.Fatal(err)
	}
	if len(was.Participants) != 6 || len(is.Participants) != 6 || was.Participants[0] != is.Participants[0] || was.Staff[0] != is.Staff[0] {
		t.Errorf("a restart changed the demonstration: %+v, was %+v", is, was)
	}
}

// TestDocumentMatchesRoutes holds the OpenAPI document against the routes that the server really has.
func TestDocumentMatchesRoutes(t *testing.T) {
	c := defaultConfig()
	c.DataDir, c.HTTP.Listen, c.HTTP.OpsListen = t.TempDir(), "127.0.0.1:0", "127.0.0.1:0"
	log := newLogger(&bytes.Buffer{}, &c)
	st, err := openStores(t.Context(), &c, log)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := st.close(); err != nil {
			t.Error(err)
		}
	}()
	if err := st.prepare(t.Context()); err != nil {
		t.Fatal(err)
	}
	a, err := newApp(t.Context(), st)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := a.close(); err != nil {
			t.Error(err)
		}
	}()
	s, err := newServer(t.Context(), a)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.web.CheckDocument(); err != nil {
		t.Error(err)
	}
}
