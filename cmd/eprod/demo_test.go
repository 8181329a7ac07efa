package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestDemoRaisesAlerts: an answer of the demonstration fires both of its rules, the urgent one at the door; staff see what they have found, and a
// restart raises nothing anew.
func TestDemoRaisesAlerts(t *testing.T) {
	dir := t.TempDir()
	d := &deployment{t: t, binary: buildBinary(t), dir: dir, env: []string{"PATH=" + os.Getenv("PATH"), "HOME=" + dir, "EPROD_LOG__FORMAT=json", "EPROD_HTTP__DRAIN_DELAY=10ms"}}
	first := d.start("all", "EPROD_DEMO=true")
	seen := demoAlerts(t, d, first)
	if code := d.terminate(first, 20*time.Second); code != 0 {
		t.Fatalf("exit code %d", code)
	}
	again := demoAlerts(t, d, d.start("all", "EPROD_DEMO=true"))
	if seen != again {
		t.Errorf("after a restart the alerts are %s, were %s", again, seen)
	}
}

// demoAlerts waits until DEMO-001 has its two alerts, of a submission that is stored, and returns their ids.
func demoAlerts(t *testing.T, d *deployment, p *process) string {
	t.Helper()
	content, err := os.ReadFile(filepath.Join(d.dir, "data", "demo.json"))
	if err != nil {
		t.Fatal(err)
	}
	var demo demoFile
	if err := json.Unmarshal(content, &demo); err != nil {
		t.Fatal(err)
	}
	c := newDemoClient(p.api)
	token, err := c.login(t.Context(), demo.Staff[0])
	if err != nil {
		t.Fatal(err)
	}
	id, err := c.study(t.Context(), token, "DEMO-001")
	if err != nil {
		t.Fatal(err)
	}
	var list struct {
		Items []struct {
			ID, Number, Rule, Severity, State, SubmissionState string
			Urgent                                             bool
		}
	}
	eventually(t, time.Minute, func() string {
		if a := c.get(t, "/api/v1/studies/"+id+"/alerts", token); a.status != http.StatusOK || json.Unmarshal(a.body, &list) != nil {
			return fmt.Sprintf("%d %s", a.status, a.body)
		}
		for _, a := range list.Items {
			if a.SubmissionState != "stored" || a.Number != alertedNumber {
				return fmt.Sprintf("%+v", a)
			}
		}
		if len(list.Items) != 2 {
			return fmt.Sprintf("%d alerts", len(list.Items))
		}
		return ""
	})
	want := map[string]string{"self-harm": `"answer":"LA6569-3"`, "severe": `"value":25`}
	for _, a := range list.Items {
		shown := c.get(t, "/api/v1/studies/"+id+"/alerts/"+a.ID, token)
		if want[a.Rule] == "" || !strings.Contains(string(shown.body), want[a.Rule]) || a.State != "open" || a.Rule != "self-harm" && a.Urgent {
			t.Errorf("%+v: %s", a, shown.body)
		}
	}
	return list.Items[0].ID + " " + list.Items[1].ID
}
