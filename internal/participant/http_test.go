package participant

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/gin-gonic/gin"
	"github.com/go-json-experiment/json"

	"github.com/eprod/eprod/internal/auth"
	"github.com/eprod/eprod/internal/testenv"
	"github.com/eprod/eprod/internal/web"
)

// door serves the world's routes to a caller that a header names, behind the real engine.
func (w *world) door(t testing.TB) *web.Server {
	t.Helper()
	return w.doorOf(t, web.Deps{Log: slog.New(slog.DiscardHandler)})
}

func (w *world) doorOf(t testing.TB, deps web.Deps) *web.Server {
	t.Helper()
	server, err := web.New(web.DefaultConfig(), deps)
	if err != nil {
		t.Fatal(err)
	}
	server.Gin().Use(func(c *gin.Context) {
		var p auth.Principal
		if n, err := fmt.Sscanf(c.GetHeader("X-Caller"), "%s %d", &p.Kind, &p.ID); n == 2 && err == nil {
			if p.ID == admin {
				p.Role = auth.Administrator
			}
			c.Request = c.Request.WithContext(auth.With(c.Request.Context(), p))
		}
	})
	w.Routes(server)
	return server
}

type reply struct {
	status int
	body   map[string]any
	header http.Header
}

func call(t *testing.T, door http.Handler, method, path, caller, body string, header ...string) reply {
	t.Helper()
	var content io.Reader
	if body != "" {
		content = strings.NewReader(body)
	}
	r := httptest.NewRequest(method, path, content)
	if body != "" {
		r.Header.Set("Content-Type", "application/json")
	}
	r.Header.Set("X-Caller", caller)
	for i := 0; i+1 < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	rec := httptest.NewRecorder()
	door.ServeHTTP(rec, r)
	out := reply{status: rec.Code, header: rec.Header()}
	if rec.Body.Len() > 0 {
		if err := json.Unmarshal(rec.Body.Bytes(), &out.body); err != nil {
			t.Fatalf("%s %s: %v in %s", method, path, err, rec.Body)
		}
	}
	return out
}

func (r reply) want(t *testing.T, what string, status int, code string) {
	t.Helper()
	if r.status != status || code != "" && r.body["code"] != code {
		t.Errorf("%s: %d %v, want %d %s", what, r.status, r.body, status, code)
	}
}

func TestDoor(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		server := w.door(t)
		if err := server.CheckDocument(); err != nil {
			t.Error(err)
		}
		door := server.Handler()
		const path = "/api/v1/studies/77/participants"
		const body = `{"number":"0001","site":"S01","arm":"A","zone":"Europe/Berlin","language":"en","anchors":{"enrolment":"2026-11-23"}}`
		staff := fmt.Sprintf("%s %d", auth.KindStaff, coordinator)

		made := call(t, door, "POST", path, staff, body)
		made.want(t, "enrol", 201, "")
		id, _ := made.body["id"].(string)
		activation, _ := made.body["activationCode"].(string)
		if id == "" || made.body["number"] != "0001" || activation == "" || made.body["activationUrl"] != "https://epro.example.org/activate#"+activation ||
			made.header.Get("Location") != path+"/"+id || made.header.Get("Cache-Control") != "no-store" {
			t.Errorf("enrolment answers %v %v", made.body, made.header)
		}
		taken := call(t, door, "POST", path, staff, body)
		taken.want(t, "enrol again", 409, "already_exists")
		if taken.body["id"] != id {
			t.Errorf("a taken number answers %v, want the id", taken.body)
		}
		call(t, door, "POST", path, "", body).want(t, "anonymous", 401, "unauthenticated")
		call(t, door, "POST", path, fmt.Sprintf("%s %s", auth.KindParticipant, id), body).want(t, "participant", 403, "forbidden")
		call(t, door, "POST", path, staff, `{"number":"2","site":"S01","arm":"A","x":1}`).want(t, "unknown member", 400, "unknown_member")
		call(t, door, "POST", path, staff, `{"number":"2"}`).want(t, "missing member", 422, "invalid_field")
		call(t, door, "POST", path, staff, `{"number":"2","site":"S01","arm":"A","zone":"Mars/X"}`).want(t, "zone", 422, "invalid_field")
		call(t, door, "POST", "/api/v1/studies/x/participants", staff, body).want(t, "bad id", 400, "invalid_parameter")

		one := call(t, door, "GET", path+"/"+id, staff, "")
		one.want(t, "get", 200, "")
		if one.header.Get("ETag") != `"1"` || one.body["site"] != "S01" || one.body["status"] != "enrolled" || one.body["createdAt"] != "2026-11-23T20:00:00Z" {
			t.Errorf("participant %v %v", one.body, one.header)
		}
		call(t, door, "GET", path+"/5", staff, "").want(t, "nobody", 404, "not_found")

		const change = `{"zone":"Asia/Tokyo","reason":"moved"}`
		call(t, door, "PATCH", path+"/"+id, staff, change).want(t, "no If-Match", 428, "precondition_required")
		call(t, door, "PATCH", path+"/"+id, staff, change, "If-Match", "1").want(t, "bad If-Match", 400, "invalid_parameter")
		call(t, door, "PATCH", path+"/"+id, staff, change, "If-Match", `"7"`).want(t, "stale", 412, "stale")
		changed := call(t, door, "PATCH", path+"/"+id, staff, change, "If-Match", `"1"`)
		changed.want(t, "change", 200, "")
		if zones, _ := changed.body["zones"].([]any); changed.header.Get("ETag") != `"2"` || len(zones) != 2 {
			t.Errorf("change answers %v", changed.body)
		}

		w.clock.Advance(time.Millisecond) // the clock stood still at the change, so the new zone begins a microsecond from now
		me := call(t, door, "GET", "/api/v1/me", fmt.Sprintf("%s %s", auth.KindParticipant, id), "")
		me.want(t, "me", 200, "")
		if me.body["participant"] != id || me.body["study"] != "77" || me.body["number"] != "0001" || me.body["zone"] != "Asia/Tokyo" || me.body["language"] != "en" || me.body["arm"] != nil {
			t.Errorf("me %v", me.body)
		}
		call(t, door, "GET", "/api/v1/me", staff, "").want(t, "me as staff", 403, "forbidden")

		list := call(t, door, "GET", path+"?limit=1", staff, "")
		list.want(t, "list", 200, "")
		if items, _ := list.body["items"].([]any); len(items) != 1 || list.body["nextCursor"] != nil {
			t.Errorf("list %v", list.body)
		}
		call(t, door, "GET", path+"?cursor=x", staff, "").want(t, "cursor", 400, "invalid_parameter")
		call(t, door, "GET", path+"?limit=0", staff, "").want(t, "limit", 400, "invalid_parameter")

		call(t, door, "POST", path+"/"+id+"/activation", staff, "").want(t, "new code", 201, "")
	})
}

