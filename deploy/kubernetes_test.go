package deploy_test

import (
	"bytes"
	"errors"
	"io"
	"maps"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"gopkg.in/yaml.v3"

	"github.com/eprod/eprod/internal/testenv"
)

// object is what the tests look at of a Kubernetes object.
type object struct {
	Kind     string
	Metadata struct{ Name string }
	Spec     struct {
		Selector       selector
		PodSelector    selector                    `yaml:"podSelector"`
		ScaleTargetRef struct{ Kind, Name string } `yaml:"scaleTargetRef"`
		MinReplicas    int                         `yaml:"minReplicas"`
		MaxReplicas    int                         `yaml:"maxReplicas"`
		AccessModes    []string                    `yaml:"accessModes"`
		Egress         []egress
		Template       struct {
			Metadata struct{ Labels map[string]string }
			Spec     pod
		}
		JobTemplate struct {
			Spec struct {
				Template struct {
					Metadata struct{ Labels map[string]string }
					Spec     pod
				}
			}
		} `yaml:"jobTemplate"`
	}
	Data map[string]string
}

type egress struct {
	To []struct {
		Namespace selector `yaml:"namespaceSelector"`
	}
	Ports []struct{ Port int }
}

type selector struct {
	MatchLabels map[string]string `yaml:"matchLabels"`
}

type pod struct {
	Links      *bool `yaml:"enableServiceLinks"`
	Token      *bool `yaml:"automountServiceAccountToken"`
	Grace      int   `yaml:"terminationGracePeriodSeconds"`
	Containers []container
	Volumes    []struct {
		Name  string
		Claim struct {
			Name     string `yaml:"claimName"`
			ReadOnly bool   `yaml:"readOnly"`
		} `yaml:"persistentVolumeClaim"`
	}
	Context struct {
		NonRoot bool                  `yaml:"runAsNonRoot"`
		User    int                   `yaml:"runAsUser"`
		Seccomp struct{ Type string } `yaml:"seccompProfile"`
	} `yaml:"securityContext"`
}

type container struct {
	Args      []string
	Readiness *probe `yaml:"readinessProbe"`
	Liveness  *probe `yaml:"livenessProbe"`
	Resources struct{ Requests, Limits map[string]string }
	Ports     []struct {
		Name string
		Port int `yaml:"containerPort"`
	}
	Mounts []struct {
		Name     string
		Path     string `yaml:"mountPath"`
		ReadOnly bool   `yaml:"readOnly"`
	} `yaml:"volumeMounts"`
	Context struct {
		Escalation   *bool `yaml:"allowPrivilegeEscalation"`
		ReadOnly     bool  `yaml:"readOnlyRootFilesystem"`
		Capabilities struct{ Drop []string }
	} `yaml:"securityContext"`
}

type probe struct {
	HTTPGet struct{ Path, Port string } `yaml:"httpGet"`
}

// settings are the values of one process, by section and key.
type settings map[string]map[string]any

func (s settings) number(section, key string) int {
	n, _ := s[section][key].(int)
	return n
}

func (s settings) text(section, key string) string {
	v, _ := s[section][key].(string)
	return v
}

func (s settings) duration(t *testing.T, section, key string) time.Duration {
	t.Helper()
	d, err := time.ParseDuration(s.text(section, key))
	if err != nil {
		t.Fatalf("%s.%s: %v", section, key, err)
	}
	return d
}

func kustomize(t *testing.T, folder string) []byte {
	t.Helper()
	cmd := exec.Command(testenv.Tool(t, "kubectl"), "kustomize", folder)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("kubectl kustomize %s: %v\n%s", folder, err, stderr.Bytes())
	}
	return out
}

func kubeconform(t *testing.T, manifests []byte) (string, error) {
	t.Helper()
	cmd := exec.Command(testenv.Tool(t, "kubeconform"), "-strict", "-summary", "-schema-location", "k8s/schemas/{{.ResourceKind}}{{.KindSuffix}}.json")
	cmd.Stdin = bytes.NewReader(manifests)
	out, err := cmd.CombinedOutput()
	return string(out), err
}

