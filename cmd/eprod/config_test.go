package main

import (
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	yamlv3 "gopkg.in/yaml.v3"

	"github.com/eprod/eprod/internal/limit"
)

const shipped = "../../config.yaml"

// TestShippedConfig: config.yaml has every key, with the built-in value, and says of each what it is.
func TestShippedConfig(t *testing.T) {
	content, err := os.ReadFile(shipped)
	if err != nil {
		t.Fatal(err)
	}
	var c Config
	if err := load(&c, sources{file: content, name: "config.yaml"}); err != nil {
		t.Fatal(err)
	}
	want := defaultConfig()
	for _, list := range []*[]string{&want.HTTP.TrustedProxies, &want.Kafka.Brokers} {
		*list = []string{}
	}
	want.Database.Shards = []ShardConfig{}
	if diff := cmp.Diff(want, c); diff != "" {
		t.Errorf("built-in values (-) and config.yaml (+) differ:\n%s", diff)
	}
	if err := c.Validate(); err != nil {
		t.Error(err)
	}
	documented := documentedKeys(t, content)
	known := leaves(reflect.ValueOf(want))
	for key := range known {
		comment, ok := documented[key]
		switch p := pattern(key, known); {
		case p == key: // of named entries the first describes all
			found := false
			for k, comment := range documented {
				found = found || pattern(k, known) == p && len(comment) >= 10
			}
			if !found {
				t.Errorf("config.yaml does not say what %s is", key)
			}
		case p != "" && ok:
		case !ok:
			t.Errorf("config.yaml lacks %s", key)
		case len(comment) < 10:
			t.Errorf("config.yaml does not say what %s is", key)
		}
	}
}

// documentedKeys returns the comment above each key of a YAML file.
func documentedKeys(t *testing.T, content []byte) map[string]string {
	t.Helper()
	var root yamlv3.Node
	if err := yamlv3.Unmarshal(content, &root); err != nil {
		t.Fatal(err)
	}
	found := make(map[string]string)
	var walk func(n *yamlv3.Node, prefix string)
	walk = func(n *yamlv3.Node, prefix string) {
		for i := 0; i+1 < len(n.Content); i += 2 {
			key, value := n.Content[i], n.Content[i+1]
			if value.Kind == yamlv3.MappingNode {
				walk(value, prefix+key.Value+".")
				continue
			}
			found[prefix+key.Value] = key.HeadComment
		}
	}
	walk(root.Content[0], "")
	return found
}

