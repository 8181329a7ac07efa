package study

import (
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/gin-gonic/gin"

	"github.com/eprod/eprod/internal/auth"
	"github.com/eprod/eprod/internal/web"
)

// door serves the world's routes to a caller that a header names as "kind id study", behind the real engine.
func (w *world) door(t testing.TB) *web.Server {
	t.Helper()
	server, err := web.New(web.DefaultConfig(), web.Deps{Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	server.Gin().Use(func(c *gin.Context) {
		var p auth.Principal
		if n, _ := fmt.Sscanf(c.GetHeader("X-Caller"), "%s %d %d", &p.Kind, &p.ID, &p.Study); n >= 2 {
			if p.Kind == auth.KindStaff {
				p, _ = auth.From(acting(t.Context(), p.ID))
			}
			c.Request = c.Request.WithContext(auth.With(c.Request.Context(), p))
		}
	})
	w.Routes(server.API())
	return server
}

type reply struct {
	status int
	text   string
	body   map[string]any
	header http.Header
}

// visitor calls the door as somebody.
type visitor struct {
	door http.Handler
	who  string
}

func (v visitor) call(t *testing.T, method, path, body string, header ...string) reply {
	t.Helper()
	var content io.Reader
	if body != "" {
		content = strings.NewReader(body)
	}
	r := httptest.NewRequest(method, path, content)
	if body != "" {
		r.Header.Set("Content-Type", "application/json")
	}
	r.Header.Set("X-Caller", v.who)
	for i := 0; i+1 < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	rec := httptest.NewRecorder()
	v.door.ServeHTTP(rec, r)
	out := reply{status: rec.Code, header: rec.Header(), text: rec.Body.String()}
	if rec.Body.Len() > 0 {
		if err := json.Unmarshal(rec.Body.Bytes(), &out.body); err != nil {
			t.Fatalf("%s %s: %v in %s", method, path, err, rec.Body)
		}
	}
	return out
}

// want holds a reply against its status and code, and against members of its body, given in pairs.
func (r reply) want(t *testing.T, what string, status int, code string, members ...any) {
	t.Helper()
	if r.status != status || code != "" && r.body["code"] != code {
		t.Errorf("%s: %d %s, want %d %s", what, r.status, r.text, status, code)
	}
	if media := r.header.Get("Content-Type"); code != "" && media != "application/problem+json" {
		t.Errorf("%s: an error as %s", what, media)
	}
	for i := 0; i+1 < len(members); i += 2 {
		if got := r.body[members[i].(string)]; fmt.Sprint(got) != fmt.Sprint(members[i+1]) {
			t.Errorf("%s: %v is %v, want %v", what, members[i], got, members[i+1])
		}
	}
}

const newStudyBody = `{"protocol":"EP-001","title":"A study","zone":"Asia/Shanghai","languages":["zh-CN","en"],"settings":{"participantPin":"optional"}}`

// TestMainFlow goes the way of api.md from nothing to an active study.
func TestMainFlow(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		server := w.door(t)
		if err := server.CheckDocument(); err != nil {
			t.Error(err)
		}
		v := visitor{server.Handler(), fmt.Sprint("staff ", manager)}
		made := v.call(t, "POST", "/api/v1/studies", newStudyBody)
		made.want(t, "create", 201, "", "protocol", "EP-001", "title", "A study", "zone", "Asia/Shanghai", "languages", "[zh-CN en]", "status", "draft",
			"settings", "map[participantPin:optional]", "createdAt", "2026-11-23T20:00:00Z", "scheduleVersion", 0)
		id, _ := made.body["id"].(string)
		base := "/api/v1/studies/" + id
		if id == "" || made.header.Get("Location") != base || made.header.Get("ETag") != `"1"` {
			t.Fatalf("create answers %v %s", made.header, made.text)
		}
		site := v.call(t, "POST", base+"/sites", `{"code":"S01","name":"Clinic"}`)
		site.want(t, "site", 201, "", "code", "S01", "name", "Clinic")
		v.call(t, "POST", base+"/arms", `{"code":"A","name":"Arm A"}`).want(t, "arm", 201, "", "code", "A", "name", "Arm A")
		v.call(t, "POST", base+"/staff", `{"username":"monitor","role":"monitor","site":"S01"}`).
			want(t, "staff", 201, "", "user", "3", "username", "monitor", "role", "monitor", "site", site.body["id"])

		body := string(form("1.0.0", "Pain?"))
		q := v.call(t, "POST", base+"/questionnaires", body, "Content-Type", "application/fhir+json")
		q.want(t, "import", 201, "", "url", "https://example.org/q/pain", "version", "1.0.0", "status", "draft", "findings", "[]")
		v.call(t, "POST", base+"/questionnaires", body).want(t, "import again", 200, "", "id", q.body["id"], "status", "draft")
		qid, _ := q.body["id"].(string)
		v.call(t, "POST", base+"/questionnaires/"+qid+"/publish", "").want(t, "publish the questionnaire", 200, "", "id", qid, "status", "active",
			"url", "https://example.org/q/pain", "version", "1.0.0")
		v.call(t, "POST", base+"/questionnaires", string(form("1.0.0", "Other?"))).want(t, "import over it", 409, "already_exists")
		v.call(t, "POST", base+"/questionnaires", `{"resourceType":"Questionnaire"}`).want(t, "import nonsense", 422, "invalid_questionnaire")

		const rule = `{"id":"diary","questionnaire":"https://example.org/q/pain|1.0.0","arms":["A"],"anchor":"enrolment","offset":"P0D",
 "repeat":{"every":"P1D","until":"P84D"},"weekdays":["MO","TH"],"windows":[{"opens":"18:00","due":"20:00","closes":"23:00","grace":"PT2H"}],
 "reminders":[{"at":"opens","after":"PT0S"},{"at":"closes","after":"-PT1H"}]}`
		v.call(t, "GET", base+"/schedule", "").want(t, "no schedule", 404, "not_found")
		v.call(t, "POST", base+"/publish", "").want(t, "publish too early", 422, "invalid_field")
		contact := base + "/sites/" + fmt.Sprint(site.body["id"]) + "/contact"
		v.call(t, "PUT", contact, `{"email":"clinic@example.org","phone":"+8613800138000"}`).want(t, "site contact", 200, "", "email", "clinic@example.org", "phone", "+8613800138000")
		v.call(t, "PUT", contact, `{"email":"Clinic <clinic@example.org>","phone":"110"}`).want(t, "bad site contact", 422, "invalid_field")
		v.call(t, "PUT", base+"/sites/1/contact", `{"email":""}`).want(t, "unknown site", 404, "not_found")
		if got := v.call(t, "GET", base+"/sites", ""); !strings.Contains(got.text, `"email":"clinic@example.org"`) {
			t.Errorf("sites %s", got.text)
		}
		v.call(t, "PUT", base+"/schedule", `{"rules":[`+rule+`]}`).want(t, "schedule", 200, "", "version", 1)
		got := v.call(t, "GET", base+"/schedule", "")
		got.want(t, "get schedule", 200, "", "version", 1)
		if rules, _ := got.body["rules"].([]any); len(rules) != 1 || !sameJSON(t, rules[0], rule) {
			t.Errorf("schedule %s", got.text)
		}
		v.call(t, "PUT", base+"/schedule", `{"rules":[{"id":"x","questionnaire":"q|1","anchor":"enrolment","offset":"P0D","windows":[]}]}`).
			want(t, "bad schedule", 422, "invalid_schedule")
		v.call(t, "POST", base+"/publish", "").want(t, "publish", 200, "", "id", id, "status", "active")
		for _, list := range []string{"sites", "arms", "staff", "questionnaires"} {
			got := v.call(t, "GET", base+"/"+list, "")
			got.want(t, list, 200, "", "nextCursor", nil)
			if items, _ := got.body["items"].([]any); len(items) != map[string]int{"sites": 1, "arms": 1, "staff": 2, "questionnaires": 1}[list] {
				t.Errorf("%s: %s", list, got.text)
			}
		}
	})
}