func objects(t *testing.T, manifests []byte) []object {
	t.Helper()
	var all []object
	for dec := yaml.NewDecoder(bytes.NewReader(manifests)); ; {
		var o object
		if err := dec.Decode(&o); errors.Is(err, io.EOF) {
			return all
		} else if err != nil {
			t.Fatal(err)
		}
		all = append(all, o)
	}
}

// TestManifests: what kustomize makes is valid Kubernetes, and agrees with itself and with the settings.
func TestManifests(t *testing.T) {
	t.Parallel()
	for _, folder := range []string{"k8s/base", "k8s/example"} {
		t.Run(filepath.Base(folder), func(t *testing.T) {
			t.Parallel()
			manifests := kustomize(t, folder)
			if out, err := kubeconform(t, manifests); err != nil || !strings.Contains(out, "Invalid: 0, Errors: 0, Skipped: 0") {
				t.Fatalf("%v\n%s", err, out)
			}
			for from, to := range map[string]string{"readinessProbe:": "readynessProbe:", "containerPort: 9090": "containerPort: ops", "policyTypes:": "policyType:", "kind: PodDisruptionBudget": "kind: PodBudget"} {
				if out, err := kubeconform(t, bytes.Replace(manifests, []byte(from), []byte(to), 1)); err == nil {
					t.Errorf("%q in place of %q is not found: %s", to, from, out)
				}
			}
			all := objects(t, manifests)
			conf := settingsOf(t, all)
			for _, o := range all {
				switch o.Kind {
				case "Deployment":
					checkServer(t, o, conf)
				case "Job":
					checkPod(t, o.Metadata.Name, o.Spec.Template.Spec, conf)
				case "CronJob":
					checkPod(t, o.Metadata.Name, o.Spec.JobTemplate.Spec.Template.Spec, conf)
				}
			}
			checkReferences(t, all, conf)
			checkArchive(t, all, conf, folder == "k8s/example")
			checkTraces(t, all, conf)
		})
	}
}

// checkArchive: where settings name a folder for archives, every server has it on a volume that many nodes can mount, and processors may write there;
// without one there is none.
func checkArchive(t *testing.T, all []object, s settings, wanted bool) {
	t.Helper()
	dir := s.text("archive", "dir")
	if wanted != (dir != "") {
		t.Errorf("archive.dir is %q", dir)
	}
	shared := make(map[string]bool)
	for _, o := range all {
		if o.Kind == "PersistentVolumeClaim" {
			shared[o.Metadata.Name] = slices.Equal(o.Spec.AccessModes, []string{"ReadWriteMany"})
		}
	}
	for _, o := range all {
		if o.Kind != "Deployment" {
			continue
		}
		p, writable, found := o.Spec.Template.Spec, false, false
		for _, m := range p.Containers[0].Mounts {
			for _, v := range p.Volumes {
				if m.Name == v.Name && v.Claim.Name != "" && m.Path == dir && shared[v.Claim.Name] {
					found, writable = true, !m.ReadOnly && !v.Claim.ReadOnly
				}
			}
		}
		if found != wanted || wanted && writable != strings.HasSuffix(o.Metadata.Name, "processor") {
			t.Errorf("%s: archives at %q: mounted %v, writable %v", o.Metadata.Name, dir, found, writable)
		}
	}
}

// checkTraces: pods may speak to the collector that the settings name.
func checkTraces(t *testing.T, all []object, s settings) {
	t.Helper()
	traces, _ := s["telemetry"]["traces"].(map[string]any)
	endpoint, _ := traces["endpoint"].(string)
	at, err := url.Parse(endpoint)
	if err != nil || at.Port() == "" {
		t.Fatalf("telemetry.traces.endpoint is %q", endpoint)
	}
	_, namespace, _ := strings.Cut(at.Hostname(), ".")
	if !opened(all, namespace, at.Port()) {
		t.Errorf("no network policy opens the way to %s", endpoint)
	}
	if opened(all, namespace, "4317") || !opened(all, "clickhouse", "8443") {
		t.Error("the network policies open other ports than thought")
	}
}

