package task

import (
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/gin-gonic/gin"
	"github.com/google/go-cmp/cmp"

	"github.com/eprod/eprod/internal/auth"
	"github.com/eprod/eprod/internal/errs"
	"github.com/eprod/eprod/internal/web"
)

// door serves the world's routes to a caller that a header names as "kind id", behind the real engine.
func (w *world) door(t testing.TB) *web.Server {
	t.Helper()
	server, err := web.New(web.DefaultConfig(), web.Deps{Log: slog.New(slog.NewTextHandler(t.Output(), nil))})
	if err != nil {
		t.Fatal(err)
	}
	server.Gin().Use(func(c *gin.Context) {
		var kind auth.Kind
		var id int64
		if n, err := fmt.Sscanf(c.GetHeader("X-Caller"), "%s %d", &kind, &id); n == 2 && err == nil {
			c.Request = c.Request.WithContext(as(c.Request.Context(), kind, id))
		}
	})
	w.Routes(server.API())
	return server
}

type reply struct {
	status int
	body   map[string]any
	header http.Header
}

func get(t *testing.T, door http.Handler, caller, path string) reply {
	t.Helper()
	r := httptest.NewRequest("GET", path, nil)
	r.Header.Set("X-Caller", caller)
	rec := httptest.NewRecorder()
	door.ServeHTTP(rec, r)
	out := reply{status: rec.Code, header: rec.Header()}
	if err := json.Unmarshal(rec.Body.Bytes(), &out.body); err != nil {
		t.Fatalf("%s: %v in %s", path, err, rec.Body)
	}
	return out
}

const (
	mine = "/api/v1/me/tasks"
	of7  = "/api/v1/studies/3/participants/7/tasks"
	me   = "participant 7"
)

func TestTaskAtTheDoor(t *testing.T) {
	w := newWorld(t, rule(nil))
	server := w.door(t)
	if err := server.CheckDocument(); err != nil {
		t.Error(err)
	}
	today, yesterday := identity(7, "r", Date{2026, time.July, 8}.days(), 0), identity(7, "r", Date{2026, time.July, 7}.days(), 0)
	w.done[yesterday] = Done{Late: true, ReceivedAt: time.Date(2026, 7, 7, 21, 30, 0, 0, time.UTC)}
	for caller, path := range map[string]string{me: mine, "staff 2": of7} {
		got := get(t, server.Handler(), caller, path+"?from=2026-07-07T12:00:00Z&to=2026-07-09T00:00:00Z")
		form := map[string]any{"id": "700", "url": "q", "version": "1"}
		want := map[string]any{"nextCursor": nil, "items": []any{
			map[string]any{"id": fmt.Sprint(yesterday), "rule": "r", "date": "2026-07-07", "state": "completed", "questionnaire": form, "opensAt": "2026-07-07T16:00:00Z",
				"dueAt": "2026-07-07T18:00:00Z", "closesAt": "2026-07-07T21:00:00Z", "graceUntil": "2026-07-07T23:00:00Z", "zone": "Europe/Berlin",
				"completedAt": "2026-07-07T21:30:00Z", "late": true},
			map[string]any{"id": fmt.Sprint(today), "rule": "r", "date": "2026-07-08", "state": "scheduled", "questionnaire": form, "opensAt": "2026-07-08T16:00:00Z",
				"dueAt": "2026-07-08T18:00:00Z", "closesAt": "2026-07-08T21:00:00Z", "graceUntil": "2026-07-08T23:00:00Z", "zone": "Europe/Berlin"},
		}}
		delete(got.body, "$schema")
		if diff := cmp.Diff(want, got.body); got.status != 200 || diff != "" {
			t.Errorf("%s: %d\n%s", caller, got.status, diff)
		}
	}
	empty := get(t, newWorld(t).door(t).Handler(), me, mine)
	if items, isList := empty.body["items"].([]any); empty.status != 200 || !isList || len(items) != 0 {
		t.Errorf("without a schedule: %d %v", empty.status, empty.body)
	}
}

// TestPages: pages of every size give each task once, in order, also where tasks open at the same instant.
func TestPages(t *testing.T) {
	w := newWorld(t, rule(nil), rule(func(r *Rule) { r.ID = "s" }), rule(func(r *Rule) { r.ID = "t" }))
	door := w.door(t).Handler()
	want, err := w.Mine(as(t.Context(), auth.KindParticipant, 7), time.Time{}, time.Time{})
	if err != nil || len(want) != 42 {
		t.Fatalf("%d tasks, %v", len(want), err)
	}
	for _, limit := range []int{1, 2, 5, 41, 42, 43, 1000} {
		var got []string
		next := "?"
		pages := 0
		for ; next != "" && pages < 50; pages++ {
			page := get(t, door, me, fmt.Sprint(mine, next, "&limit=", limit))
			items, _ := page.body["items"].([]any)
			if page.status != 200 || len(items) == 0 || len(items) > limit {
				t.Fatalf("limit %d: %d with %d items", limit, page.status, len(items))
			}
			for _, item := range items {
				got = append(got, fmt.Sprint(item.(map[string]any)["id"]))
			}
			next = ""
			if cursor, more := page.body["nextCursor"].(string); more {
				next = "?cursor=" + url.QueryEscape(cursor)
			}
		}
		ids := make([]string, len(want))
		for i, l := range want {
			ids[i] = fmt.Sprint(l.ID)
		}
		if diff := cmp.Diff(ids, got); diff != "" || pages != (42+limit-1)/limit {
			t.Errorf("limit %d, %d pages:\n%s", limit, pages, diff)
		}
	}
	// The cursor names a place, not a task: it goes on where the task of the page before is gone.
	last := want[9]
	page := get(t, door, me, fmt.Sprintf("%s?limit=1&cursor=%d.%d", mine, last.OpensAt.UnixMicro(), last.ID-1))
	if items, _ := page.body["items"].([]any); len(items) != 1 || items[0].(map[string]any)["id"] != fmt.Sprint(last.ID) {
		t.Errorf("a cursor between tasks gives %v", page.body)
	}
	if page = get(t, door, me, mine+"?cursor=9223372036854775807.1"); page.status != 200 || page.body["nextCursor"] != nil {
		t.Errorf("a cursor after the end gives %d %v", page.status, page.body)
	}
}