// TestBadConfig: every problem is named at once, with its key and what would be right.
func TestBadConfig(t *testing.T) {
	cases := []struct {
		name, file string
		env        []string
		want       []string
	}{
		{"UnknownKey", "http:\n  lisen: :80\n", nil, []string{"config.yaml: http.lisen: unknown key", "http has"}},
		{"UnknownKeyOfEntry", "limits:\n  routes:\n    sign-in: {rat: 5}\n    mine: {brust: 5}\n", nil, []string{"limits.routes.sign-in.rat: unknown key", "limits.routes.mine.brust: unknown key"}},
		{"BadEntry", "limits:\n  routes:\n    mine: {operations: [login], rate: 5, burst: 0, key: phone}\n", nil,
			[]string{"limits.routes.mine.burst: 0: must be", `limits.routes.mine.key: "phone": must be account, address or route`, "limits.routes.mine.scope",
				"login: stands in mine already"}},
		{"MovedKey", "listen: :80\n", nil, []string{"listen: unknown key, perhaps http.listen"}},
		{"UnknownEnv", "", []string{"EPROD_HTTP__LISEN=:80"}, []string{"EPROD_HTTP__LISEN: unknown setting"}},
		{"FileOfNoSecret", "", []string{"EPROD_HTTP__LISTEN_FILE=/x"}, []string{"EPROD_HTTP__LISTEN_FILE: unknown setting"}},
		{"MissingSecretFile", "", []string{"EPROD_AUTH__SIGNING_KEY_FILE=/does/not/exist"}, []string{"EPROD_AUTH__SIGNING_KEY_FILE", "no such file"}},
		{"DurationWithoutUnit", "http:\n  idleTimeout: 5\n", nil, []string{"idleTimeout", "with its unit"}},
		{"WrongType", "kafka:\n  partitions: many\n", nil, []string{"partitions"}},
		{"UnknownKeyInList", "database:\n  shards:\n    - {nam: a}\n", nil, []string{"nam"}},
		{"SeveralAtOnce", "role: boss\nlog:\n  level: loud\nkafka:\n  partitions: 0\n", nil,
			[]string{"role: \"boss\": must be", "log.level: \"loud\": must be", "kafka.partitions: 0: must be"}},
		{"UnknownAndBad", "processor: {fetchByte: 3, fetchWait: 0s, writers: many}\nstudyLock: {settle: 1s}\n", []string{"EPROD_HTTP__LISEN=:80"},
			[]string{"processor.fetchByte: unknown key", "fetchWait: 0s: must be", "writers", "studyLock.settle: 1s: must be", "EPROD_HTTP__LISEN: unknown setting"}},
		{"MissingSecrets", "", []string{"EPROD_DATABASE__META__DSN=u:p@tcp(h)/m", `EPROD_DATABASE__SHARDS=[{"name":"a","dsn":"u:p@tcp(h)/a","buckets":"0-255"}]`},
			[]string{"auth.signingKey: missing", "keyring.masterKeys: missing"}},
		{"BadSecret", "auth:\n  signingKey: short\n", nil, []string{"auth.signingKey: must be base64 of exactly 32"}},
		{"ShardsWithoutMeta", "", []string{`EPROD_DATABASE__SHARDS=[{"name":"a","dsn":"x","buckets":"0-255"}]`}, []string{"belong together"}},
		{"BucketsMissing", "", []string{"EPROD_DATABASE__META__DSN=x", `EPROD_DATABASE__SHARDS=[{"name":"a","dsn":"x","buckets":"0-100"}]`}, []string{"no shard holds the buckets 101"}},
		{"RoleOnEmbedded", "role: api\n", nil, []string{"separate roles need shared stores"}},
		{"OpenMail", "notify:\n  email: {enabled: true, host: mail.example.org, security: none, username: u}\n", nil,
			[]string{"notify.email.security: none: must be", "notify.email.password: must be set", "notify.email.from: \"\": must be"}},
		{"MailInOrder", "notify:\n  order: [smtp]\n", nil, []string{"notify.order: smtp: must name"}},
		{"LockBeforeDoorsKnow", "catalog: {ttl: 3s}\n", nil, []string{"studyLock.settle: 5s: must be more than twice catalog.ttl, which is 3s"}},
		{"LockAsDoorsKnow", "studyLock: {settle: 4s}\n", nil, []string{"studyLock.settle: 4s: must be more than twice catalog.ttl, which is 2s"}},
		{"SlowerThanThreeSeconds", "ingest:\n  spoolTimeout: 5s\n", nil, []string{"must not exceed 3s"}},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			p := &program{env: c.env, flags: map[string]string{}}
			p.configFile = filepath.Join(t.TempDir(), "config.yaml")
			if err := os.WriteFile(p.configFile, []byte(c.file), 0o600); err != nil {
				t.Fatal(err)
			}
			_, err := p.config()
			if err == nil {
				t.Fatal("taken for good")
			}
			for _, want := range c.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("%q is missing in:\n%v", want, err)
				}
			}
		})
	}
}

// TestSourcesWin: flags over the environment over the file, and secrets from files without their final line break.
func TestSourcesWin(t *testing.T) {
	dir := t.TempDir()
	key := filepath.Join(dir, "key")
	if err := os.WriteFile(key, []byte("AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	c := defaultConfig()
	err := load(&c, sources{name: "f", file: []byte("http:\n  listen: :1\n  opsListen: 127.0.0.1:1\nlog:\n  level: warn\nlimits:\n  routes:\n    sign-in: {burst: 7, rate: 1}\n    mine: {operations: [me], rate: 2, burst: 3, key: route, scope: local}\n"),
		env:   []string{"EPROD_HTTP__LISTEN=:2", "EPROD_HTTP__OPS_LISTEN=127.0.0.1:2", "EPROD_KAFKA__BROKERS=a:1, b:2", "EPROD_AUTH__SIGNING_KEY_FILE=" + key, "EPROD_INGEST__BREAKER__OPEN_FOR=7s", "EPROD_LIMITS__ROUTES__SIGN_IN__RATE=0.5", "EPROD_LIMITS__ROUTES__IDS__OPERATIONS=[]", "PATH=/bin"},
		flags: map[string]string{"http.listen": ":3"}})
	if err != nil {
		t.Fatal(err)
	}
	if c.HTTP.Listen != ":3" || c.HTTP.OpsListen != "127.0.0.1:2" || c.Log.Level != "warn" || c.Ingest.Breaker.OpenFor != 7*time.Second ||
		!slices.Equal(c.Kafka.Brokers, []string{"a:1", "b:2"}) || len(c.Auth.SigningKey) != 44 {
		t.Errorf("got %+v", c)
	}
	routes := defaultConfig().Limits.Routes
	signIn, ids := routes["sign-in"], routes["ids"]
	signIn.Burst, signIn.Rate, ids.Operations = 7, 0.5, []string{}
	routes["sign-in"], routes["ids"] = signIn, ids
	routes["mine"] = limit.Rule{Operations: []string{"me"}, Rate: 2, Burst: 3, Key: limit.ByRoute, Scope: limit.Local}
	if diff := cmp.Diff(routes, c.Limits.Routes); diff != "" {
		t.Errorf("rules (-want +got):\n%s", diff)
	}
	if text := c.Auth.SigningKey.String(); text != "***" {
		t.Errorf("a secret shows itself: %s", text)
	}
}
