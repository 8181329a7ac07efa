package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/eprod/eprod/internal/archive"
)

// answered is what the API says: a status, and the body.
type answered struct {
	status int
	body   []byte
}

func (c *demoClient) get(t *testing.T, path, token string) answered {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, c.base+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+token)
	res, err := c.http.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	var raw json.RawMessage
	if err := json.NewDecoder(res.Body).Decode(&raw); err != nil {
		t.Fatal(err)
	}
	return answered{res.StatusCode, raw}
}

// TestDemoIsArchived: the demonstration's third study ends in the archive by itself; its reads say where it is, and a restore brings
// every response back.
func TestDemoIsArchived(t *testing.T) {
	dir := t.TempDir()
	d := &deployment{t: t, binary: buildBinary(t), dir: dir, env: []string{"PATH=" + os.Getenv("PATH"), "HOME=" + dir, "EPROD_LOG__FORMAT=json", "EPROD_HTTP__DRAIN_DELAY=10ms",
		"EPROD_CATALOG__TTL=300ms", "EPROD_STUDY_LOCK__SETTLE=700ms", "EPROD_STUDY_LOCK__INTERVAL=50ms", "EPROD_ARCHIVE__POLL=200ms"}}
	p := d.start("all", "EPROD_DEMO=true")
	c := &demoClient{base: p.api, http: &http.Client{Timeout: 10 * time.Second}}
	content, err := os.ReadFile(filepath.Join(dir, "data", "demo.json"))
	if err != nil {
		t.Fatal(err)
	}
	var demo demoFile
	if err := json.Unmarshal(content, &demo); err != nil {
		t.Fatal(err)
	}
	var staff struct{ AccessToken string }
	if err := c.call(t.Context(), "POST", "/api/v1/auth/login", "", map[string]string{"username": demo.Staff[0].Username, "password": demo.Staff[0].Password}, &staff); err != nil {
		t.Fatal(err)
	}
	token := staff.AccessToken
	id := ""
	moved := func(direction string) string {
		if id, err = c.study(t.Context(), token, "DEMO-003"); err != nil || id == "" {
			return fmt.Sprintf("study %q, %v", id, err)
		}
		var run struct{ Direction, Step, Problem string }
		if a := c.get(t, "/api/v1/studies/"+id+"/archive", token); a.status != http.StatusOK || json.Unmarshal(a.body, &run) != nil || run.Direction != direction || run.Step != "done" {
			return fmt.Sprintf("%d %+v", a.status, run)
		}
		return ""
	}
	eventually(t, 90*time.Second, func() string { return moved("archive") })
	for _, path := range []string{"/responses", "/participants", "/quarantine", "/adherence"} {
		eventually(t, 10*time.Second, func() string { return refused(c.get(t, "/api/v1/studies/"+id+path, token)) })
	}
	for _, path := range []string{"", "/sites", "/schedule", "/questionnaires", "/archive", "/lock"} {
		if a := c.get(t, "/api/v1/studies/"+id+path, token); a.status != http.StatusOK {
			t.Errorf("%s: %d %s", path, a.status, a.body)
		}
	}
	checkManifest(t, c, id, token)

	if err := c.call(t.Context(), "POST", "/api/v1/studies/"+id+"/archive/restore", token, map[string]string{"reason": "inspection"}, nil); err != nil {
		t.Fatal(err)
	}
	eventually(t, 30*time.Second, func() string { return moved("restore") })
	var list struct{ Items []struct{ ID string } }
	eventually(t, 10*time.Second, func() string {
		if a := c.get(t, "/api/v1/studies/"+id+"/responses", token); a.status != http.StatusOK || json.Unmarshal(a.body, &list) != nil {
			return fmt.Sprint(a.status)
		}
		return ""
	})
	if len(list.Items) != 4 {
		t.Errorf("%d responses came back", len(list.Items))
	}
	for _, item := range list.Items {
		if a := c.get(t, "/api/v1/responses/"+item.ID, token); a.status != http.StatusOK || !strings.Contains(string(a.body), "pain-site") {
			t.Errorf("%d %s", a.status, a.body)
		}
	}
}

func refused(a answered) string {
	var problem struct {
		Code    string
		Archive struct{ Manifest, SHA256 string }
	}
	if err := json.Unmarshal(a.body, &problem); err != nil || a.status != http.StatusConflict || problem.Code != archive.CodeArchived || problem.Archive.Manifest == "" {
		return fmt.Sprintf("%d %s %v", a.status, a.body, err)
	}
	return ""
}

func checkManifest(t *testing.T, c *demoClient, id, token string) {
	t.Helper()
	var run struct {
		Place    string
		Manifest archive.Manifest
	}
	if err := json.Unmarshal(c.get(t, "/api/v1/studies/"+id+"/archive", token).body, &run); err != nil {
		t.Fatal(err)
	}
	var responses int64
	for _, m := range run.Manifest.Months {
		responses += m.Responses
	}
	if responses != 4 || run.Manifest.Protocol != "DEMO-003" || len(run.Manifest.Files) == 0 {
		t.Errorf("%+v", run.Manifest)
	}
	for _, name := range []string{run.Place, run.Place + ".jws"} {
		if _, err := os.Stat(name); err != nil {
			t.Error(err)
		}
	}
}

// TestRoutesOfArchivedStudies: every route of a study either speaks of its design, which stays, or of data, which are in the archive.
// A new one must be in one of the two lists, so that somebody has thought about it.
func TestRoutesOfArchivedStudies(t *testing.T) {
	data := []string{"adherence", "alerts", "assessments", "participants", "quarantine", "responses"}
	s := documented(t)
	var parts []string
	for path := range s.web.API().OpenAPI().Paths {
		rest, ok := strings.CutPrefix(path, "/api/v1/studies/{id}")
		if !ok {
			continue
		}
		part, _, _ := strings.Cut(strings.TrimPrefix(rest, "/"), "/")
		if !slices.Contains(parts, part) {
			parts = append(parts, part)
		}
	}
	slices.Sort(parts)
	want := slices.Concat(archive.Kept(), data)
	slices.Sort(want)
	if diff := cmp.Diff(want, parts); diff != "" {
		t.Errorf("the parts of /api/v1/studies/{id}/…: a new one that is answered from the metadata database belongs into Kept in internal/archive/http_reads.go, one that reads the shards into the list of this test: %s", diff)
	}
}

// documented is a server with all its routes, over embedded stores; nothing listens.
func documented(t *testing.T) *server {
	t.Helper()
	c := defaultConfig()
	c.DataDir, c.HTTP.Listen, c.HTTP.OpsListen = t.TempDir(), "127.0.0.1:0", "127.0.0.1:0"
	st, err := openStores(t.Context(), &c, newLogger(os.Stderr, &c))
	if err != nil {
		t.Fatal(err)
	}
	if err := st.prepare(t.Context()); err != nil {
		t.Fatal(errors.Join(err, st.close()))
	}
	a, err := newApp(t.Context(), st)
	if err != nil {
		t.Fatal(errors.Join(err, st.close()))
	}
	t.Cleanup(func() {
		if err := errors.Join(a.close(), st.close()); err != nil {
			t.Error(err)
		}
	})
	s, err := newServer(t.Context(), a)
	if err != nil {
		t.Fatal(err)
	}
	return s
}