func TestImportDoor(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		server := httptest.NewServer(w.door(t).Handler())
		defer server.Close()
		send := func(who, media, body string) (int, string, []map[string]any) {
			t.Helper()
			r, err := http.NewRequestWithContext(t.Context(), "POST", server.URL+"/api/v1/studies/77/participants/import", strings.NewReader(body))
			if err != nil {
				t.Fatal(err)
			}
			r.Header.Set("X-Caller", who)
			r.Header.Set("Content-Type", media)
			answer, err := http.DefaultClient.Do(r)
			if err != nil {
				t.Fatal(err)
			}
			defer answer.Body.Close()
			raw, err := io.ReadAll(answer.Body)
			if err != nil {
				t.Fatal(err)
			}
			var lines []map[string]any
			for line := range bytes.Lines(raw) {
				var one map[string]any
				if err := json.Unmarshal(line, &one); err != nil {
					t.Fatalf("%v in %s", err, line)
				}
				lines = append(lines, one)
			}
			return answer.StatusCode, answer.Header.Get("Content-Type"), lines
		}
		staff := fmt.Sprintf("%s %d", auth.KindStaff, admin)
		line := func(number string) string { return `{"number":"` + number + `","site":"S01","arm":"A"}` }
		status, media, lines := send(staff, ndjson, line("1")+"\r\n\n  \n"+line("2")+"\n{\n"+line("1")+"\n"+line("3"))
		if status != 200 || media != ndjson || len(lines) != 5 {
			t.Fatalf("%d %s %v", status, media, lines)
		}
		for i, c := range []struct {
			line    float64
			number  any
			problem any
		}{{1, "1", nil}, {4, "2", nil}, {5, nil, "invalid_json"}, {6, "1", "already_exists"}, {7, "3", nil}} {
			problem, _ := lines[i]["problem"].(map[string]any)
			if lines[i]["line"] != c.line || lines[i]["number"] != c.number || problem["code"] != c.problem || (lines[i]["activationCode"] != nil) != (problem == nil) {
				t.Errorf("line %d: %v", i, lines[i])
			}
		}
		if lines[3]["id"] != lines[0]["id"] {
			t.Errorf("a taken number must name its participant: %v", lines[3])
		}
		long := strings.Repeat(line("9")+"\n", w.config.ImportLines+1)
		for name, c := range map[string]struct {
			who, media, body string
			status           int
			code             string
		}{
			"too many lines": {staff, ndjson, long, 413, "too_large"},
			"media type":     {staff, "text/csv", line("9"), 415, "unsupported_media_type"},
			"empty":          {staff, ndjson, "\n\n", 400, "invalid_json"},
			"anonymous":      {"", ndjson, line("9"), 401, "unauthenticated"},
			"reader":         {fmt.Sprintf("%s %d", auth.KindStaff, monitor), ndjson, line("9"), 403, "forbidden"},
			"no rights":      {fmt.Sprintf("%s %d", auth.KindStaff, 9), ndjson, line("9"), 404, "not_found"},
		} {
			status, media, lines := send(c.who, c.media, c.body)
			if status != c.status || media != "application/problem+json" || lines[0]["code"] != c.code {
				t.Errorf("%s: %d %s %v, want %d %s", name, status, media, lines, c.status, c.code)
			}
		}
		if n := w.everything(t)["participant"]; n != 3 {
			t.Errorf("%d participants, want 3: a refused import must change nothing", n)
		}
		for range cap(w.imports) {
			w.imports <- struct{}{}
		}
		if status, _, lines := send(staff, ndjson, line("9")); status != 503 || lines[0]["code"] != "overloaded" {
			t.Errorf("with all places taken: %d %v", status, lines)
		}
	})
}

// BenchmarkImport5000 enrols 5,000 participants per round, in batches as in production.
func BenchmarkImport5000(b *testing.B) {
	shards := testenv.Shards(b)
	for dialect, meta := range testenv.Databases(b, "meta") {
		b.Run(dialect, func(b *testing.B) {
			w := newWorld(b, meta, shards[dialect])
			w.config.ImportBatch = DefaultConfig().ImportBatch
			ctx := as(context.Background(), admin)
			round := 0
			for b.Loop() {
				round++
				err := w.Import(ctx, theStudy, lines(5000, func(i int, l *Line) { l.Number = fmt.Sprintf("%d-%d", round, i) }), "", func(fates []Outcome) error {
					for _, o := range fates {
						if o.Err != nil {
							return o.Err
						}
					}
					return nil
				})
				if err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
