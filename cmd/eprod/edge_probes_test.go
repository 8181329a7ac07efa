package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"
)

// probes returns a request for every operation that the server has. What concerns one participant is asked for one on each shard. A
// read that nobody wrote a probe for gets one from its path; a write without one fails the test, and so does an operation that
// docs/edge.md has in no group, or one there that the server does not have.
func (w *edgeWorld) probes(t *testing.T, page edgePage) (all []*probe) {
	t.Helper()
	written := make(map[string]bool)
	add := func(op string, side int, next func() call) {
		written[op] = true
		all = append(all, &probe{op: op, side: side, next: next})
	}
	for side := range w.known {
		w.participantProbes(side, func(op string, next func() call) { add(op, side, next) })
	}
	w.studyProbes(func(op string, next func() call) { add(op, -1, next) })
	a, err := w.do(t.Context(), 0, call{method: "GET", path: "/api/v1/openapi.json"})
	if err != nil || a.Status != http.StatusOK {
		t.Fatalf("API document: %d %v", a.Status, err)
	}
	var document struct {
		Paths map[string]map[string]struct {
			OperationID string `json:"operationId"`
		}
	}
	if err := json.Unmarshal(a.Raw, &document); err != nil {
		t.Fatal(err)
	}
	served := make(map[string]bool)
	for path, item := range document.Paths {
		for method, op := range item {
			served[op.OperationID] = true
			if page.group[op.OperationID] == "" {
				t.Errorf("docs/edge.md does not say what %s (%s %s) answers: it is in no group", op.OperationID, method, path)
			}
			switch {
			case written[op.OperationID]:
			case method == "get":
				for side := range w.known {
					c := call{method: "GET", path: w.fill(path, side), token: w.coordinator}
					if strings.Contains(c.path, "{") {
						t.Errorf("nothing is known that could stand in %s of %s", c.path, op.OperationID)
					}
					if strings.Contains(path, "/me/") {
						c.token = w.known[side].token
					}
					add(op.OperationID, side, func() call { return c })
				}
			default:
				t.Errorf("%s (%s %s) is a write without a probe", op.OperationID, method, path)
			}
		}
	}
	for op, group := range page.group {
		if !served[op] {
			t.Errorf("docs/edge.md has %s in the group %q; there is no such operation", op, group)
		}
	}
	return all
}

// fill puts what there is into a path.
func (w *edgeWorld) fill(path string, side int) string {
	p := &w.known[side]
	return strings.NewReplacer("{id}", w.tr.study, "{pid}", p.id, "{tid}", p.task, "{uuid}", p.receipt, "{sid}", w.site, "{qid}", w.question, "{aid}", p.alert).Replace(path)
}

