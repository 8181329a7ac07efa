package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/eprod/eprod/internal/db"
)

const edgePassword = "correct horse battery staple"

// edgeWorld is a deployment with everything that the routes need to have an answer: a study under way, one known participant on each
// shard, and tasks to submit.
type edgeWorld struct {
	d           *deployment
	tr          *trial
	apis        []*process
	coordinator string // access token; its rights stand in the metadata database
	admin       string // user name
	draft       string // a study that may be changed
	site        string
	question    string // id of the published questionnaire
	known       [2]edgePerson
	count       atomic.Int64 // of things that must have a name of their own
	gateway     *exec.Cmd
	listen      string
	todo        [2]chan edgeTask // by shard

	mu   sync.Mutex
	sent []sent     // with a 202
	open []edgeTask // answered otherwise: their outcome is unknown
}

// edgePerson is a participant that the probes ask for.
type edgePerson struct {
	id, number, code, token, refresh, task, receipt, response, alert string

	spare string // id of another one, who does not sign in
}

// edgeTask is one submission to be made.
type edgeTask struct {
	who  *person
	id   uuid.UUID
	body []byte
	task string
}

// edgeSettings are those of the processes: etcd and a gateway are dependencies as well, studies can be archived, and no limit stands in the way of the load.
func edgeSettings(listen, archive string) []string {
	return []string{"EPROD_IDS__SOURCE=etcd", "EPROD_LOCKS__BACKEND=etcd", "EPROD_LIMITS__ROUTES__IMPORTS__RATE=1000", "EPROD_LIMITS__ROUTES__IMPORTS__BURST=1000",
		"EPROD_LIMITS__ROUTES__SIGN_IN__RATE=1000", "EPROD_LIMITS__ROUTES__SIGN_IN__BURST=1000", "EPROD_NOTIFY__ORDER=twilio", "EPROD_NOTIFY__TWILIO__ENABLED=true",
		"EPROD_NOTIFY__TWILIO__ENDPOINT=http://" + listen, "EPROD_NOTIFY__TWILIO__ACCOUNT_SID=AC00000000000000000000000000000000", "EPROD_NOTIFY__TWILIO__AUTH_TOKEN=sandbox-secret",
		"EPROD_NOTIFY__TWILIO__FROM=+15550100", "EPROD_NOTIFY__TWILIO__CALLBACK=http://127.0.0.1:1/api/v1/sms/receipts/twilio", "EPROD_SMS_SANDBOX__LISTEN=" + listen, "EPROD_ARCHIVE__DIR=" + archive}
}

func newEdgeWorld(t *testing.T, tasks int) *edgeWorld {
	t.Helper()
	w := &edgeWorld{d: newDeployment(t)}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	w.listen = l.Addr().String()
	_ = l.Close()
	w.d.env = append(w.d.env, edgeSettings(w.listen, t.TempDir())...)
	w.startGateway(t)
	w.apis = []*process{w.d.start("api"), w.d.start("api")}
	w.d.start("processor")
	rules := []string{"one", "two", "three"}
	w.tr = newTrial(t, w.d, max(20, tasks/len(rules)), rules, w.apis[0].api, w.apis[1].api)
	w.staff(t)
	for side := range w.known {
		w.know(t, side)
		w.todo[side] = make(chan edgeTask, len(rules)*len(w.tr.people))
	}
	for _, p := range w.tr.people {
		for _, task := range p.tasks {
			id := uuid.New()
			w.todo[sideOf(subject(t, p.token))] <- edgeTask{p, id, burstResponse(id, "1.0.0", time.Now().Format(time.RFC3339), ""), task}
		}
	}
	return w
}

func (w *edgeWorld) startGateway(t *testing.T) {
	t.Helper()
	w.gateway = exec.Command(w.d.binary, "sms-sandbox")
	w.gateway.Env, w.gateway.Dir = w.d.env, t.TempDir()
	gateway := w.gateway
	if err := gateway.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = gateway.Process.Kill()
		_ = gateway.Wait()
	})
	eventually(t, 20*time.Second, func() string {
		conn, err := net.Dial("tcp", w.listen)
		if err != nil {
			return err.Error()
		}
		_ = conn.Close()
		return ""
	})
}

