package main

import (
	"errors"
	"io"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/eprod/eprod/internal/limit"
)

// TestLimitsApply: the product has its shipped rules in use, by the settings, with the shared ones in Redis, and /metrics shows them.
func TestLimitsApply(t *testing.T) {
	c := defaultConfig()
	c.DataDir, c.HTTP.Listen, c.HTTP.OpsListen = t.TempDir(), "127.0.0.1:0", "127.0.0.1:0"
	for name, rule := range c.Limits.Routes {
		rule.Rate, rule.Burst = 0.001, 2
		c.Limits.Routes[name] = rule
	}
	st, err := openStores(t.Context(), &c, newLogger(io.Discard, &c))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = st.close() })
	if err := st.prepare(t.Context()); err != nil {
		t.Fatal(err)
	}
	a, err := newApp(t.Context(), st)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = a.close() })
	s, err := newServer(t.Context(), a)
	if err != nil {
		t.Fatal(err)
	}
	for rule, requests := range map[string][3]string{ // nobody is signed in: by address, and refused for another reason while there are tokens
		"sign-in":        {"POST /api/v1/auth/login", "POST /api/v1/auth/participant", "POST /api/v1/auth/login"},
		"questionnaires": {"GET /api/v1/questionnaires/1", "GET /api/study/questionnaire?id=1", "GET /api/v1/questionnaires/1"},
		"imports":        {"POST /api/v1/studies/1/participants/import", "POST /api/v1/studies/1/questionnaires", "POST /api/v1/studies/2/questionnaires"},
		"ids":            {"GET /api/id/get", "GET /api/id/get?n=5", "GET /api/id/get"},
	} {
		for i, request := range requests {
			method, path, _ := strings.Cut(request, " ")
			w := httptest.NewRecorder()
			s.web.Handler().ServeHTTP(w, httptest.NewRequest(method, path, nil))
			if limited := w.Code == 429 && strings.Contains(w.Body.String(), "rate_limited") && w.Header().Get("Retry-After") != ""; limited != (i == 2) {
				t.Errorf("rule %s, request %d, %s: %d %s", rule, i, request, w.Code, w.Body)
			}
		}
	}
	families, err := s.metrics.Registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	shown := make(map[string]float64)
	for _, family := range families {
		for _, m := range family.GetMetric() {
			if len(m.GetLabel()) == 1 {
				shown[family.GetName()+" "+m.GetLabel()[0].GetValue()] = m.GetCounter().GetValue() + m.GetGauge().GetValue()
			}
		}
	}
	for _, want := range []string{"eprod_limited_total sign-in", "eprod_limited_total questionnaires", "eprod_limited_total imports", "eprod_limited_total ids"} {
		if shown[want] != 1 {
			t.Errorf("%s: %v, want 1", want, shown[want])
		}
	}
	for _, breaker := range []string{"log", "limits"} {
		if value, ok := shown["eprod_breaker_state "+breaker]; !ok || value != 0 {
			t.Errorf("breaker %s: %v %v, want 0, closed", breaker, value, ok)
		}
	}
	if n := shown["eprod_limited_alone_total sign-in"]; n != 0 {
		t.Errorf("%v sign-ins were decided without Redis", n)
	}
}

// TestUnknownOperation: a rule for an operation that does not exist stops the start, and says which there are.
func TestUnknownOperation(t *testing.T) {
	c := defaultConfig()
	c.DataDir = t.TempDir()
	c.Limits.Routes["typo"] = limit.Rule{Operations: []string{"logni"}, Rate: 1, Burst: 1, Key: limit.ByRoute, Scope: limit.Local}
	err := serve(t.Context(), &c, io.Discard, io.Discard)
	if err == nil || !strings.Contains(err.Error(), "limits.routes.typo.operations: logni: no such operation") || !strings.Contains(err.Error(), "login") {
		t.Error(errors.Join(errors.New("want the rule, the operation and those that exist"), err))
	}
}
