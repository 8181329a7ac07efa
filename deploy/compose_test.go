package deploy_test

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"gopkg.in/yaml.v3"

	"github.com/eprod/eprod/internal/telemetry"
	"github.com/eprod/eprod/internal/testenv"
)

// composeFile is what the tests look at of a compose file.
type composeFile struct {
	Services map[string]struct {
		Image       string
		Build       any
		Command     any
		Environment map[string]any
		Volumes     []string
		Ports       []string
		DependsOn   any    `yaml:"depends_on"`
		Grace       string `yaml:"stop_grace_period"`
	}
	Volumes map[string]any
}

// TestCompose: the file parses, what it mounts and names exists, and nothing is published beyond this machine.
func TestCompose(t *testing.T) {
	t.Parallel()
	var file composeFile
	readYAML(t, "compose.yaml", &file)
	for _, name := range []string{"api-1", "api-2", "processor-1", "processor-2", "migrate", "mysql-shard1", "kafka-3", "redis", "etcd", "prometheus", "alertmanager", "grafana", "jaeger", "collector", "elasticsearch", "kibana", "filebeat"} {
		if file.Services[name].Image == "" {
			t.Errorf("there is no service %s", name)
		}
	}
	for name, s := range file.Services {
		registry, _, hasFolder := strings.Cut(s.Image, "/")
		if hasFolder && strings.ContainsAny(registry, ".:") || !strings.Contains(s.Image, ":") {
			t.Errorf("%s: image %q names a host, or no version", name, s.Image)
		}
		for _, port := range s.Ports {
			if !strings.HasPrefix(port, "127.0.0.1:") {
				t.Errorf("%s publishes %s beyond this machine", name, port)
			}
		}
		for _, volume := range s.Volumes {
			source, _, _ := strings.Cut(volume, ":")
			switch {
			case strings.HasPrefix(source, "."):
				if info, err := os.Stat(source); err != nil || !info.Mode().IsRegular() {
					t.Errorf("%s mounts %s, which is no file: %v", name, source, err)
				}
			case strings.HasPrefix(source, "/"):
			default:
				if _, ok := file.Volumes[source]; !ok {
					t.Errorf("%s mounts the volume %s, which is not declared", name, source)
				}
			}
		}
		for _, other := range dependencies(s.DependsOn) {
			if file.Services[other].Image == "" {
				t.Errorf("%s depends on %s, which is not there", name, other)
			}
		}
		if s.Image == "eprod:dev" && strings.HasPrefix(words(s.Command), "serve") && s.Grace != "60s" {
			t.Errorf("%s is killed after %q, which is shorter than its drain", name, s.Grace)
		}
	}
	checkTargets(t, file)
	// The server runs as an account without rights: what it writes must be given to it.
	owned := fmt.Sprint(file.Services["secrets"].Command)
	for name, s := range file.Services {
		dir, _ := s.Environment["EPROD_ARCHIVE__DIR"].(string)
		if s.Image == "eprod:dev" && (dir == "" || !slices.Contains(s.Volumes, "archive:"+dir) || !strings.Contains(owned, " "+dir)) {
			t.Errorf("%s has archives at %q, and volumes %v", name, dir, s.Volumes)
		}
	}
	if !slices.Contains(file.Services["secrets"].Volumes, "archive:/archive") || !slices.Contains(file.Services["secrets"].Volumes, "metrics:/metrics") {
		t.Error("the folders that the server writes are not made its own")
	}
}

func dependencies(v any) []string {
	var names []string
	switch v := v.(type) {
	case []any:
		for _, name := range v {
			names = append(names, name.(string))
		}
	case map[string]any:
		for name := range v {
			names = append(names, name)
		}
	}
	return names
}

func words(v any) string {
	var out []string
	list, _ := v.([]any)
	for _, word := range list {
		text, _ := word.(string)
		out = append(out, text)
	}
	return strings.Join(out, " ")
}