// staff makes a coordinator, whose rights are asked for with every request, and a study that is still being designed.
func (w *edgeWorld) staff(t *testing.T) {
	t.Helper()
	s, base := w.tr.staff, "/api/v1/studies/"+w.tr.study
	name := fmt.Sprintf("edge-%d", time.Now().UnixNano())
	w.admin = name + "-admin"
	w.d.runInput(edgePassword+"\n", "user", "add", "--username", w.admin, "--role", "administrator", "--password-stdin")
	w.d.runInput(edgePassword+"\n", "user", "add", "--username", name, "--role", "studyManager", "--password-stdin")
	w.draft = s.must(t, 201, "POST", "/api/v1/studies", w.newStudy()).text("id")
	for _, role := range []string{"studyManager", "coordinator"} {
		for _, study := range []string{w.tr.study, w.draft} {
			s.must(t, 201, "POST", "/api/v1/studies/"+study+"/staff", map[string]string{"username": name, "role": role})
		}
	}
	w.coordinator = s.must(t, 200, "POST", "/api/v1/auth/login", map[string]string{"username": name, "password": edgePassword}).text("accessToken")
	first := func(path string) string {
		items, _ := s.must(t, 200, "GET", path, nil).Body["items"].([]any)
		if len(items) == 0 {
			t.Fatalf("%s is empty", path)
		}
		return fmt.Sprint(items[0].(map[string]any)["id"])
	}
	w.site, w.question = first(base+"/sites"), first(base+"/questionnaires")
	s.must(t, 200, "PUT", base+"/safety/rules", map[string]any{"rules": []any{map[string]any{"id": "grave", "questionnaire": trialQuestionnaire, "severity": "high",
		"when": map[string]any{"answer": map[string]any{"linkId": "q01", "operator": "=", "number": 10}}}}})
}

// grave is an answer that the study's safety rule finds.
func grave(id uuid.UUID) []byte {
	return bytes.Replace(burstResponse(id, "1.0.0", time.Now().Format(time.RFC3339), ""), []byte(`{"linkId":"q01","text":"Symptom 1 today, 0 to 10","answer":[{"valueInteger":1}]}`),
		[]byte(`{"linkId":"q01","answer":[{"valueInteger":10}]}`), 1)
}

func (w *edgeWorld) newStudy() map[string]any {
	return map[string]any{"protocol": fmt.Sprintf("EDGE-%d-%d", time.Now().UnixNano(), w.count.Add(1)), "title": "Edge", "zone": "Europe/Berlin", "languages": []string{"en"}}
}

func (w *edgeWorld) newcomer(number string) map[string]any {
	return map[string]any{"number": number, "site": "S01", "arm": "A", "zone": "Europe/Berlin", "language": "en",
		"anchors": map[string]string{"enrolment": time.Now().AddDate(0, 0, -30).Format(time.DateOnly)}}
}

// enrol enrols participants until one lives on the shard.
func (w *edgeWorld) enrol(t *testing.T, side int) edgePerson {
	t.Helper()
	for range 64 {
		number := fmt.Sprintf("K%d", w.count.Add(1))
		made := w.tr.staff.must(t, 201, "POST", "/api/v1/studies/"+w.tr.study+"/participants", w.newcomer(number))
		if sideOf(made.text("id")) == side {
			return edgePerson{id: made.text("id"), number: number, code: made.text("activationCode")}
		}
	}
	t.Fatalf("none of 64 participants lives on shard %d", side)
	return edgePerson{}
}

