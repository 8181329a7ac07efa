package main

import (
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"path"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/eprod/eprod/"

// foundation knows nothing of clinical trials; every context may import it. Each entry names what of it the package itself
// may import.
var foundation = map[string][]string{
	"errs": {}, "trace": {"errs"}, "idgen": {"errs", "db", "web"}, "db": {"errs", "trace"}, "kafka": {"errs", "trace"}, "cache": {"errs", "kafka", "outbox"}, "lock": {"errs", "db"},
	"outbox": {"errs", "db", "kafka", "trace"}, "keyring": {"errs"}, "limit": {"errs", "web"}, "web": {"errs", "trace"}, "telemetry": {"errs", "trace"},
	"embedded": {"errs", "kafka"}, "growth": {"errs", "db"}, "strictjson": {"errs"},
}

// contexts lists, lowest first, which other contexts each one may import. What ingest and processor share is submission,
// task or an event: they never import one another.
var contexts = map[string][]string{
	"archive":       {"audit", "auth", "questionnaire", "submission", "task"},
	"audit":         {},
	"auth":          {},
	"questionnaire": {},
	"user":          {"audit", "auth"},
	"task":          {"audit", "auth"},
	"study":         {"audit", "auth", "questionnaire", "task", "user"},
	"participant":   {"audit", "auth", "study", "task", "user"},
	"submission":    {"audit", "auth", "questionnaire", "task"},
	"notify":        {"audit", "auth", "task"},
	"risk":          {"audit", "auth", "participant", "questionnaire", "study", "submission"},
	"safety":        {"audit", "auth", "participant", "questionnaire", "study", "submission", "task"},
	"ingest":        {"auth", "participant", "questionnaire", "study", "submission", "task"},
	"processor":     {"audit", "participant", "questionnaire", "study", "submission", "task"},
}

// owners says where a library may appear: packages, or files by name.
var owners = map[string]struct{ packages, files []string }{
	"github.com/IBM/sarama":            {packages: []string{"kafka"}},
	"github.com/redis/go-redis/v9":     {packages: []string{"cache", "lock", "idgen", "limit", "cmd/eprod"}},
	"go.etcd.io/etcd/client/v3":        {packages: []string{"lock", "idgen", "cmd/eprod"}},
	"github.com/gin-gonic/gin":         {packages: []string{"web", "auth"}, files: []string{"http*.go"}},
	"gorm.io/gorm":                     {packages: []string{"db", "outbox", "audit"}, files: []string{"store*.go"}},
	"github.com/sony/gobreaker/v2":     {packages: []string{"limit"}},
	"golang.org/x/time/rate":           {packages: []string{"limit"}},
	"github.com/golang-jwt/jwt/v5":     {packages: []string{"auth"}},
	"github.com/alicebob/miniredis":    {packages: []string{"embedded"}},
	"github.com/twmb/franz-go":         {packages: []string{"embedded"}},
	"github.com/parquet-go/parquet-go": {packages: []string{"archive"}},
	"go.opentelemetry.io":              {packages: []string{"trace", "telemetry"}},
}

type goPackage struct {
	ImportPath, Dir string
	GoFiles         []string
	Imports         []string
}

// TestImports holds the arrows between packages against the lists above.
func TestImports(t *testing.T) {
	for _, p := range listPackages(t) {
		name := strings.TrimPrefix(strings.TrimPrefix(p.ImportPath, module), "internal/")
		checkArrows(t, name, p)
		for _, file := range p.GoFiles {
			checkOwners(t, name, p.Dir, file)
		}
	}
}

func listPackages(t *testing.T) []goPackage {
	t.Helper()
	out, err := exec.Command("go", "list", "-json=ImportPath,Dir,GoFiles,Imports", module+"...").Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	var packages []goPackage
	for dec := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p goPackage
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			return packages
		} else if err != nil {
			t.Fatal(err)
		}
		packages = append(packages, p)
	}
}

func checkArrows(t *testing.T, name string, p goPackage) {
	t.Helper()
	if strings.HasPrefix(name, "cmd/") || name == "testenv" || name == "migrations" || name == "deploy" {
		return
	}
	allowed, isContext := contexts[name]
	if isContext {
		for base := range foundation {
			allowed = append(slices.Clone(allowed), base)
		}
	} else {
		var known bool
		if allowed, known = foundation[name]; !known {
			t.Errorf("package %s is in no list of this test: say where it stands", name)
			return
		}
	}
	for _, imported := range p.Imports {
		target, ours := strings.CutPrefix(imported, module+"internal/")
		switch {
		case imported == module+"migrations" && name == "db":
		case strings.HasPrefix(imported, module) && !ours:
			t.Errorf("%s imports %s", name, imported)
		case ours && !slices.Contains(allowed, target):
			t.Errorf("%s imports %s; it may import %v", name, target, allowed)
		}
	}
}

func checkOwners(t *testing.T, name, dir, file string) {
	t.Helper()
	for _, imported := range fileImports(t, path.Join(dir, file)) {
		for library, owner := range owners {
			if imported != library && !strings.HasPrefix(imported, library+"/") || name == "testenv" {
				continue
			}
			named := slices.ContainsFunc(owner.files, func(pattern string) bool { ok, _ := path.Match(pattern, file); return ok })
			if !named && !slices.Contains(owner.packages, name) {
				t.Errorf("%s/%s imports %s, which belongs to %v %v", name, file, imported, owner.packages, owner.files)
			}
		}
		if imported == "os" && !strings.HasPrefix(name, "cmd/") && readsEnvironment(t, path.Join(dir, file)) && name != "testenv" {
			t.Errorf("%s/%s reads the environment: only cmd/eprod/config.go does", name, file)
		}
	}
}