// opened reports whether a policy lets pods speak to a port of a namespace.
func opened(all []object, namespace, port string) bool {
	for _, o := range all {
		for _, e := range o.Spec.Egress {
			for _, to := range e.To {
				for _, p := range e.Ports {
					if o.Kind == "NetworkPolicy" && to.Namespace.MatchLabels["kubernetes.io/metadata.name"] == namespace && strconv.Itoa(p.Port) == port {
						return true
					}
				}
			}
		}
	}
	return false
}

// settingsOf lays the ConfigMap's file over the defaults.
func settingsOf(t *testing.T, all []object) settings {
	t.Helper()
	defaults, err := os.ReadFile("../config.yaml")
	if err != nil {
		t.Fatal(err)
	}
	s := make(settings)
	for _, o := range append([]object{{Kind: "ConfigMap", Data: map[string]string{"config.yaml": string(defaults)}}}, all...) {
		var file map[string]any
		if err := yaml.Unmarshal([]byte(o.Data["config.yaml"]), &file); err != nil {
			t.Fatal(err)
		}
		for section, values := range file {
			if s[section] == nil {
				s[section] = make(map[string]any)
			}
			if values, ok := values.(map[string]any); ok {
				maps.Copy(s[section], values)
			}
		}
	}
	if s.text("http", "opsListen") != ":9090" {
		t.Fatalf("the operators' listener is %q: the ConfigMap was not found, or probes cannot reach it", s.text("http", "opsListen"))
	}
	return s
}

// checkPod holds what every pod of ours must be.
func checkPod(t *testing.T, name string, p pod, s settings) {
	t.Helper()
	if p.Links == nil || *p.Links {
		t.Errorf("%s: service links are on: variables such as EPROD_API_PORT are no settings, and the process would refuse to start", name)
	}
	if p.Token == nil || *p.Token {
		t.Errorf("%s has a token of the cluster", name)
	}
	if !p.Context.NonRoot || p.Context.User != 65532 || p.Context.Seccomp.Type != "RuntimeDefault" || len(p.Containers) != 1 {
		t.Errorf("%s: security context %+v with %d containers", name, p.Context, len(p.Containers))
		return
	}
	c := p.Containers[0]
	if c.Context.Escalation == nil || *c.Context.Escalation || !c.Context.ReadOnly || len(c.Context.Capabilities.Drop) != 1 || c.Context.Capabilities.Drop[0] != "ALL" {
		t.Errorf("%s: container security context %+v", name, c.Context)
	}
	if c.Resources.Requests["cpu"] == "" || c.Resources.Requests["memory"] == "" || c.Resources.Limits["cpu"] != "" {
		t.Errorf("%s: resources %+v", name, c.Resources)
	}
	if limit := mebibytes(t, c.Resources.Limits["memory"]); int64(s.number("runtime", "memoryLimit")) > limit<<20*8/10 {
		t.Errorf("%s: runtime.memoryLimit %d leaves less than a fifth of %d MiB for what the runtime does not count", name, s.number("runtime", "memoryLimit"), limit)
	}
}

