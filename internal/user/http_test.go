package user

import (
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/go-json-experiment/json"

	"github.com/eprod/eprod/internal/auth"
	"github.com/eprod/eprod/internal/web"
)

// door serves the world's routes behind the real engine.
func (w *world) door(t *testing.T) http.Handler {
	t.Helper()
	server, err := web.New(web.DefaultConfig(), web.Deps{Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	server.Gin().Use(auth.Middleware(w.signer))
	w.Routes(server)
	return server.Handler()
}

// post returns status and body of a request.
func post(t *testing.T, door http.Handler, path, token, body string) (int, map[string]any, http.Header) {
	t.Helper()
	r := httptest.NewRequest(http.MethodPost, path, strings.NewReader(body))
	if body == "" {
		r = httptest.NewRequest(http.MethodPost, path, nil)
	} else {
		r.Header.Set("Content-Type", "application/json")
	}
	if token != "" {
		r.Header.Set("Authorization", "Bearer "+token)
	}
	rec := httptest.NewRecorder()
	door.ServeHTTP(rec, r)
	raw, err := io.ReadAll(rec.Body)
	if err != nil {
		t.Fatal(err)
	}
	var out map[string]any
	if len(raw) > 0 {
		if err := json.Unmarshal(raw, &out); err != nil {
			t.Fatalf("%s: %v in %s", path, err, raw)
		}
	}
	return rec.Code, out, rec.Header()
}

func TestDoor(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		if _, err := w.AddStaff(t.Context(), "anna", "correct horse", auth.Administrator); err != nil {
			t.Fatal(err)
		}
		door := w.door(t)
		activation := w.enrolled(t)
		w.pinNeeded = true
		call := func(path, token, body string, status int, code string) map[string]any {
			t.Helper()
			got, out, header := post(t, door, "/api/v1/auth/"+path, token, body)
			if got != status || code != "" && out["code"] != code {
				t.Errorf("%s %s: %d %v, want %d %s", path, body, got, out, status, code)
			}
			if header.Get("Cache-Control") != "no-store" {
				t.Errorf("%s: Cache-Control %q", path, header.Get("Cache-Control"))
			}
			return out
		}
		staff := call("login", "", `{"username":"anna","password":"correct horse"}`, 200, "")
		if staff["tokenType"] != "Bearer" || staff["expiresIn"] != 600.0 || staff["accessToken"] == "" || staff["refreshToken"] == "" || len(staff) != 4 {
			t.Errorf("tokens %v", staff)
		}
		call("login", "", `{"username":"anna","password":"wrong"}`, 401, "unauthenticated")
		call("login", "", `{"username":"anna"}`, 422, "invalid_field")
		call("login", "", `{"username":"anna","password":"wrong","x":1}`, 400, "unknown_member")
		call("login", "", `{"username":"anna","username":"b","password":"x"}`, 400, "invalid_json")
		call("login", "", `{"username":"anna","password":"`+strings.Repeat("x", maxBody)+`"}`, 413, "too_large")

		call("activate", "", `{"code":"`+activation+`"}`, 422, "invalid_field")
		call("activate", "", `{"code":"nonsense","pin":"1234"}`, 401, "unauthenticated")
		one := call("activate", "", `{"code":"`+strings.ToLower(activation)+`","pin":"1234"}`, 200, "")
		if one["participant"] != "4711" || one["study"] != "77" || one["number"] != "0001" || one["tokenType"] != "Bearer" {
			t.Errorf("activation answers %v", one)
		}
		call("activate", "", `{"code":"`+activation+`","pin":"1234"}`, 401, "unauthenticated")
		call("participant", "", `{"study":"EP-001","number":"0001","pin":"0000"}`, 401, "unauthenticated")
		two := call("participant", "", `{"study":"EP-001","number":"0001","pin":"1234"}`, 200, "")

		next := call("refresh", "garbage", `{"refreshToken":"`+one["refreshToken"].(string)+`"}`, 200, "") // a stale header must not matter
		call("refresh", "", `{"refreshToken":"`+one["refreshToken"].(string)+`"}`, 401, "unauthenticated")
		call("refresh", "", `{"refreshToken":"`+next["refreshToken"].(string)+`"}`, 401, "unauthenticated")

		call("logout", "", "", 401, "unauthenticated")
		call("logout", staff["accessToken"].(string), "", 204, "")
		call("refresh", "", `{"refreshToken":"`+staff["refreshToken"].(string)+`"}`, 401, "unauthenticated")
		call("logout", "", `{"refreshToken":"`+two["refreshToken"].(string)+`"}`, 204, "")
		call("refresh", "", `{"refreshToken":"`+two["refreshToken"].(string)+`"}`, 401, "unauthenticated")
	})
}

func TestDoorSaysWhenFull(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		for range cap(w.Hasher.admitted) {
			w.Hasher.admitted <- struct{}{}
		}
		status, out, header := post(t, w.door(t), "/api/v1/auth/login", "", `{"username":"anna","password":"correct horse"}`)
		if status != 503 || out["code"] != "overloaded" || header.Get("Retry-After") == "" {
			t.Errorf("%d %v, Retry-After %q; want 503 overloaded with a delay", status, out, header.Get("Retry-After"))
		}
	})
}