// sameJSON compares a decoded value with a text.
func sameJSON(t *testing.T, got any, text string) bool {
	t.Helper()
	var want any
	if err := json.Unmarshal([]byte(text), &want); err != nil {
		t.Fatal(err)
	}
	a, errA := json.Marshal(got)
	b, errB := json.Marshal(want)
	return errA == nil && errB == nil && string(a) == string(b)
}

func TestRefusalsAtTheDoor(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		door := w.door(t).Handler()
		staff := func(id int64) visitor { return visitor{door, fmt.Sprint("staff ", id)} }
		nobody, participant := visitor{door, ""}, visitor{door, "participant 5 1"}
		st := w.create(t, "EP-001")
		base := fmt.Sprintf("/api/v1/studies/%d", st.ID)
		for _, c := range []struct {
			who                  visitor
			method, path, body   string
			ifMatch              string
			status               int
			code, pointer, finds string
		}{
			{nobody, "POST", "/api/v1/studies", newStudyBody, "", 401, "unauthenticated", "", ""},
			{nobody, "GET", "/api/v1/studies", "", "", 401, "unauthenticated", "", ""},
			{participant, "GET", base, "", "", 403, "forbidden", "", ""},
			{staff(monitor), "POST", "/api/v1/studies", newStudyBody, "", 403, "forbidden", "", ""},
			{staff(stranger), "GET", base, "", "", 404, "not_found", "", ""},
			{staff(stranger), "POST", base + "/sites", `{"code":"X","name":"n"}`, "", 404, "not_found", "", ""},
			{staff(manager), "GET", "/api/v1/studies/99", "", "", 404, "not_found", "", ""},
			{staff(admin), "GET", "/api/v1/studies/99", "", "", 404, "not_found", "", ""},
			{staff(manager), "GET", "/api/v1/studies/abc", "", "", 400, "invalid_parameter", "", ""},
			{staff(manager), "GET", "/api/v1/studies?cursor=!", "", "", 400, "invalid_parameter", "", ""},
			{staff(manager), "GET", "/api/v1/studies?limit=0", "", "", 400, "invalid_parameter", "", ""},
			{staff(manager), "POST", "/api/v1/studies", newStudyBody, "", 409, "already_exists", "", ""},
			{staff(manager), "POST", "/api/v1/studies", `{"protocol":"EP-002",`, "", 400, "invalid_json", "", ""},
			{staff(manager), "POST", "/api/v1/studies", `{"protocol":"EP-002","protocol":"EP-003"}`, "", 400, "invalid_json", "", ""},
			{staff(manager), "POST", "/api/v1/studies", strings.Replace(newStudyBody, `"title"`, `"titel"`, 1), "", 400, "unknown_member", "/titel", "unknown_member"},
			{staff(manager), "POST", "/api/v1/studies", `{"protocol":"EP-002"}`, "", 422, "invalid_field", "/title", "required"},
			{staff(manager), "POST", "/api/v1/studies", strings.Replace(newStudyBody, "Asia/Shanghai", "Mars", 1), "", 422, "invalid_field", "/zone", "unknown_zone"},
			{staff(manager), "POST", "/api/v1/studies", strings.Replace(newStudyBody, `"optional"`, `"never"`, 1), "", 422, "invalid_field", "/settings/participantPin", "invalid_value"},
			{staff(manager), "PATCH", base, `{"title":"x"}`, "", 428, "precondition_required", "", ""},
			{staff(manager), "PATCH", base, `{"title":"x"}`, "1", 400, "invalid_parameter", "", ""},
			{staff(manager), "PATCH", base, `{"title":"x"}`, `"7"`, 412, "stale", "", ""},
			{staff(manager), "PATCH", base, `{"title":""}`, `"1"`, 422, "invalid_field", "/title", "invalid_length"},
			{staff(manager), "PATCH", base, `{"protocol":"EP-009"}`, `"1"`, 400, "unknown_member", "/protocol", "unknown_member"},
			{staff(manager), "POST", base + "/sites", `{"code":"a b","name":"n"}`, "", 422, "invalid_field", "/code", "invalid_code"},
			{staff(manager), "POST", base + "/arms", `{"code":"A","name":""}`, "", 422, "invalid_field", "/name", "invalid_length"},
			{staff(manager), "POST", base + "/staff", `{"username":"monitor","role":"king"}`, "", 422, "invalid_field", "/role", "invalid_role"},
			{staff(manager), "POST", base + "/staff", `{"username":"silent","role":"monitor"}`, "", 503, "unavailable", "", ""},
			{staff(manager), "POST", base + "/questionnaires/5/publish", "", "", 404, "not_found", "", ""},
			{staff(manager), "POST", base + "/questionnaires", `{"resourceType":"Questionnaire"`, "", 400, "invalid_json", "", ""},
			{staff(manager), "PUT", base + "/schedule", `{"rules":[]}`, "", 422, "invalid_schedule", "/rules", "missing"},
			{staff(manager), "PUT", base + "/schedule", `{"rules":[{"id":"x","every":1}]}`, "", 400, "unknown_member", "/rules/0/every", "unknown_member"},
			{staff(manager), "POST", base + "/schedule/preview", `{"zone":"Mars","anchors":{"a/b":"2026-02-30"},"from":"x","to":"2026-11-23"}`, "", 422, "invalid_field", "/anchors/a~1b", "invalid_date"},
			{nobody, "GET", "/api/v1/questionnaires/1", "", "", 401, "unauthenticated", "", ""},
			{staff(manager), "GET", "/api/study/questionnaire?id=x", "", "", 400, "invalid_parameter", "", ""},
			{staff(manager), "GET", "/api/study/questionnaire", "", "", 400, "invalid_parameter", "", ""},
			{staff(manager), "GET", "/api/study/questionnaire?id=12", "", "", 404, "not_found", "", ""},
			{staff(manager), "DELETE", base, "", "", 405, "method_not_allowed", "", ""},
		} {
			what := c.who.who + " " + c.method + " " + c.path + " " + c.body
			var header []string
			if c.ifMatch != "" {
				header = []string{"If-Match", c.ifMatch}
			}
			got := c.who.call(t, c.method, c.path, c.body, header...)
			got.want(t, what, c.status, c.code)
			if c.pointer != "" && !strings.Contains(got.text, fmt.Sprintf(`"pointer":%q,"code":%q`, c.pointer, c.finds)) {
				t.Errorf("%s: no finding %s at %s in %s", what, c.finds, c.pointer, got.text)
			}
			if (c.status == 429 || c.status == 503) && got.header.Get("Retry-After") == "" {
				t.Errorf("%s: no Retry-After", what)
			}
		}
		staff(manager).call(t, "POST", base+"/questionnaires", "x", "Content-Type", "text/plain").want(t, "text", 415, "unsupported_media_type")
		w.lock(t, st, Locked)
		staff(manager).call(t, "POST", base+"/sites", `{"code":"S","name":"n"}`).want(t, "locked", 409, "study_locked")
	})
}