// participantProbes are about one participant of a shard.
func (w *edgeWorld) participantProbes(side int, add func(op string, next func() call)) {
	p := &w.known[side]
	own := func(op, method, path string, body any) {
		add(op, func() call { return call{method: method, path: path, token: p.token, body: body} })
	}
	staff := func(op, method, path, ifMatch string, body any) {
		add(op, func() call {
			return call{method: method, path: w.fill(path, side), token: w.coordinator, body: body, ifMatch: ifMatch}
		})
	}
	add("submit", func() call { return w.submit(side) })
	own("get-receipt", "GET", "/api/v1/submissions/"+p.receipt, nil)
	own("me", "GET", "/api/v1/me", nil)
	own("my-contact", "GET", "/api/v1/me/contact", nil)
	own("put-my-consents", "PUT", "/api/v1/me/consents", map[string]bool{"sms": true})
	own("list-my-tasks", "GET", "/api/v1/me/tasks", nil)
	own("get-study-questionnaire", "GET", "/api/study/questionnaire?id="+w.question, nil)
	own("get-questionnaire", "GET", "/api/v1/questionnaires/"+w.question, nil)
	open := func(op, path string, body any) {
		add(op, func() call { return call{method: "POST", path: path, body: body} })
	}
	open("activate", "/api/v1/auth/activate", map[string]string{"code": p.code}) // it works once, and did
	open("participant-sign-in", "/api/v1/auth/participant", map[string]string{"study": w.tr.study, "number": p.number, "pin": "4711"})
	open("refresh", "/api/v1/auth/refresh", map[string]string{"refreshToken": stranger(p.refresh)})
	open("logout", "/api/v1/auth/logout", map[string]string{"refreshToken": stranger(p.refresh)})
	const one, record = "/api/v1/studies/{id}/participants/{pid}", "/api/v1/participants/{pid}/record"
	staff("get-participant", "GET", one, "", nil)
	staff("change-participant", "PATCH", one, `"99"`, map[string]string{"zone": "Europe/Paris", "reason": "moved"})
	staff("renew-activation", "POST", "/api/v1/studies/{id}/participants/"+p.spare+"/activation", "", nil) // it ends the PIN
	staff("get-contact", "GET", one+"/contact", "", nil)
	staff("put-contact", "PUT", one+"/contact", `"99"`, map[string]string{"email": "name@example.org"})
	staff("list-messages", "GET", one+"/messages", "", nil)
	add("send-message", func() call {
		return call{method: "POST", path: w.fill(one+"/messages", side), token: w.coordinator, body: map[string]any{"template": "invitation",
			"to": "+12025550100", "params": map[string]string{"link": "https://epro.example.org/a"}}}
	})
	staff("list-tasks", "GET", one+"/tasks", "", nil)
	staff("explain-tasks", "GET", one+"/tasks/explain?date="+time.Now().Format(time.DateOnly), "", nil)
	staff("list-reminders", "GET", one+"/tasks/{tid}/reminders", "", nil)
	staff("excuse-task", "PUT", one+"/tasks/{tid}/excusal", "", map[string]string{"reason": "in hospital"})
	staff("unexcuse-task", "POST", one+"/tasks/{tid}/excusal/withdraw", "", map[string]string{"reason": "not in hospital"})
	staff("get-record", "GET", record, "", nil)
	staff("put-record", "PUT", record, `"99"`, map[string]any{"sections": map[string]any{"note": map[string]string{"text": "x"}}, "reason": "first"})
	staff("list-record-versions", "GET", record+"/history", "", nil)
	staff("lock-record", "POST", record+"/lock", "", map[string]string{})
	staff("extend-record-lock", "PUT", record+"/lock", "", map[string]string{"token": "AAAAAAAAAAAAAAAAAAAAAA"})
	staff("unlock-record", "DELETE", record+"/lock", "", nil)
	staff("get-response", "GET", "/api/v1/responses/"+p.response, "", nil)
	staff("get-alert", "GET", "/api/v1/studies/{id}/alerts/{aid}", "", nil)
	staff("acknowledge-alert", "POST", "/api/v1/studies/{id}/alerts/{aid}/acknowledge", "", map[string]string{"note": "called"}) // once; then it was done before
	staff("resolve-alert", "POST", "/api/v1/studies/{id}/alerts/{aid}/resolve", "", map[string]string{"note": "a slip of the finger"})
	add("enrol-participant", func() call { // where somebody lives follows from the new id, so this is about any shard
		return call{method: "POST", path: w.fill("/api/v1/studies/{id}/participants", side), token: w.coordinator, body: w.newcomer(fmt.Sprintf("N%d", w.count.Add(1)))}
	})
}

