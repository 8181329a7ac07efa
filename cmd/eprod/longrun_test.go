package main

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestLongRunIsWhole: dev/test-long runs every test that has a long variant, and names no test that is not there.
func TestLongRunIsWhole(t *testing.T) {
	t.Parallel()
	root := filepath.Join("..", "..")
	script, err := os.ReadFile(filepath.Join(root, "dev", "test-long"))
	if err != nil {
		t.Fatal(err)
	}
	runs := make(map[string][]string) // package → patterns, "" is all of it
	for _, line := range regexp.MustCompile(`(?m)^long (?:-run '([^']*)' )?(.*)$`).FindAllStringSubmatch(string(script), -1) {
		for _, name := range strings.Fields(line[2]) {
			runs[filepath.Clean(name)] = append(runs[filepath.Clean(name)], line[1])
		}
	}
	if len(runs) < 5 {
		t.Fatalf("only %v are run", runs)
	}
	tests, long := make(map[string][]string), 0
	look := func(path string, _ fs.DirEntry, err error) error {
		if err != nil || !strings.HasSuffix(path, "_test.go") {
			return err
		}
		file, err := parser.ParseFile(token.NewFileSet(), path, nil, 0)
		if err != nil {
			return err
		}
		at, err := filepath.Rel(root, filepath.Dir(path))
		for _, declared := range file.Decls {
			f, ok := declared.(*ast.FuncDecl)
			if !ok || f.Recv != nil {
				continue
			}
			test := strings.HasPrefix(f.Name.Name, "Test")
			if test {
				tests[at] = append(tests[at], f.Name.Name)
			}
			if !asksForLong(f) {
				continue
			}
			long++
			if test && !matchesAny(runs[at], f.Name.Name) || !test && runs[at] == nil {
				t.Errorf("%s has a long variant of %s, which dev/test-long does not run", at, f.Name.Name)
			}
		}
		return err
	}
	for _, folder := range []string{"cmd", "deploy", "internal"} {
		if err := filepath.WalkDir(filepath.Join(root, folder), look); err != nil {
			t.Fatal(err)
		}
	}
	if long < 10 {
		t.Errorf("only %d long variants found", long)
	}
	for at, patterns := range runs {
		for _, pattern := range patterns {
			for _, one := range strings.Split(pattern, "|") {
				found := false
				for _, name := range tests[at] {
					found = found || matchesAny([]string{one}, name)
				}
				if !found {
					t.Errorf("dev/test-long runs %q in %s, where no test is called so", one, at)
				}
			}
		}
	}
}

// asksForLong reports whether a function looks whether long variants are wanted.
func asksForLong(f *ast.FuncDecl) bool {
	found := false
	ast.Inspect(f, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.SelectorExpr:
			x, _ := n.X.(*ast.Ident)
			found = found || x != nil && x.Name == "testenv" && n.Sel.Name == "Long"
		case *ast.CallExpr:
			if len(n.Args) == 1 {
				text, _ := n.Args[0].(*ast.BasicLit)
				found = found || text != nil && text.Value == `"EPROD_TEST_LONG"`
			}
		}
		return true
	})
	return found
}

func matchesAny(patterns []string, name string) bool {
	for _, pattern := range patterns {
		if regexp.MustCompile(pattern).MatchString(name) {
			return true
		}
	}
	return false
}