func TestChangeAndList(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		v := visitor{w.door(t).Handler(), fmt.Sprint("staff ", manager)}
		first := v.call(t, "POST", "/api/v1/studies", newStudyBody)
		first.want(t, "create", 201, "")
		base := first.header.Get("Location")
		changed := v.call(t, "PATCH", base, `{"title":"New","settings":{"participantPin":"required"}}`, "If-Match", first.header.Get("ETag"))
		changed.want(t, "change", 200, "", "title", "New", "settings", "map[participantPin:required]", "zone", "Asia/Shanghai")
		got := v.call(t, "GET", base, "")
		got.want(t, "get", 200, "", "title", "New")
		if changed.header.Get("ETag") != `"2"` || got.header.Get("ETag") != `"2"` || got.header.Get("Location") != "" {
			t.Errorf("headers %v, %v", changed.header, got.header)
		}
		plain := strings.Replace(strings.Replace(newStudyBody, "EP-001", "EP-002", 1), `,"settings":{"participantPin":"optional"}`, "", 1)
		v.call(t, "POST", "/api/v1/studies", plain).want(t, "without settings", 201, "", "settings", "map[participantPin:required]")
		v.call(t, "POST", "/api/v1/studies", strings.Replace(plain, "EP-002", "EP-003", 1)).want(t, "a third", 201, "")
		var seen []string
		for path, pages := "/api/v1/studies?limit=2", 0; path != ""; pages++ {
			page := v.call(t, "GET", path, "")
			page.want(t, path, 200, "")
			items, _ := page.body["items"].([]any)
			for _, item := range items {
				seen = append(seen, fmt.Sprint(item.(map[string]any)["protocol"]))
			}
			path = ""
			if next, more := page.body["nextCursor"].(string); more && pages < 5 {
				path = "/api/v1/studies?limit=2&cursor=" + next
			}
		}
		if got := strings.Join(seen, " "); got != "EP-001 EP-002 EP-003" {
			t.Errorf("list %s", got)
		}
	})
}

