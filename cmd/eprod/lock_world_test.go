package main

import (
	"context"
	"crypto/sha256"
	"database/sql"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"log/slog"
	"math"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/eprod/eprod/internal/db"
	"github.com/eprod/eprod/internal/kafka"
	"github.com/eprod/eprod/internal/submission"
)

// scoredQuestionnaire is the trial's with a score, which a model can assess.
func scoredQuestionnaire(t *testing.T) []byte {
	t.Helper()
	var q map[string]any
	if err := json.Unmarshal(burstQuestionnaire("1.0.0"), &q); err != nil {
		t.Fatal(err)
	}
	q["extension"] = []any{map[string]any{"url": "https://eprod.org/fhir/StructureDefinition/questionnaire-score", "extension": []any{
		map[string]any{"url": "name", "valueString": "total"}, map[string]any{"url": "item", "valueString": "q01"}, map[string]any{"url": "item", "valueString": "q02"}}}}
	raw, err := json.Marshal(q)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

// furnish gives the study some of everything that a lock counts: responses, alerts, assessments, a message, a wish of every person, and on
// each shard something in quarantine and a conflict.
func (l *locking) furnish(t *testing.T) {
	t.Helper()
	s := l.tr.staff
	s.must(t, 200, "PUT", l.path("/safety/rules"), map[string]any{"rules": []any{map[string]any{"id": "grave", "questionnaire": trialQuestionnaire, "severity": "high",
		"when": map[string]any{"answer": map[string]any{"linkId": "q01", "operator": "=", "number": 10}}}}})
	l.want(t, 200, "PUT", l.path("/risk"), `"0"`, map[string]any{"enabled": true, "model": "rules", "instruments": []any{
		map[string]any{"questionnaire": trialQuestionnaire, "score": "total", "name": "phq-9"}}})
	few := l.tr.people[:16]
	l.accepted = make(map[uuid.UUID]sent)
	for _, p := range few {
		id := uuid.New()
		body := grave(id)
		a, _, err := l.tr.submit(t.Context(), 0, p, envelopeOf(p.tasks["before"], body))
		if err != nil || a.Status != http.StatusAccepted {
			t.Fatalf("%d %s %v", a.Status, a.Raw, err)
		}
		l.accepted[id] = sent{uuid: id, sha256: a.text("sha256"), task: p.tasks["before"], body: body}
	}
	pid := subject(t, few[0].token)
	s.must(t, 202, "POST", l.path("/participants/"+pid+"/messages"), map[string]any{"template": "invitation", "to": "+12025550100", "params": map[string]string{"link": "https://epro.example.org/a"}})
	s.must(t, 204, "PUT", l.path("/participants/"+pid+"/tasks/"+few[0].tasks["excused"]+"/excusal"), map[string]string{"reason": "in hospital"})
	enrolled := func(number string) string {
		return s.must(t, 201, "POST", l.path("/participants"), map[string]any{"number": number, "site": "S01", "arm": "A", "zone": "Europe/Berlin", "language": "en",
			"anchors": map[string]string{"enrolment": "2026-11-23"}}).text("activationCode")
	}
	l.waiting, l.pin = enrolled("99901"), "99902"
	s.must(t, 200, "POST", "/api/v1/auth/activate", map[string]string{"code": enrolled(l.pin), "pin": "4711"})
	l.mistaken(t)
	eventually(t, 60*time.Second, func() string {
		for table, n := range map[string]int{"response": len(few), "alert": len(few), "assessment": len(few), "message": 1, "quarantine": 2, "conflict": 2} {
			if got := l.v.count(t, table); got < n {
				return fmt.Sprintf("%d rows of %s, want %d", got, table, n)
			}
		}
		return ""
	})
	var list struct{ Items []struct{ ID string } }
	if err := json.Unmarshal(s.must(t, 200, "GET", l.path("/alerts?state=open&limit=1"), nil).Raw, &list); err != nil || len(list.Items) != 1 {
		t.Fatalf("%+v, %v", list, err)
	}
	l.alert = list.Items[0].ID
}

// count counts the study's rows of a table on both shards.
func (v *verifier) count(t *testing.T, table string) (total int) {
	t.Helper()
	for _, shard := range v.shards {
		var n int
		if err := shard.QueryRowContext(t.Context(), "SELECT COUNT(*) FROM "+table+" WHERE study_id = ?", v.trial.study).Scan(&n); err != nil {
			t.Fatal(err)
		}
		total += n
	}
	return total
}

// mistaken puts records on the log, for a participant of each shard, that no door would send: one that nobody can open, which waits in
// quarantine then, and another body under the identifier of one that is stored.
func (l *locking) mistaken(t *testing.T) {
	t.Helper()
	c := l.kafka()
	ctx, stop := context.WithCancel(context.Background())
	producer := kafka.NewProducer(c, nil, slog.New(slog.DiscardHandler))
	var running sync.WaitGroup
	running.Go(func() { _ = producer.Run(ctx) })
	defer func() { stop(); running.Wait() }()
	done := make(map[int]bool) // by shard
	eventually(t, 20*time.Second, func() string {
		if producer.Connected() {
			return ""
		}
		return "no connection to the log"
	})
	err := kafka.Scan(t.Context(), c, nil, submission.Topic, time.Time{}, func(m kafka.Message) error {
		r, err := submission.FromMessage(m)
		side := sideOf(fmt.Sprint(r.Participant))
		if err != nil || fmt.Sprint(r.Study) != l.tr.study || done[side] {
			return nil
		}
		done[side] = true
		unopened, other := r, r
		unopened.Submission, unopened.ID = uuid.New(), time.Now().UnixNano()
		other.ID = time.Now().UnixNano()
		other.SHA256[0] ^= 1
		return errors.Join(producer.Send(t.Context(), unopened.Message(m.Partition)), producer.Send(t.Context(), other.Message(m.Partition)))
	})
	if err != nil || len(done) != 2 {
		t.Fatalf("records of %d shards, %v", len(done), err)
	}
}

// want calls with If-Match and fails the test unless the status is the wanted one.
func (l *locking) want(t *testing.T, status int, method, path, ifMatch string, body any) {
	t.Helper()
	raw, err := json.Marshal(body)
	if err != nil {
		t.Fatal(err)
	}
	a, err := l.tr.staff.doWith(t.Context(), 0, method, path, l.tr.staff.token, raw, map[string]string{"If-Match": ifMatch})
	if err != nil || a.Status != status {
		t.Fatalf("%s %s: %d %s %v", method, path, a.Status, a.Raw, err)
	}
}

// attempt is one try to write in a locked study.
type attempt struct {
	method, path string
	body         any
	token        string // the staff's where it is "", nobody's where it is "-"
	match        string // path of what If-Match is taken from
}

// unlocked names the writes that a locked study does not refuse, and why not.
func unlocked() map[string]string {
	return map[string]string{
		"login":              "an account of staff belongs to no study",
		"create-study":       "another study",
		"preview-schedule":   "computes and writes nothing",
		"unlock-study":       "the way out; TestStudyLock goes it",
		"archive-study":      "what a locked study is for; see TestArchiveCommands",
		"restore-study":      "only of archived studies",
		"message-receipt":    "a gateway is always answered; what it says of the study's messages is not written",
		"lock-record":        "an editing session lies outside the study's data; put-record is refused",
		"extend-record-lock": "the same",
		"unlock-record":      "the same",
	}
}

// attempts are the writes that a locked study refuses.
func (l *locking) attempts(t *testing.T) map[string]attempt {
	t.Helper()
	p := l.tr.people[0]
	pid, first := subject(t, p.token), func(path string) string {
		items, _ := l.tr.staff.must(t, 200, "GET", l.path(path), nil).Body["items"].([]any)
		return fmt.Sprint(items[0].(map[string]any)["id"])
	}
	one, record, task := l.path("/participants/"+pid), "/api/v1/participants/"+pid+"/record", l.path("/participants/"+pid+"/tasks/")
	newcomer := map[string]any{"number": "99999", "site": "S01", "arm": "A", "zone": "Europe/Berlin", "language": "en", "anchors": map[string]string{"enrolment": "2026-11-23"}}
	reason, note := map[string]string{"reason": "in hospital"}, map[string]string{"note": "a slip of the finger"}
	rules := map[string]any{"rules": []any{}}
	return map[string]attempt{
		"submit":                {method: "POST", path: "/api/v1/submissions", token: p.token, body: envelopeOf(p.tasks["after"], burstResponse(uuid.New(), "1.0.0", time.Now().Format(time.RFC3339), ""))},
		"activate":              {method: "POST", path: "/api/v1/auth/activate", token: "-", body: map[string]string{"code": l.waiting, "pin": "4711"}},
		"participant-sign-in":   {method: "POST", path: "/api/v1/auth/participant", token: "-", body: map[string]string{"study": l.tr.study, "number": l.pin, "pin": "4711"}},
		"refresh":               {method: "POST", path: "/api/v1/auth/refresh", token: "-", body: map[string]string{"refreshToken": p.refresh}},
		"logout":                {method: "POST", path: "/api/v1/auth/logout", token: "-", body: map[string]string{"refreshToken": p.refresh}},
		"put-my-consents":       {method: "PUT", path: "/api/v1/me/consents", token: p.token, body: map[string]bool{"sms": true}},
		"enrol-participant":     {method: "POST", path: l.path("/participants"), body: newcomer},
		"import-participants":   {method: "POST", path: l.path("/participants/import"), body: newcomer},
		"change-participant":    {method: "PATCH", path: one, body: map[string]string{"zone": "Asia/Shanghai", "reason": "moved"}, match: one},
		"renew-activation":      {method: "POST", path: one + "/activation"},
		"put-contact":           {method: "PUT", path: one + "/contact", body: map[string]string{"email": "name@example.org"}, match: one + "/contact"},
		"send-message":          {method: "POST", path: one + "/messages", body: map[string]any{"template": "invitation", "to": "+12025550100", "params": map[string]string{"link": "https://epro.example.org/b"}}},
		"excuse-task":           {method: "PUT", path: task + p.tasks["after"] + "/excusal", body: reason},
		"unexcuse-task":         {method: "POST", path: task + p.tasks["excused"] + "/excusal/withdraw", body: reason},
		"put-record":            {method: "PUT", path: record, body: map[string]any{"sections": map[string]any{"history": map[string]string{"a": "b"}}}, match: record},
		"update-study":          {method: "PATCH", path: l.path(""), body: map[string]string{"title": "Another"}, match: l.path("")},
		"publish-study":         {method: "POST", path: l.path("/publish")},
		"add-site":              {method: "POST", path: l.path("/sites"), body: map[string]string{"code": "S09", "name": "Site 9"}},
		"set-site-contact":      {method: "PUT", path: l.path("/sites/" + first("/sites") + "/contact"), body: map[string]string{"email": "clinic@example.org"}},
		"add-arm":               {method: "POST", path: l.path("/arms"), body: map[string]string{"code": "Z", "name": "Arm Z"}},
		"grant-role":            {method: "POST", path: l.path("/staff"), body: map[string]string{"username": l.monitor, "role": "monitor"}},
		"import-questionnaire":  {method: "POST", path: l.path("/questionnaires"), body: burstQuestionnaire("2.0.0")},
		"publish-questionnaire": {method: "POST", path: l.path("/questionnaires/" + first("/questionnaires") + "/publish")},
		"put-schedule":          {method: "PUT", path: l.path("/schedule"), body: rules},
		"amend-schedule":        {method: "POST", path: l.path("/schedule/amendment"), body: rules},
		"lock-study":            {method: "POST", path: l.path("/lock"), body: map[string]string{"password": edgePassword, "reason": "once more"}},
		"put-safety-rules":      {method: "PUT", path: l.path("/safety/rules"), body: rules},
		"put-safety-rota":       {method: "PUT", path: l.path("/safety/rota"), body: map[string]any{"sites": []any{}, "manager": []any{}}, match: l.path("/safety/rota")},
		"put-risk-setting":      {method: "PUT", path: l.path("/risk"), body: map[string]any{"enabled": false, "model": "rules"}, match: l.path("/risk")},
		"acknowledge-alert":     {method: "POST", path: l.path("/alerts/" + l.alert + "/acknowledge"), body: note},
		"resolve-alert":         {method: "POST", path: l.path("/alerts/" + l.alert + "/resolve"), body: note},
	}
}

// refusals tries every way to write that a client has: every operation of the API that is no read is refused as study_locked, or is
// named by unlocked.
func (l *locking) refusals(t *testing.T) {
	t.Helper()
	var document struct {
		Paths map[string]map[string]struct {
			OperationID string `json:"operationId"`
		}
	}
	if err := json.Unmarshal(l.tr.staff.must(t, 200, "GET", "/api/v1/openapi.json", nil).Raw, &document); err != nil {
		t.Fatal(err)
	}
	attempts, exempt, tried := l.attempts(t), unlocked(), 0
	for path, item := range document.Paths {
		for method, op := range item {
			a, ok := attempts[op.OperationID]
			switch {
			case method == "get":
			case ok && strings.EqualFold(method, a.method):
				tried++
				l.try(t, op.OperationID, a)
			case exempt[op.OperationID] == "":
				t.Errorf("%s (%s %s): nobody has tried it in a locked study", op.OperationID, method, path)
			}
		}
	}
	if tried != len(attempts) {
		t.Errorf("%d of %d attempts are operations of the API", tried, len(attempts))
	}
}

// try makes one attempt, which must be refused; an import says so in its line.
func (l *locking) try(t *testing.T, op string, a attempt) {
	t.Helper()
	raw, isRaw := a.body.([]byte)
	if !isRaw && a.body != nil {
		var err error
		if raw, err = json.Marshal(a.body); err != nil {
			t.Fatal(err)
		}
	}
	headers, token := map[string]string{}, a.token
	switch token {
	case "":
		token = l.tr.staff.token
	case "-":
		token = ""
	}
	if a.match != "" {
		headers["If-Match"] = l.tr.staff.must(t, 200, "GET", a.match, nil).Header.Get("ETag")
	}
	if op == "import-participants" {
		headers["Content-Type"] = "application/x-ndjson"
	}
	got, err := l.tr.staff.doWith(t.Context(), 0, a.method, a.path, token, raw, headers)
	if err != nil {
		t.Fatal(err)
	}
	refused := got.Status == http.StatusConflict && got.text("code") == "study_locked"
	if op == "import-participants" {
		refused = refused || strings.Contains(string(got.Raw), `"study_locked"`)
	}
	if !refused {
		t.Errorf("%s in a locked study: %d %s", op, got.Status, got.Raw)
	}
}

// digest computes a shard's hash of the report again, from what docs/studylock.md says and by queries of its own.
func (l *locking) digest(t *testing.T, shard int) string {
	t.Helper()
	sum := sha256.New()
	for _, table := range db.ShardTables() {
		if table.Kind != db.StudyData {
			continue
		}
		measured(sum, []byte(table.Name))
		order := "id"
		if !table.ByStudy {
			order = strings.Join(slices.Compact(append([]string{table.Participant}, table.Key...)), ", ")
		}
		where := "study_id = " + l.tr.study
		if table.Study == "" {
			where = table.Participant + " IN (SELECT id FROM participant WHERE study_id = " + l.tr.study + ")"
		}
		l.hashRows(t, sum, shard, "SELECT * FROM "+table.Name+" WHERE "+where+" ORDER BY "+order)
	}
	return hex.EncodeToString(sum.Sum(nil))
}

func (l *locking) hashRows(t *testing.T, sum hash.Hash, shard int, query string) {
	t.Helper()
	rows, err := l.v.shards[shard].QueryContext(t.Context(), query)
	if err != nil {
		t.Fatalf("%s: %v", query, err)
	}
	defer rows.Close()
	names, err := rows.Columns()
	if err != nil {
		t.Fatal(err)
	}
	byName := slices.Sorted(slices.Values(names))
	values, into := make([]sql.RawBytes, len(names)), make([]any, len(names))
	for i := range values {
		into[i] = &values[i]
	}
	for rows.Next() {
		if err := rows.Scan(into...); err != nil {
			t.Fatal(err)
		}
		for _, name := range byName {
			measured(sum, values[slices.Index(names, name)])
		}
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
}

// measured hashes a value after its length; all ones stand for NULL.
func measured(sum hash.Hash, value []byte) {
	length := uint64(len(value))
	if value == nil {
		length = math.MaxUint64
	}
	sum.Write(binary.BigEndian.AppendUint64(nil, length))
	sum.Write(value)
}