// studyProbes are about studies and accounts.
func (w *edgeWorld) studyProbes(add func(op string, next func() call)) {
	// Changes are made to another study than the one under way: a process that has just changed a study must read it anew.
	base, draft := "/api/v1/studies/{id}", "/api/v1/studies/"+w.draft
	staff := func(op, method, path, ifMatch string, body any) {
		add(op, func() call {
			return call{method: method, path: w.fill(path, 0), token: w.coordinator, body: body, ifMatch: ifMatch}
		})
	}
	coded := func(op, list string) {
		add(op, func() call {
			return call{method: "POST", path: "/api/v1/studies/" + w.draft + list, token: w.coordinator, body: map[string]string{"code": fmt.Sprintf("C%d", w.count.Add(1)), "name": "Edge"}}
		})
	}
	add("login", func() call {
		return call{method: "POST", path: "/api/v1/auth/login", body: map[string]string{"username": w.admin, "password": edgePassword}}
	})
	add("get-ids", func() call { return call{method: "GET", path: "/api/id/get", token: w.tr.staff.token} })
	add("keys", func() call { return call{method: "GET", path: "/.well-known/jwks.json"} })
	staff("list-studies", "GET", "/api/v1/studies", "", nil)
	staff("list-participants", "GET", base+"/participants", "", nil)
	staff("list-responses", "GET", base+"/responses", "", nil)
	staff("list-quarantine", "GET", base+"/quarantine", "", nil)
	staff("get-adherence", "GET", base+"/adherence", "", nil)
	add("create-study", func() call {
		return call{method: "POST", path: "/api/v1/studies", token: w.coordinator, body: w.newStudy()}
	})
	staff("update-study", "PATCH", draft, `"99"`, map[string]string{"title": "Edge"})
	coded("add-site", "/sites")
	coded("add-arm", "/arms")
	staff("list-alerts", "GET", base+"/alerts", "", nil)
	staff("list-assessments", "GET", base+"/assessments", "", nil)
	staff("put-safety-rules", "PUT", draft+"/safety/rules", "", map[string]any{"rules": []any{}})
	staff("put-safety-rota", "PUT", draft+"/safety/rota", `"99"`, map[string]any{"sites": []any{}, "manager": []any{}})
	staff("put-risk-setting", "PUT", draft+"/risk", `"99"`, map[string]any{"enabled": false, "model": "rules"})
	add("import-participants", func() call {
		line, _ := json.Marshal(w.newcomer(fmt.Sprintf("I%d", w.count.Add(1))))
		return call{method: "POST", path: w.fill(base+"/participants/import", 0), token: w.coordinator, body: append(line, '\n'), contentType: "application/x-ndjson"}
	})
	staff("set-site-contact", "PUT", draft+"/sites/{sid}/contact", "", map[string]string{"email": "clinic@example.org"})
	staff("grant-role", "POST", draft+"/staff", "", map[string]string{"username": w.admin, "role": "monitor"})
	staff("import-questionnaire", "POST", draft+"/questionnaires", "", burstQuestionnaire("1.0.0"))
	staff("publish-questionnaire", "POST", draft+"/questionnaires/{qid}/publish", "", nil)
	staff("publish-study", "POST", draft+"/publish", "", nil)
	staff("put-schedule", "PUT", draft+"/schedule", "", map[string]any{"rules": []any{}})
	staff("amend-schedule", "POST", base+"/schedule/amendment?limit=20&days=2", "", map[string]any{"rules": []any{map[string]any{"id": "one", "questionnaire": w.tr.canonical, "anchor": "enrolment",
		"offset": "P28D", "windows": []any{map[string]string{"opens": "00:00", "due": "12:00", "closes": "00:00"}}}}})
	staff("preview-schedule", "POST", base+"/schedule/preview", "", map[string]any{"zone": "Europe/Berlin", "arm": "A", "anchors": map[string]string{"enrolment": "2026-01-01"},
		"from": "2026-02-01", "to": "2026-02-03"})
	confirmed := map[string]string{"password": edgePassword, "reason": "none"} // and a study in which there is nothing to do
	staff("lock-study", "POST", draft+"/lock", "", confirmed)
	staff("unlock-study", "POST", draft+"/unlock", "", confirmed)
	staff("archive-study", "POST", draft+"/archive", "", map[string]string{"reason": "none"})
	staff("restore-study", "POST", draft+"/archive/restore", "", map[string]string{"reason": "none"})
	add("message-receipt", func() call {
		return call{method: "POST", path: "/api/v1/sms/receipts/twilio", body: []byte("SmsSid=SM1")}
	})
}