func TestQuestionnaireIsServed(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		door := w.door(t).Handler()
		st := w.create(t, "EP-001")
		q := w.published(t, st.ID, "1.0.0")
		participant := visitor{door, fmt.Sprintf("participant 5 %d", st.ID)}
		for _, path := range []string{fmt.Sprintf("/api/v1/questionnaires/%d", q.ID), fmt.Sprintf("/api/study/questionnaire?id=%d", q.ID)} {
			got := participant.call(t, "GET", path, "")
			got.want(t, path, 200, "")
			tag := got.header.Get("ETag")
			if got.text != string(form("1.0.0", "Pain?")) || tag != fmt.Sprintf(`"%x"`, q.SHA256) || got.header.Get("Content-Type") != "application/fhir+json" {
				t.Errorf("%s: %v %s", path, got.header, got.text)
			}
			for _, known := range []string{tag, `"x", W/` + tag, "*"} {
				same := participant.call(t, "GET", path, "", "If-None-Match", known)
				same.want(t, path+" with "+known, 304, "")
				if same.text != "" || same.header.Get("ETag") != tag {
					t.Errorf("304 with %v %q", same.header, same.text)
				}
			}
			participant.call(t, "GET", path, "", "If-None-Match", `"x"`).want(t, path+" with another tag", 200, "")
			visitor{door, fmt.Sprintf("participant 5 %d", st.ID+1)}.call(t, "GET", path, "").want(t, "participant of another study", 404, "not_found")
		}
	})
}

