package web_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/gin-gonic/gin"
	"github.com/google/go-cmp/cmp"

	"github.com/eprod/eprod/internal/errs"
	"github.com/eprod/eprod/internal/web"
)

type window struct {
	Opens string `json:"opens" minLength:"5" maxLength:"5"`
}

type createBody struct {
	Title    string      `json:"title" minLength:"1"`
	Kind     string      `json:"kind,omitempty" enum:"a,b"`
	Parent   web.ID      `json:"parent,omitzero"`
	Size     int         `json:"size,omitempty" maximum:"9"`
	Windows  []window    `json:"windows,omitempty"`
	When     time.Time   `json:"when,omitzero"`
	Optional *string     `json:"optional,omitempty"`
	Free     interface{} `json:"free,omitempty"`
}

type createInput struct {
	Study web.ID `path:"study"`
	Limit int    `query:"limit" minimum:"1" maximum:"500" default:"50"`
	After web.ID `query:"after"`
	Body  createBody
}

type createOutput struct {
	Status   int
	ETag     string `header:"ETag"`
	Location string `header:"Location"`
	Body     struct {
		ID    web.ID   `json:"id"`
		Study web.ID   `json:"study"`
		After web.ID   `json:"after,omitzero"`
		Limit int      `json:"limit"`
		Title string   `json:"title"`
		Tags  []string `json:"tags"`
	}
}

func newServer(t testing.TB, deps web.Deps) *web.Server {
	t.Helper()
	cfg := web.DefaultConfig()
	cfg.Listen, cfg.MaxBodyBytes, cfg.DrainDelay = "127.0.0.1:0", 2048, 0
	s, err := web.New(cfg, deps)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func addCreate(s *web.Server) {
	web.Register(s.API(), huma.Operation{Method: "POST", Path: "/things/{study}", DefaultStatus: 201, OperationID: "create"},
		func(_ context.Context, in *createInput) (*createOutput, error) {
			if in.Body.Title == "boom" {
				return nil, errors.New("dial tcp 10.0.0.1: secret")
			}
			if in.Body.Title == "panic" {
				panic("secret")
			}
			out := &createOutput{Status: 201, ETag: web.ETag(1), Location: "/things/7"}
			out.Body.ID, out.Body.Study, out.Body.Limit, out.Body.Title, out.Body.After = 9007199254740993, in.Study, in.Limit, in.Body.Title, in.After
			return out, nil
		})
}

func do(t testing.TB, h http.Handler, method, target, body string, header ...string) *httptest.ResponseRecorder {
	t.Helper()
	var r io.Reader = http.NoBody
	if body != "" {
		r = strings.NewReader(body)
	}
	req := httptest.NewRequest(method, target, r)
	if body != "" {
		req.Header.Set("Content-Type", "application/json")
	}
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, req)
	return w
}

func TestRegisterAnswers(t *testing.T) {
	s := newServer(t, web.Deps{})
	addCreate(s)
	w := do(t, s.Handler(), "POST", "/things/42?after=7", `{"title":"x","parent":"5","free":{"a":[1]}}`, "X-Request-ID", "req-00001")
	want := `{"id":"9007199254740993","study":"42","after":"7","limit":50,"title":"x","tags":[]}`
	if diff := cmp.Diff(want, w.Body.String()); w.Code != 201 || diff != "" {
		t.Fatalf("status %d, body %s", w.Code, diff)
	}
	for name, value := range map[string]string{
		"ETag": `"1"`, "Location": "/things/7", "Content-Type": "application/json", "X-Request-Id": "req-00001",
		"X-Content-Type-Options": "nosniff", "Cache-Control": "no-store",
	} {
		if got := w.Header().Get(name); got != value {
			t.Errorf("%s: %q, want %q", name, got, value)
		}
	}
}

