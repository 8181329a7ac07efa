package archive

import (
	"encoding/pem"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestClickHouseConfig(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*ClickHouseConfig)
		want   string // "": good
	}{
		"off":             {func(c *ClickHouseConfig) { c.URL, c.Database = "", "x y" }, ""},
		"https":           {func(*ClickHouseConfig) {}, ""},
		"here":            {func(c *ClickHouseConfig) { c.URL = "http://127.0.0.1:8123" }, ""},
		"in the clear":    {func(c *ClickHouseConfig) { c.URL = "http://clickhouse:8123" }, "url: http://"},
		"allowed":         {func(c *ClickHouseConfig) { c.URL, c.PlainHTTP = "http://clickhouse:8123", true }, ""},
		"account in it":   {func(c *ClickHouseConfig) { c.URL = "https://u:p@clickhouse:8443" }, "url: must look like"},
		"no host":         {func(c *ClickHouseConfig) { c.URL = "clickhouse" }, "url: must look like"},
		"injection":       {func(c *ClickHouseConfig) { c.Database = "a; DROP" }, "database:"},
		"half of a pair":  {func(c *ClickHouseConfig) { c.CertFile = "x.pem" }, "certFile:"},
		"without waiting": {func(c *ClickHouseConfig) { c.Timeout = 0 }, "timeout:"},
	} {
		config := DefaultClickHouse()
		config.URL = "https://clickhouse.example.org:8443"
		c.change(&config)
		err := config.Validate()
		if (err == nil) != (c.want == "") || err != nil && !strings.HasPrefix(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
}

// TestClickHouseConnection: TLS with the authority that the settings name and no other, credentials in headers, no redirect followed,
// and nothing of what the server says in an error.
func TestClickHouseConnection(t *testing.T) {
	var seen []*http.Request
	var bodies []string
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		raw, _ := io.ReadAll(r.Body)
		seen, bodies = append(seen, r), append(bodies, string(raw))
		switch statement := r.URL.Query().Get("query"); {
		case strings.HasPrefix(statement, "SELECT"):
			fmt.Fprintln(w, "42")
		case strings.HasPrefix(statement, "OPTIMIZE"):
			http.Redirect(w, r, "https://elsewhere.example.org/", http.StatusTemporaryRedirect)
		case strings.HasPrefix(statement, "ALTER"):
			w.Header().Set("X-ClickHouse-Exception-Code", "60")
			http.Error(w, "Canary of a row", http.StatusInternalServerError)
		}
	}))
	defer server.Close()
	c := DefaultClickHouse()
	c.URL, c.User, c.Timeout = server.URL, "loader", 5*time.Second
	stranger, err := NewClickHouse(c, "secret")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := stranger.count(t.Context(), KindAnswers, 1, false); err == nil || len(seen) > 0 {
		t.Errorf("a server that nobody vouches for was asked: %v", err)
	}
	c.CAFile = filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(c.CAFile, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	known, err := NewClickHouse(c, "secret")
	if err != nil {
		t.Fatal(err)
	}
	if n, err := known.count(t.Context(), KindAnswers, 1, false); err != nil || n != 42 {
		t.Errorf("%d, %v", n, err)
	}
	if r := seen[0]; r.Header.Get("X-ClickHouse-User") != "loader" || r.Header.Get("X-ClickHouse-Key") != "secret" || strings.Contains(r.URL.String(), "secret") || r.Method != http.MethodPost {
		t.Errorf("%s %s %v", r.Method, r.URL, r.Header)
	}
	if err := known.insert(t.Context(), KindAnswers, memoryFile("PAR1 bytes PAR1")); err != nil {
		t.Error(err)
	}
	if at := len(seen) - 1; bodies[at] != "PAR1 bytes PAR1" || seen[at].URL.Query().Get("query") != "INSERT INTO eprod.eprod_answers FORMAT Parquet" {
		t.Errorf("%s %q", seen[at].URL, bodies[at])
	}
	if err := known.merge(t.Context(), KindAnswers, 1); err == nil {
		t.Error("a redirect was followed or taken for success")
	}
	if err := known.drop(t.Context(), 1); err == nil || strings.Contains(err.Error(), "Canary") || !strings.Contains(err.Error(), "60") {
		t.Errorf("%v", err)
	}
}

type memory struct{ *strings.Reader }

func memoryFile(s string) File { return memory{strings.NewReader(s)} }

// Close implements File.
func (memory) Close() error { return nil }

// TestClickHouseFiles: files that cannot be used are named when the client is made.
func TestClickHouseFiles(t *testing.T) {
	empty := filepath.Join(t.TempDir(), "empty.pem")
	if err := os.WriteFile(empty, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for key, change := range map[string]func(*ClickHouseConfig){
		"caFile: open":  func(c *ClickHouseConfig) { c.CAFile = empty + ".not" },
		"caFile: holds": func(c *ClickHouseConfig) { c.CAFile = empty },
		"certFile":      func(c *ClickHouseConfig) { c.CertFile, c.KeyFile = empty, empty },
	} {
		c := DefaultClickHouse()
		change(&c)
		if _, err := NewClickHouse(c, ""); err == nil || !strings.Contains(err.Error(), key) {
			t.Errorf("%s: %v", key, err)
		}
	}
}