// know enrols a participant on the shard, signs it in with a PIN and lets it answer a task in a way that raises an alert.
func (w *edgeWorld) know(t *testing.T, side int) {
	t.Helper()
	s, p := w.tr.staff, &w.known[side]
	*p = w.enrol(t, side)
	p.spare = w.enrol(t, side).id
	in, err := s.do(t.Context(), 0, "POST", "/api/v1/auth/activate", "", fmt.Appendf(nil, `{"code":%q,"pin":"4711"}`, p.code))
	if err != nil || in.Status != 200 {
		t.Fatalf("activate: %d %s %v", in.Status, in.Raw, err)
	}
	p.token, p.refresh = in.text("accessToken"), in.text("refreshToken")
	who := &person{token: p.token, tasks: map[string]string{}}
	if err := w.tr.listTasks(t.Context(), 0, who, "open", time.Now().Add(-time.Minute), time.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	id := uuid.New()
	p.task, p.receipt = who.tasks["one"], id.String()
	a, err := s.do(t.Context(), 0, "POST", "/api/v1/submissions", p.token, envelopeOf(p.task, grave(id)))
	if err != nil || a.Status != 202 {
		t.Fatalf("submit: %d %s %v", a.Status, a.Raw, err)
	}
	w.sent = append(w.sent, sent{uuid: id, sha256: a.text("sha256"), task: p.task})
	p.response = a.text("id")
	eventually(t, 30*time.Second, func() string {
		list := s.must(t, 200, "GET", "/api/v1/studies/"+w.tr.study+"/alerts?participant="+p.id, nil)
		items, _ := list.Body["items"].([]any)
		if len(items) == 0 {
			return "no alert: " + string(list.Raw)
		}
		p.alert = fmt.Sprint(items[0].(map[string]any)["id"])
		return ""
	})
	eventually(t, 30*time.Second, func() string {
		if a, err := s.do(t.Context(), 0, "GET", "/api/v1/submissions/"+p.receipt, p.token, nil); err != nil || a.text("state") != "stored" {
			return fmt.Sprintf("%s %v", a.Raw, err)
		}
		return ""
	})
}

// subject is whom an access token was made for.
func subject(t *testing.T, token string) string {
	t.Helper()
	var claims struct{ Sub string }
	raw, err := base64.RawURLEncoding.DecodeString(strings.Split(token, ".")[1])
	if err == nil {
		err = json.Unmarshal(raw, &claims)
	}
	if err != nil {
		t.Fatal(err)
	}
	return claims.Sub
}

func sideOf(participant string) int {
	id, _ := strconv.ParseInt(participant, 10, 64)
	return db.Bucket(id) / (db.Buckets / 2)
}

// call is one request that a probe makes.
type call struct {
	method, path, token string
	body                any // nil, []byte or what is sent as JSON
	ifMatch             string
	contentType         string // "application/json" where it is ""
	submission          *edgeTask
}

// probe is a route with a request that can be made again and again. Side is the shard that the request is about, or -1.
type probe struct {
	op    string
	side  int
	usual int // status when all is well; set by the first round
	next  func() call
}

// ordinary reports whether a status is one that the route has when all is well. A request that is made again and again also finds that
// what it wants was done before.
func (p *probe) ordinary(status int) bool {
	return status == p.usual || slices.Contains([]int{200, 201, 202, 204, 409, 412}, status)
}

// stranger is a refresh token of a session that does not exist, in the place where the given one is.
func stranger(refresh string) string {
	raw, err := base64.RawURLEncoding.DecodeString(refresh)
	if err != nil {
		return refresh
	}
	raw[6] ^= 0x55
	return base64.RawURLEncoding.EncodeToString(raw)
}

// submit takes the next task of a shard.
func (w *edgeWorld) submit(side int) call {
	select {
	case task := <-w.todo[side]:
		return call{method: "POST", path: "/api/v1/submissions", token: task.who.token, body: envelopeOf(task.task, task.body), submission: &task}
	default:
		return call{} // all done; the test says so
	}
}

// settle remembers what became of a submission.
func (w *edgeWorld) settle(task *edgeTask, status int) {
	if task == nil {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if status != http.StatusAccepted {
		w.open = append(w.open, *task)
		return
	}
	sum := sha256.Sum256(task.body)
	w.sent = append(w.sent, sent{uuid: task.id, sha256: hex.EncodeToString(sum[:]), task: task.task})
}

// balanced sends what was refused once more, as devices do, and then holds every accepted submission against the rows.
func (w *edgeWorld) balanced(t *testing.T) {
	t.Helper()
	for _, task := range w.open {
		a, _, err := w.tr.submit(t.Context(), 0, task.who, envelopeOf(task.task, task.body))
		if err != nil || a.Status != http.StatusAccepted {
			t.Fatalf("a submission that was refused, sent again: %d %s %v", a.Status, a.Raw, err)
		}
		w.settleAgain(task)
	}
	v := newVerifier(t, w.d, w.tr)
	n := len(w.sent)
	want := rowCounts{Receipts: n, Responses: n, Tasks: n, Audit: n}
	eventually(t, 60*time.Second, func() string {
		if got := v.rows(t); got != want {
			return fmt.Sprintf("rows %+v, want %+v", got, want)
		}
		return ""
	})
	rows := v.load(t)
	for _, s := range w.sent {
		if row := rows[s.uuid]; row.sha256 != s.sha256 || row.task != s.task {
			t.Errorf("accepted: %+v, stored: %+v", s, row)
		}
	}
	t.Logf("%d submissions accepted, each stored once; %d of them had to be sent again", n, len(w.open))
}

func (w *edgeWorld) settleAgain(task edgeTask) { w.settle(&task, http.StatusAccepted) }

// do makes a call at one of the api processes.
func (w *edgeWorld) do(ctx context.Context, base int, c call) (answer, error) {
	var raw []byte
	switch b := c.body.(type) {
	case nil:
	case []byte:
		raw = b
	default:
		var err error
		if raw, err = json.Marshal(b); err != nil {
			return answer{}, err
		}
	}
	headers := map[string]string{}
	if c.ifMatch != "" {
		headers["If-Match"] = c.ifMatch
	}
	if c.contentType != "" {
		headers["Content-Type"] = c.contentType
	}
	return w.tr.staff.doWith(ctx, base, c.method, c.path, c.token, raw, headers)
}
