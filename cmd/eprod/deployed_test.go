package main

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	yamlv3 "gopkg.in/yaml.v3"
)

// secretFiles writes secrets of the right form and returns the folder.
func secretFiles(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	const key = "ZXhhbXBsZS1leGFtcGxlLWV4YW1wbGUtZXhhbXBsZS0="
	for name, content := range map[string]string{"signing-key": key, "master-keys": "1:" + key} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// checkSettings runs eprod config check under an environment, as its container would.
func checkSettings(t *testing.T, env ...string) (string, error) {
	t.Helper()
	root := rootCommand(env)
	var out strings.Builder
	root.SetOut(&out)
	root.SetErr(&out)
	root.SetArgs([]string{"config", "check"})
	err := root.ExecuteContext(t.Context())
	return out.String(), err
}

// TestComposeSettings: the settings of every eprod container in the compose files are good.
func TestComposeSettings(t *testing.T) {
	t.Parallel()
	secrets := secretFiles(t)
	variable := regexp.MustCompile(`\$\{\w+:-([^}]*)\}`)
	for path, servers := range map[string]int{"../../compose.yaml": 2, "../../deploy/compose.yaml": 4} {
		content, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		var file struct {
			Services map[string]struct {
				Image       string
				Command     any
				Environment map[string]any
			}
		}
		if err := yamlv3.Unmarshal(variable.ReplaceAll(content, []byte("$1")), &file); err != nil {
			t.Fatal(err)
		}
		found := 0
		for name, s := range file.Services {
			if s.Image != "eprod:dev" {
				continue
			}
			var env []string
			for key, value := range s.Environment {
				env = append(env, fmt.Sprintf("%s=%v", key, strings.Replace(fmt.Sprint(value), "/secrets/", secrets+"/", 1)))
			}
			command, _ := s.Command.([]any)
			for _, word := range command {
				if role, ok := strings.CutPrefix(fmt.Sprint(word), "--role="); ok {
					env = append(env, "EPROD_ROLE="+role)
					found++
				}
			}
			if out, err := checkSettings(t, env...); err != nil {
				t.Errorf("%s: %s: %v\n%s", path, name, err, out)
			}
		}
		if found != servers {
			t.Errorf("%s has %d servers, want %d", path, found, servers)
		}
	}
}

// TestKubernetesSettings: the settings of the pods are good, with secrets as files; and a wrong one would be found.
func TestKubernetesSettings(t *testing.T) {
	t.Parallel()
	secrets := "../../deploy/k8s/example/secrets/"
	for _, folder := range []string{"base", "example"} {
		for _, role := range []string{roleAPI, roleProcessor} {
			env := []string{"EPROD_CONFIG=../../deploy/k8s/" + folder + "/config.yaml", "EPROD_ROLE=" + role, "EPROD_DATABASE__META__DSN_FILE=" + secrets + "meta-dsn",
				"EPROD_DATABASE__SHARDS_FILE=" + secrets + "shards", "EPROD_AUTH__SIGNING_KEY_FILE=" + secrets + "signing-key", "EPROD_KEYRING__MASTER_KEYS_FILE=" + secrets + "master-keys"}
			if out, err := checkSettings(t, env...); err != nil {
				t.Errorf("%s %s: %v\n%s", folder, role, err, out)
			}
			// What a Service named eprod-api would add where service links are on.
			if _, err := checkSettings(t, append(env, "EPROD_API_SERVICE_HOST=10.0.0.1")...); err == nil {
				t.Errorf("%s %s: an unknown variable is not found", folder, role)
			}
		}
		pods, err := os.ReadFile("../../deploy/k8s/base/api.yaml")
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{"EPROD_CONFIG", "EPROD_DATABASE__META__DSN_FILE", "EPROD_DATABASE__SHARDS_FILE", "EPROD_AUTH__SIGNING_KEY_FILE", "EPROD_KEYRING__MASTER_KEYS_FILE"} {
			if strings.Count(string(pods), "name: EPROD_") != 5 || !strings.Contains(string(pods), "name: "+name+",") {
				t.Errorf("the pods do not have exactly the variables that were tried: %s", name)
			}
		}
	}
}
