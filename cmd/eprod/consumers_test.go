package main

import (
	"bytes"
	"encoding/json"
	"go/format"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/eprod/eprod/internal/kafka"
)

// TestConsumerExample compiles the package that docs/consumers.md shows as if it lay in the tree, and with it the line that the page adds
// to the table of consumers: nothing else is needed.
func TestConsumerExample(t *testing.T) {
	root, err := filepath.Abs(filepath.Join("..", ".."))
	if err != nil {
		t.Fatal(err)
	}
	page, err := os.ReadFile(filepath.Join(root, "docs", "consumers.md"))
	if err != nil {
		t.Fatal(err)
	}
	code := regexp.MustCompile("(?s)```go\n(// Package tally.*?)```").FindSubmatch(page)
	line := regexp.MustCompile("```go\n(s\\.follower\\(\"tally\".*)\n```").FindSubmatch(page)
	if code == nil || line == nil {
		t.Fatal("docs/consumers.md has no example that begins with // Package tally, or no line of the table")
	}
	table, err := os.ReadFile("serve.go")
	if err != nil {
		t.Fatal(err)
	}
	with := bytes.Replace(table, []byte("return []consumer{\n"), []byte("return []consumer{\n"+string(line[1])+"\n"), 1)
	with = bytes.Replace(with, []byte("import (\n"), []byte("import (\n\"github.com/eprod/eprod/internal/tally\"\n"), 1)
	if with, err = format.Source(with); err != nil || bytes.Count(with, []byte("tally.New")) != 1 {
		t.Fatalf("the table of consumers is not where the test looks for it: %v", err)
	}
	dir := t.TempDir()
	files := map[string][]byte{filepath.Join(root, "internal", "tally", "tally.go"): code[1], filepath.Join(root, "cmd", "eprod", "serve.go"): with}
	replace := make(map[string]string)
	for path, content := range files {
		replace[path] = filepath.Join(dir, filepath.Base(path))
		if err := os.WriteFile(replace[path], content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	mapping, err := json.Marshal(map[string]any{"Replace": replace})
	if err != nil {
		t.Fatal(err)
	}
	overlay := filepath.Join(dir, "overlay.json")
	if err := os.WriteFile(overlay, mapping, 0o600); err != nil {
		t.Fatal(err)
	}
	build := exec.Command("go", "build", "-overlay", overlay, "-o", dir, "./internal/tally", "./cmd/eprod")
	build.Dir = root
	if out, err := build.CombinedOutput(); err != nil {
		t.Errorf("the example does not compile: %v\n%s", err, out)
	}
}

// TestConsumersAreSeen: whatever reads the log as a group does so by a line of the table of consumers, so that operators see its lag; and
// no two share a group.
func TestConsumersAreSeen(t *testing.T) {
	s := documented(t)
	var names []string
	var groups []kafka.Group
	for _, c := range s.consumers() {
		if slices.Contains(names, c.group.Name) || c.group.Name == "" || c.group.Topic == "" || c.run == nil {
			t.Errorf("%s: the group %+v is incomplete, or another one's", c.name, c.group)
		}
		names, groups = append(names, c.group.Name), append(groups, c.group)
		if !slices.ContainsFunc(s.parts(), func(p part) bool { return p.name == c.name && p.stage == stageIntake && slices.Equal(p.roles, c.roles) }) {
			t.Errorf("%s does not run", c.name)
		}
	}
	if !slices.Equal(groups, s.consumerGroups()) {
		t.Errorf("operators see the groups %v of %v", s.consumerGroups(), groups)
	}
	// What calls kafka.Consume past the table must be named in it.
	calls := regexp.MustCompile(`kafka\.DefaultConsumerConfig\((\w+)`)
	sources, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	serve, err := os.ReadFile("serve.go")
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range sources {
		if strings.HasSuffix(path, "_test.go") {
			continue
		}
		raw, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		for _, call := range calls.FindAllSubmatch(raw, -1) {
			if word := string(call[1]); word != "group" && word != "processorGroup" && !strings.Contains(string(serve), "kafka.Group{Name: "+word+",") {
				t.Errorf("%s consumes as %s, which is no group of the table of consumers", path, word)
			}
		}
	}
}