// checkTargets holds every host:port in the files that are mounted against the services.
func checkTargets(t *testing.T, file composeFile) {
	t.Helper()
	address := regexp.MustCompile(`\b([a-z][a-z0-9-]*[a-z0-9]):(\d{4,5})\b`)
	for _, path := range []string{"prometheus/prometheus.yml", "alertmanager/alertmanager.yml", "nginx/eprod.conf", "grafana/provisioning/datasources.yml", "otel/collector.yml",
		"filebeat/filebeat.yml", "kibana/kibana.yml", "compose.yaml"} {
		content, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		found := 0
		for _, m := range address.FindAllSubmatch(content, -1) {
			found++
			if name := string(m[1]); file.Services[name].Image == "" && name != "localhost" {
				t.Errorf("%s names %s, which is no service", path, m[0])
			}
		}
		if found == 0 {
			t.Errorf("%s names no service", path)
		}
	}
}

// TestOperatorsFiles: what belongs to Prometheus and Alertmanager is read by their own checkers, the rest at least parses.
func TestOperatorsFiles(t *testing.T) {
	t.Parallel()
	if out, err := promtool(t, ".", "check", "config", "prometheus/prometheus.yml"); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
	if out, err := exec.Command(testenv.Tool(t, "amtool"), "check-config", "alertmanager/alertmanager.yml").CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
	for _, pattern := range []string{"*/*.yml", "*/*/*.yml", "*/*.json", "*/*.ndjson"} {
		files, err := filepath.Glob(pattern)
		if err != nil || len(files) == 0 {
			t.Fatalf("%s: %v %v", pattern, files, err)
		}
		for _, path := range files {
			content, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			documents := []string{string(content)}
			if strings.HasSuffix(path, ".ndjson") {
				documents = strings.Split(strings.TrimSpace(string(content)), "\n")
			}
			for _, document := range documents {
				var any any
				if strings.HasSuffix(path, ".yml") {
					err = yaml.Unmarshal([]byte(document), &any)
				} else {
					err = json.Unmarshal([]byte(document), &any)
				}
				if err != nil || any == nil {
					t.Errorf("%s: %v", path, err)
				}
			}
		}
	}
}

// TestTemplate: Elasticsearch's template is strict, has what docs/telemetry.md says that lines have, and no field with another type than the schema's.
func TestTemplate(t *testing.T) {
	t.Parallel()
	content, err := os.ReadFile("elasticsearch/template.json")
	if err != nil {
		t.Fatal(err)
	}
	var file struct {
		Template struct {
			Mappings struct {
				Dynamic    string
				Properties map[string]struct{ Type string }
			}
		}
	}
	if err := json.Unmarshal(content, &file); err != nil {
		t.Fatal(err)
	}
	mappings := file.Template.Mappings
	if mappings.Dynamic != "strict" {
		t.Errorf("the mapping is %q", mappings.Dynamic)
	}
	line, value := make(map[string]any), map[string]any{"keyword": "x", "text": "x", "long": 1.0, "date": "2026-01-01T00:00:00Z"}
	for name, p := range mappings.Properties {
		shippers := name == "stream" || name == "log.offset" // are Filebeat's own
		if p.Type != "object" && !shippers {
			line[name] = value[p.Type]
		}
	}
	for _, problem := range telemetry.Fields(line) {
		t.Error(problem)
	}
	page, err := os.ReadFile("../docs/telemetry.md")
	if err != nil {
		t.Fatal(err)
	}
	documented := 0
	for _, row := range regexp.MustCompile("(?m)^\\| (`[a-z@][^|]*`) \\|").FindAllStringSubmatch(string(page), -1) {
		for _, name := range regexp.MustCompile("`([^`]+)`").FindAllStringSubmatch(row[1], -1) {
			if name[1] == "labels.*" {
				continue
			}
			documented++
			if line[name[1]] == nil {
				t.Errorf("%s is documented and not in the template", name[1])
			}
		}
	}
	if documented != len(line) {
		t.Errorf("%d fields are documented, the template has %d", documented, len(line))
	}
}