func TestRegisterRefuses(t *testing.T) {
	s := newServer(t, web.Deps{})
	addCreate(s)
	tests := []struct {
		name, target, body string
		header             []string
		status             int
		code               string
		pointers           string // of errors, joined
		detail             string // part of it
	}{
		{name: "no body", target: "/things/1", status: 400, code: "invalid_json"},
		{name: "half a value", target: "/things/1", body: `{"title":"x"`, status: 400, code: "invalid_json"},
		{name: "not JSON", target: "/things/1", body: `{title:1}`, status: 400, code: "invalid_json", detail: "byte 2"},
		{name: "duplicate", target: "/things/1", body: `{"title":"x","title":"y"}`, status: 400, code: "invalid_json", detail: "duplicate"},
		{name: "nested duplicate", target: "/things/1", body: `{"title":"x","free":{"a":1,"a":2}}`, status: 400, code: "invalid_json"},
		{name: "second value", target: "/things/1", body: `{"title":"x"} {}`, status: 400, code: "invalid_json"},
		{name: "bad UTF-8", target: "/things/1", body: "{\"title\":\"\xff\"}", status: 400, code: "invalid_json", detail: "UTF-8"},
		{name: "unknown member", target: "/things/1", body: `{"title":"x","tilte":"y"}`, status: 400, code: "unknown_member", pointers: "/tilte"},
		{name: "unknown nested", target: "/things/1", body: `{"title":"x","windows":[{"opens":"10:00"},{"opens":"10:00","x":1}]}`, status: 400, code: "unknown_member", pointers: "/windows/1/x"},
		{name: "other case", target: "/things/1", body: `{"Title":"x"}`, status: 400, code: "unknown_member", pointers: "/Title"},
		{name: "wrong type", target: "/things/1", body: `{"title":5}`, status: 422, code: "invalid_field", pointers: "/title"},
		{name: "missing", target: "/things/1", body: `{}`, status: 422, code: "invalid_field", pointers: "/title"},
		{name: "all findings", target: "/things/1", body: `{"title":"","kind":"c","size":10,"windows":[{"opens":"1"}]}`, status: 422, code: "invalid_field", pointers: "/kind /size /title /windows/0/opens"},
		{name: "id as number", target: "/things/1", body: `{"title":"x","parent":5}`, status: 422, code: "invalid_field", pointers: "/parent"},
		{name: "id too large", target: "/things/1", body: `{"title":"x","parent":"9999999999999999999"}`, status: 422, code: "invalid_field", pointers: "/parent"},
		{name: "fraction", target: "/things/1", body: `{"title":"x","size":1.5}`, status: 422, code: "invalid_field", pointers: "/size"},
		{name: "time", target: "/things/1", body: `{"title":"x","when":"yesterday"}`, status: 422, code: "invalid_field", pointers: "/when"},
		{name: "array for object", target: "/things/1", body: `[]`, status: 422, code: "invalid_field", pointers: ""},
		{name: "bad path", target: "/things/abc", body: `{"title":"x"}`, status: 400, code: "invalid_parameter", detail: "study: must be an id"},
		{name: "zero id", target: "/things/0", body: `{"title":"x"}`, status: 400, code: "invalid_parameter"},
		{name: "bad query", target: "/things/1?limit=0", body: `{"title":"x"}`, status: 400, code: "invalid_parameter", detail: "limit: expected number >= 1"},
		{name: "bad query type", target: "/things/1?limit=x", body: `{"title":"x"}`, status: 400, code: "invalid_parameter"},
		{name: "too large", target: "/things/1", body: `{"title":"` + strings.Repeat("x", 3000) + `"}`, status: 413, code: "too_large"},
		{name: "form", target: "/things/1", body: `{"title":"x"}`, header: []string{"Content-Type", "application/x-www-form-urlencoded"}, status: 415, code: "unsupported_media_type"},
		{name: "latin-1", target: "/things/1", body: `{"title":"x"}`, header: []string{"Content-Type", "application/json; charset=iso-8859-1"}, status: 415, code: "unsupported_media_type"},
		{name: "no such path", target: "/nothing", body: `{}`, status: 404, code: "not_found"},
		{name: "internal", target: "/things/1", body: `{"title":"boom"}`, status: 500, code: "internal"},
		{name: "panic", target: "/things/1", body: `{"title":"panic"}`, status: 500, code: "internal"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			checkProblem(t, do(t, s.Handler(), "POST", tt.target, tt.body, tt.header...), tt.status, tt.code, tt.pointers, tt.detail)
		})
	}
	t.Run("chunked too large", func(t *testing.T) {
		req := httptest.NewRequest("POST", "/things/1", io.MultiReader(strings.NewReader(`{"title":"`), strings.NewReader(strings.Repeat("x", 3000))))
		req.ContentLength = -1
		w := httptest.NewRecorder()
		s.Handler().ServeHTTP(w, req)
		checkProblem(t, w, 413, "too_large", "", "2048")
	})
	t.Run("method", func(t *testing.T) {
		w := do(t, s.Handler(), "PUT", "/things/1", `{}`)
		checkProblem(t, w, 405, "method_not_allowed", "", "")
		if w.Header().Get("Allow") != "POST" {
			t.Errorf("Allow: %q", w.Header().Get("Allow"))
		}
	})
}