func TestPreviewAtTheDoor(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		v := visitor{w.door(t).Handler(), fmt.Sprint("staff ", manager)}
		st := w.create(t, "EP-001")
		w.published(t, st.ID, "1.0.0")
		if _, err := w.PutSchedule(acting(t.Context(), manager), st.ID, daily(canonical), time.Time{}); err != nil {
			t.Fatal(err)
		}
		path := fmt.Sprintf("/api/v1/studies/%d/schedule/preview", st.ID)
		const last = `{"date":"2026-11-24","closesAt":"2026-11-24T22:00:00Z","dueAt":"2026-11-24T19:00:00Z","opensAt":"2026-11-24T17:00:00Z","rule":"diary"}`
		// The 23rd's grace ends an hour into the 24th of Berlin.
		for _, c := range []struct{ what, window, dates string }{
			{"instants", `"from":"2026-11-24T16:00:00Z","to":"2026-11-24T18:00:00Z"`, "2026-11-24"},
			{"local dates", `"from":"2026-11-24","to":"2026-11-24"`, "2026-11-23 2026-11-24"},
			{"a date and the instant of opening", `"from":"2026-11-24","to":"2026-11-24T18:00:00+01:00"`, "2026-11-23"},
		} {
			got := v.call(t, "POST", path, `{"zone":"Europe/Berlin","anchors":{"enrolment":"2026-11-23"},`+c.window+`}`)
			got.want(t, c.what, 200, "")
			tasks, _ := got.body["tasks"].([]any)
			var dates []string
			for _, one := range tasks {
				dates = append(dates, fmt.Sprint(one.(map[string]any)["date"]))
			}
			if strings.Join(dates, " ") != c.dates {
				t.Errorf("%s: %v, want %s", c.what, dates, c.dates)
			} else if c.what == "instants" && !sameJSON(t, tasks[0], last) {
				t.Errorf("%s: %s", c.what, got.text)
			}
		}
	})
}
