package idgen_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gin-gonic/gin"

	"github.com/eprod/eprod/internal/errs"
	"github.com/eprod/eprod/internal/idgen"
	"github.com/eprod/eprod/internal/web"
)

func TestGet(t *testing.T) {
	s, err := web.New(web.DefaultConfig(), web.Deps{})
	if err != nil {
		t.Fatal(err)
	}
	type caller struct{}
	s.Gin().Use(func(c *gin.Context) {
		c.Request = c.Request.WithContext(context.WithValue(c.Request.Context(), caller{}, c.GetHeader("Authorization")))
	})
	idgen.Routes(s, fixed(t, idgen.Refuse, nil), func(ctx context.Context) error {
		if ctx.Value(caller{}) == "" {
			return errs.NoCredentials("send a bearer token")
		}
		return nil
	})
	get := func(query, token string) *httptest.ResponseRecorder {
		req := httptest.NewRequest("GET", "/api/id/get"+query, nil)
		if token != "" {
			req.Header.Set("Authorization", token)
		}
		w := httptest.NewRecorder()
		s.Handler().ServeHTTP(w, req)
		return w
	}
	var one struct {
		ID    int64
		IDStr string
	}
	w := get("", "x")
	if err := json.Unmarshal(w.Body.Bytes(), &one); err != nil || one.ID <= 0 || one.IDStr != fmt.Sprint(one.ID) ||
		w.Header().Get("Content-Type") != "application/json" || !strings.HasPrefix(w.Body.String(), `{"id":`) {
		t.Fatalf("%d %s %v", w.Code, w.Body.String(), err)
	}
	var many struct{ IDs []string }
	w = get("?n=1000", "x")
	if err := json.Unmarshal(w.Body.Bytes(), &many); err != nil || len(many.IDs) != 1000 || !slices.IsSorted(many.IDs) {
		t.Fatalf("%d, %d ids, %v", w.Code, len(many.IDs), err)
	}
	for _, tt := range []struct {
		query, token string
		status       int
		code         string
	}{
		{"?n=1", "x", 200, `{"ids":["`},
		{"", "", 401, "unauthenticated"},
		{"?n=0", "x", 400, "invalid_parameter"},
		{"?n=1001", "x", 400, "invalid_parameter"},
		{"?n=all", "x", 400, "invalid_parameter"},
	} {
		if w := get(tt.query, tt.token); w.Code != tt.status || !strings.Contains(w.Body.String(), tt.code) {
			t.Errorf("%s: %d %s", tt.query, w.Code, w.Body.String())
		}
	}
}

// TestGetRefused: where no id can be issued the answer is a 503 that says when to come back, and why where it is the clock.
func TestGetRefused(t *testing.T) {
	clock := newClock()
	back := fixed(t, idgen.Refuse, clock)
	next(t, back)
	clock.Add(-time.Minute)
	for code, gen := range map[string]idgen.Generator{"clock_set_back": back, "unavailable": start(t, newMemory(), newClock()).gen} {
		s, err := web.New(web.DefaultConfig(), web.Deps{})
		if err != nil {
			t.Fatal(err)
		}
		idgen.Routes(s, gen, func(context.Context) error { return nil })
		for _, query := range []string{"", "?n=2"} {
			w := httptest.NewRecorder()
			s.Handler().ServeHTTP(w, httptest.NewRequest("GET", "/api/id/get"+query, nil))
			var problem struct{ Code string }
			if err := json.Unmarshal(w.Body.Bytes(), &problem); err != nil || w.Code != 503 || problem.Code != code || w.Header().Get("Retry-After") == "" {
				t.Errorf("%s: %d %s %v", code, w.Code, w.Body, err)
			}
		}
	}
}
