package main

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// named finds what a document names: targets of links, and paths in backticks that begin in a folder of the repository.
var (
	links = regexp.MustCompile(`\]\(([^)#:]+)\)`)
	paths = regexp.MustCompile("`((?:cmd|deploy|internal|docs|dev|migrations|\\.ci)/[A-Za-z0-9_./-]*)`")
)

// TestDocumentsNameRealPaths: what the documents point at exists.
func TestDocumentsNameRealPaths(t *testing.T) {
	root := filepath.Join("..", "..")
	documents, err := filepath.Glob(filepath.Join(root, "*.md"))
	if err != nil {
		t.Fatal(err)
	}
	more, err := filepath.Glob(filepath.Join(root, "docs", "*.md"))
	if err != nil {
		t.Fatal(err)
	}
	documents = append(documents, more...)
	if more, err = filepath.Glob(filepath.Join(root, "docs", "playbooks", "*.md")); err != nil {
		t.Fatal(err)
	}
	documents = append(documents, more...)
	if len(documents) < 4 {
		t.Fatalf("only %v found", documents)
	}
	for _, document := range documents {
		content, err := os.ReadFile(document)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range links.FindAllSubmatch(content, -1) {
			target := filepath.Join(filepath.Dir(document), string(m[1]))
			if _, err := os.Stat(target); err != nil {
				t.Errorf("%s links to %s, which does not exist", document, m[1])
			}
		}
		for _, m := range paths.FindAllSubmatch(content, -1) {
			if _, err := os.Stat(filepath.Join(root, strings.TrimSuffix(string(m[1]), "/"))); err != nil {
				t.Errorf("%s names %s, which does not exist", document, m[1])
			}
		}
	}
}