// checkProblem holds an answer against the promises that every error keeps.
func checkProblem(t *testing.T, w *httptest.ResponseRecorder, status int, code, pointers, detail string) {
	t.Helper()
	var p struct {
		Type, Title, Detail, Code, RequestID string
		Status                               int
		Errors                               []errs.Finding
	}
	if err := json.Unmarshal(w.Body.Bytes(), &p); err != nil {
		t.Fatalf("%v in %q", err, w.Body.String())
	}
	if w.Code != status || p.Status != status || p.Code != code {
		t.Errorf("got %d %d %s, want %d %s: %s", w.Code, p.Status, p.Code, status, code, w.Body.String())
	}
	if p.Type == "" || p.Title == "" || p.Detail == "" || len(p.RequestID) != 32 || p.RequestID != w.Header().Get("X-Request-Id") {
		t.Errorf("incomplete: %s", w.Body.String())
	}
	if ct := w.Header().Get("Content-Type"); ct != "application/problem+json" {
		t.Errorf("content type %q", ct)
	}
	if !strings.Contains(p.Detail, detail) || strings.Contains(w.Body.String(), "secret") {
		t.Errorf("detail %q, want it to hold %q", p.Detail, detail)
	}
	got := map[string]bool{}
	for _, f := range p.Errors {
		got[f.Pointer] = true
		if f.Code == "" || f.Detail == "" {
			t.Errorf("incomplete finding %+v", f)
		}
	}
	want := map[string]bool{}
	for _, p := range strings.Fields(pointers) {
		want[p] = true
	}
	if len(want) > 0 {
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("pointers: %s", diff)
		}
	}
	if status == 422 && len(p.Errors) == 0 {
		t.Error("422 without findings")
	}
}

func TestPlainHandlerAndRaw(t *testing.T) {
	s := newServer(t, web.Deps{})
	s.Gin().POST("/plain", func(c *gin.Context) {
		web.WriteProblem(c, errs.New(errs.Overloaded, "overloaded", "too many at once").WithRetryAfter(2*time.Second).
			WithMembers(map[string]any{"holder": "S01", "code": "evil"}))
	})
	web.Describe(s.API(), huma.Operation{Method: "POST", Path: "/plain", OperationID: "plain", MaxBodyBytes: 1 << 20})
	type rawIn struct {
		RawBody []byte `contentType:"application/json"`
	}
	type rawOut struct {
		ContentType string `header:"Content-Type"`
		Body        []byte
	}
	web.Register(s.API(), huma.Operation{Method: "PUT", Path: "/raw", OperationID: "raw"}, func(_ context.Context, in *rawIn) (*rawOut, error) {
		return &rawOut{ContentType: "application/fhir+json", Body: append([]byte(nil), in.RawBody...)}, nil
	})

	w := do(t, s.Handler(), "POST", "/plain", `{"x":"`+strings.Repeat("y", 4000)+`"}`)
	if w.Code != 503 || !strings.Contains(w.Body.String(), `"holder":"S01"`) || !strings.Contains(w.Body.String(), `"code":"overloaded"`) {
		t.Errorf("%d %s", w.Code, w.Body.String())
	}
	if after := w.Header().Get("Retry-After"); after != "2" && after != "3" && after != "4" {
		t.Errorf("Retry-After %q", after)
	}
	w = do(t, s.Handler(), "PUT", "/raw", `{"resourceType" : "Questionnaire"}`, "Content-Type", "application/fhir+json")
	if w.Code != 200 || w.Body.String() != `{"resourceType" : "Questionnaire"}` || w.Header().Get("Content-Type") != "application/fhir+json" {
		t.Errorf("%d %s %v", w.Code, w.Body.String(), w.Header())
	}
	checkProblem(t, do(t, s.Handler(), "PUT", "/raw", `{"a":1,"a":2}`), 400, "invalid_json", "", "duplicate")
}

