package main

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"testing"
)

// TestConsumerExample compiles the package that docs/consumers.md shows, as if it lay in the tree.
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
	if code == nil {
		t.Fatal("docs/consumers.md has no example that begins with // Package tally")
	}
	dir := t.TempDir()
	source, overlay := filepath.Join(dir, "tally.go"), filepath.Join(dir, "overlay.json")
	mapping, err := json.Marshal(map[string]map[string]string{"Replace": {filepath.Join(root, "internal", "tally", "tally.go"): source}})
	if err != nil {
		t.Fatal(err)
	}
	for name, content := range map[string][]byte{source: code[1], overlay: mapping} {
		if err := os.WriteFile(name, content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	build := exec.Command("go", "build", "-overlay", overlay, "./internal/tally")
	build.Dir = root
	if out, err := build.CombinedOutput(); err != nil {
		t.Errorf("the example does not compile: %v\n%s", err, out)
	}
}