func TestRefusalsAtTheDoor(t *testing.T) {
	w := newWorld(t, rule(nil))
	door := w.door(t).Handler()
	for _, c := range []struct {
		caller, path string
		status       int
		code         string
	}{
		{"", mine, 401, "unauthenticated"},
		{"", of7, 401, "unauthenticated"},
		{"staff 1", mine, 403, "forbidden"},
		{me, of7, 403, "forbidden"},
		{"staff 5", of7, 404, "not_found"},
		{"staff 2", "/api/v1/studies/3/participants/8/tasks", 404, "not_found"},
		{"staff 1", "/api/v1/studies/4/participants/7/tasks", 404, "not_found"},
		{"staff 1", "/api/v1/studies/3/participants/9/tasks", 404, "not_found"},
		{"staff 1", "/api/v1/studies/x/participants/7/tasks", 400, "invalid_parameter"},
		{"staff 1", "/api/v1/studies/3/participants/-7/tasks", 400, "invalid_parameter"},
		{me, mine + "?from=yesterday", 400, "invalid_parameter"},
		{me, mine + "?to=2026-07-01", 400, "invalid_parameter"},
		{me, mine + "?from=2026-07-02T00:00:00Z&to=2026-07-01T00:00:00Z", 400, "invalid_parameter"},
		{me, mine + "?from=2026-07-02T00:00:00Z&to=2027-08-07T00:00:00Z", 400, "invalid_parameter"},
		{me, mine + "?limit=0", 400, "invalid_parameter"},
		{me, mine + "?limit=1001", 400, "invalid_parameter"},
		{me, mine + "?limit=x", 400, "invalid_parameter"},
		{me, mine + "?cursor=x", 400, "invalid_parameter"},
		{me, mine + "?cursor=1", 400, "invalid_parameter"},
		{me, mine + "?cursor=1.", 400, "invalid_parameter"},
		{me, mine + "?cursor=1.2.3", 400, "invalid_parameter"},
		{me, mine + "?cursor=1.99999999999999999999", 400, "invalid_parameter"},
	} {
		got := get(t, door, c.caller, c.path)
		if got.status != c.status || got.body["code"] != c.code || got.header.Get("Content-Type") != "application/problem+json" {
			t.Errorf("%q %s: %d %v, want %d %s", c.caller, c.path, got.status, got.body, c.status, c.code)
		}
	}
	w.away["done"] = errs.Away("tasks", errors.New("secret of the driver"))
	got := get(t, door, me, mine)
	if got.status != 503 || got.body["code"] != "unavailable" || got.header.Get("Retry-After") == "" {
		t.Errorf("while the shard is away: %d %v %v", got.status, got.body, got.header)
	}
	w.away["done"] = errors.New("secret of the driver")
	got = get(t, door, me, mine)
	if text := fmt.Sprint(got.body); got.status != 500 || got.body["code"] != "internal" || strings.Contains(text, "secret") {
		t.Errorf("our own failure: %d %s", got.status, text)
	}
}

func TestExplainAtTheDoor(t *testing.T) {
	w := newWorld(t, rule(nil), rule(func(r *Rule) { r.ID, r.Anchor = "s", "surgery" }))
	server := w.door(t)
	if err := server.CheckDocument(); err != nil {
		t.Error(err)
	}
	door := server.Handler()
	yesterday := identity(7, "r", Date{2026, time.July, 7}.days(), 0)
	w.done[yesterday] = Done{ReceivedAt: time.Date(2026, 7, 7, 20, 30, 0, 0, time.UTC)}
	got := get(t, door, "staff 2", of7+"/explain?date=2026-07-07")
	rules, _ := got.body["rules"].([]any)
	if got.status != 200 || len(rules) != 2 {
		t.Fatalf("%d %v", got.status, got.body)
	}
	due, not := rules[0].(map[string]any), rules[1].(map[string]any)
	tasks, _ := due["tasks"].([]any)
	if due["due"] != true || due["reason"] != "due" || len(tasks) != 1 || tasks[0].(map[string]any)["state"] != "completed" || tasks[0].(map[string]any)["id"] != fmt.Sprint(yesterday) {
		t.Errorf("due: %v", due)
	}
	if not["due"] != false || not["reason"] != "no_anchor" || not["anchor"].(map[string]any)["event"] != "surgery" || not["anchor"].(map[string]any)["date"] != nil {
		t.Errorf("not due: %v", not)
	}
	for path, status := range map[string]int{"/explain": 400, "/explain?date=x": 400, "/explain?date=2026-02-30": 400} {
		if r := get(t, door, "staff 2", of7+path); r.status != status || r.body["code"] != "invalid_parameter" {
			t.Errorf("%s: %d %v", path, r.status, r.body)
		}
	}
	for caller, status := range map[string]int{"": 401, me: 403, "staff 5": 404} {
		if r := get(t, door, caller, of7+"/explain?date=2026-07-07"); r.status != status {
			t.Errorf("%q: %d %v", caller, r.status, r.body)
		}
	}
}