// mebibytes reads "512Mi" or "1Gi".
func mebibytes(t *testing.T, quantity string) int64 {
	t.Helper()
	unit := map[string]int64{"Mi": 1, "Gi": 1024}
	if len(quantity) < 3 || unit[quantity[len(quantity)-2:]] == 0 {
		t.Fatalf("memory %q", quantity)
	}
	n, err := strconv.ParseInt(quantity[:len(quantity)-2], 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return n * unit[quantity[len(quantity)-2:]]
}

// checkServer holds what a Deployment must be besides: probes on the operators' listener, and as long to stop as the drain may take.
func checkServer(t *testing.T, o object, s settings) {
	t.Helper()
	name, p := o.Metadata.Name, o.Spec.Template.Spec
	checkPod(t, name, p, s)
	// The stages of the stop, in cmd/eprod/serve.go: the listener or the batch in hand, then the relays, then the producer.
	drain := s.duration(t, "http", "drainDelay") + s.duration(t, "http", "shutdownTimeout") + 2*s.duration(t, "kafka", "ackTimeout") + 10*time.Second
	if grace := time.Duration(p.Grace) * time.Second; grace < drain {
		t.Errorf("%s: %v to stop, the drain may take %v", name, grace, drain)
	}
	c := p.Containers[0]
	ports := make(map[string]int)
	for _, port := range c.Ports {
		ports[port.Name] = port.Port
	}
	if ":"+strconv.Itoa(ports["ops"]) != s.text("http", "opsListen") {
		t.Errorf("%s: port ops is %d, the operators' listener %s", name, ports["ops"], s.text("http", "opsListen"))
	}
	if http, ok := ports["http"]; ok && ":"+strconv.Itoa(http) != s.text("http", "listen") {
		t.Errorf("%s: port http is %d, the listener %s", name, http, s.text("http", "listen"))
	}
	for path, probe := range map[string]*probe{"/livez": c.Liveness, "/readyz": c.Readiness} {
		if probe == nil || probe.HTTPGet.Path != path || probe.HTTPGet.Port != "ops" {
			t.Errorf("%s: no probe asks ops for %s", name, path)
		}
	}
	if role := o.Spec.Template.Metadata.Labels["app.kubernetes.io/component"]; len(c.Args) != 2 || c.Args[0] != "serve" || c.Args[1] != "--role="+role {
		t.Errorf("%s runs %v", name, c.Args)
	}
}

// checkReferences: what points at something points at something that is there, and numbers agree.
func checkReferences(t *testing.T, all []object, s settings) {
	t.Helper()
	pods, count := make(map[string]map[string]string), make(map[string]int)
	for _, o := range all {
		count[o.Kind]++
		switch o.Kind {
		case "Deployment", "Job":
			pods[o.Metadata.Name] = o.Spec.Template.Metadata.Labels
		case "CronJob":
			pods[o.Metadata.Name] = o.Spec.JobTemplate.Spec.Template.Metadata.Labels
		}
	}
	for kind, n := range map[string]int{"Deployment": 2, "PodDisruptionBudget": 2, "HorizontalPodAutoscaler": 2, "NetworkPolicy": 5, "Job": 1, "CronJob": 1, "Service": 1, "ServiceAccount": 1} {
		if count[kind] != n {
			t.Errorf("%d of %s, want %d", count[kind], kind, n)
		}
	}
	for _, o := range all {
		want := o.Spec.Selector.MatchLabels
		if o.Kind == "NetworkPolicy" {
			want = o.Spec.PodSelector.MatchLabels
		}
		matching := 0
		for _, labels := range pods {
			missing := slices.ContainsFunc(slices.Collect(maps.Keys(want)), func(key string) bool { return labels[key] != want[key] })
			if !missing {
				matching++
			}
		}
		switch o.Kind {
		case "NetworkPolicy", "PodDisruptionBudget", "Deployment":
			if matching == 0 || o.Kind != "NetworkPolicy" && matching != 1 {
				t.Errorf("%s %s selects %d kinds of pods by %v", o.Kind, o.Metadata.Name, matching, want)
			}
		case "HorizontalPodAutoscaler":
			if pods[o.Spec.ScaleTargetRef.Name] == nil {
				t.Errorf("%s scales %s, which is not there", o.Metadata.Name, o.Spec.ScaleTargetRef.Name)
			}
			if o.Metadata.Name == "eprod-processor" && o.Spec.MaxReplicas > s.number("kafka", "partitions") {
				t.Errorf("%d processors at most, %d partitions: the rest would idle", o.Spec.MaxReplicas, s.number("kafka", "partitions"))
			}
			if o.Metadata.Name == "eprod-api" && o.Spec.MinReplicas != s.number("limits", "processes") {
				t.Errorf("%d api pods at least, limits.processes is %d", o.Spec.MinReplicas, s.number("limits", "processes"))
			}
		}
	}
}