func TestRegisterStatuses(t *testing.T) {
	s := newServer(t, web.Deps{})
	type in struct {
		Status int    `query:"status"`
		Match  string `header:"If-Match"`
		None   string `header:"If-None-Match"`
	}
	type out struct {
		Status int
		ETag   string `header:"ETag"`
		Body   *struct {
			OK    bool             `json:"ok"`
			Empty web.Page[web.ID] `json:"empty"`
		}
	}
	web.Register(s.API(), huma.Operation{Method: "GET", Path: "/x", OperationID: "x"}, func(_ context.Context, in *in) (*out, error) {
		o := &out{Status: in.Status, ETag: web.ETag(4)}
		if web.NoneMatch(in.None, o.ETag) {
			o.Status = 304
			return o, nil
		}
		if in.Status == 412 {
			v, err := web.IfMatch(in.Match)
			if err == nil && v != 4 {
				err = errs.New(errs.Stale, "stale", "somebody else changed it")
			}
			if err != nil {
				return nil, err
			}
		}
		o.Body = &struct {
			OK    bool             `json:"ok"`
			Empty web.Page[web.ID] `json:"empty"`
		}{OK: true}
		return o, nil
	})
	web.Register(s.API(), huma.Operation{Method: "DELETE", Path: "/x", OperationID: "delete"}, func(context.Context, *struct{}) (*struct{}, error) { return nil, nil })
	for _, status := range []int{200, 201, 202} {
		w := do(t, s.Handler(), "GET", fmt.Sprint("/x?status=", status), "")
		if w.Code != status || w.Body.String() != `{"ok":true,"empty":{"items":[],"nextCursor":null}}` {
			t.Errorf("%d: %d %s", status, w.Code, w.Body.String())
		}
	}
	if w := do(t, s.Handler(), "GET", "/x", "", "If-None-Match", `"4"`); w.Code != 304 || w.Body.Len() != 0 || w.Header().Get("ETag") != `"4"` {
		t.Errorf("%d %q %v", w.Code, w.Body.String(), w.Header())
	}
	if w := do(t, s.Handler(), "DELETE", "/x", ""); w.Code != 204 || w.Body.Len() != 0 {
		t.Errorf("%d %q", w.Code, w.Body.String())
	}
	checkProblem(t, do(t, s.Handler(), "GET", "/x?status=412", ""), 428, "precondition_required", "", "If-Match")
	checkProblem(t, do(t, s.Handler(), "GET", "/x?status=412", "", "If-Match", `"3"`), 412, "stale", "", "")
	checkProblem(t, do(t, s.Handler(), "GET", "/x?status=412", "", "If-Match", `x`), 400, "invalid_parameter", "", "If-Match")
}

// FuzzBody wants every body answered with the success or a complete problem, never a 500.
func FuzzBody(f *testing.F) {
	s := newServer(f, web.Deps{})
	web.Register(s.API(), huma.Operation{Method: "POST", Path: "/fuzz", OperationID: "fuzz"},
		func(context.Context, *struct{ Body createBody }) (*struct{}, error) { return nil, nil })
	for _, seed := range []string{`{"title":"x"}`, `{"title":"x","windows":[{"opens":"10:00"}],"when":"2026-11-23T00:00:00Z","parent":"7"}`, `{"a.b[0]":1}`, `{"":{}}`, `[[[[`, `"`, `{"title":"\ud800"}`, `{"size":1e400}`, `{"title":null,"windows":null}`} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, body string) {
		if len(body) > 2000 {
			return
		}
		w := do(t, s.Handler(), "POST", "/fuzz", body)
		var p web.Problem
		if w.Code == 204 {
			return
		}
		if err := json.Unmarshal(w.Body.Bytes(), &p); err != nil || w.Code >= 500 || p.Status != w.Code || p.Code == "" || p.Detail == "" {
			t.Errorf("%q: %d %s", body, w.Code, w.Body.String())
		}
	})
}

type hidden struct {
	From string `query:"from"`
}

// TestRegisterRefusesHiddenFields: huma would leave them empty in silence.
func TestRegisterRefusesHiddenFields(t *testing.T) {
	server := newServer(t, web.Deps{})
	defer func() {
		if got := fmt.Sprint(recover()); !strings.Contains(got, "list: huma would leave hidden") {
			t.Errorf("registered, or failed with %q", got)
		}
	}()
	web.Register(server.API(), huma.Operation{OperationID: "list", Method: http.MethodGet, Path: "/hidden"},
		func(context.Context, *struct{ hidden }) (*struct{}, error) { return nil, nil })
}
