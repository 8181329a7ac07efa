package web_test

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"github.com/danielgtaylor/huma/v2"
	"github.com/gin-gonic/gin"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"

	"github.com/eprod/eprod/internal/web"
)

func TestDocument(t *testing.T) {
	s := newServer(t, web.Deps{Version: "1.2.3"})
	addCreate(s)
	s.Gin().POST("/hot", func(c *gin.Context) {})
	if err := s.CheckDocument(); err == nil || !strings.Contains(err.Error(), "POST /hot") {
		t.Errorf("an undescribed route was not found: %v", err)
	}
	web.Describe(s.API(), huma.Operation{Method: "POST", Path: "/hot", Security: web.Public()})
	if err := s.CheckDocument(); err != nil {
		t.Error(err)
	}
	w := do(t, s.Handler(), "GET", "/api/v1/openapi.json", "")
	var doc struct {
		OpenAPI    string
		Info       struct{ Version string }
		Paths      map[string]map[string]struct{ Security []map[string][]string }
		Components struct{ Schemas, SecuritySchemes map[string]any }
	}
	if err := json.Unmarshal(w.Body.Bytes(), &doc); err != nil || w.Code != 200 {
		t.Fatalf("%d %v", w.Code, err)
	}
	if doc.OpenAPI != "3.1.0" || doc.Info.Version != "1.2.3" || len(doc.Paths["/things/{study}"]["post"].Security) != 1 ||
		len(doc.Paths["/hot"]["post"].Security) != 0 || doc.Components.Schemas["Problem"] == nil || doc.Components.SecuritySchemes["bearer"] == nil {
		t.Error(w.Body.String())
	}
	if strings.Contains(w.Body.String(), "ErrorModel") || doc.Components.Schemas["Web_testCreateBody"] == nil {
		t.Errorf("schemas: %v", doc.Components.Schemas)
	}
	for match := range strings.SplitSeq(w.Body.String(), `"$ref":"#/components/schemas/`) {
		if name, _, ok := strings.Cut(match, `"`); ok && match[0] != '{' && doc.Components.Schemas[name] == nil {
			t.Errorf("a reference to a schema that is not there: %s", name)
		}
	}
	web.Describe(s.API(), huma.Operation{Method: "GET", Path: "/gone"})
	if err := s.CheckDocument(); err == nil || !strings.Contains(err.Error(), "GET /gone") {
		t.Errorf("an operation without a route was not found: %v", err)
	}
}

func TestDocsAreOffline(t *testing.T) {
	s := newServer(t, web.Deps{})
	page := do(t, s.Handler(), "GET", "/docs", "")
	if page.Code != 200 || strings.Contains(page.Body.String(), "://") {
		t.Errorf("%d %s", page.Code, page.Body.String())
	}
	if csp := page.Header().Get("Content-Security-Policy"); !strings.Contains(csp, "default-src 'none'") || strings.Contains(csp, "unsafe") || strings.Contains(csp, "://") {
		t.Error(csp)
	}
	for _, name := range []string{"swagger-ui-bundle.js", "swagger-ui.css", "favicon-32x32.png", "init.js"} {
		plain := do(t, s.Handler(), "GET", "/docs/"+name, "")
		packed := do(t, s.Handler(), "GET", "/docs/"+name, "", "Accept-Encoding", "gzip, br")
		if plain.Code != 200 || plain.Header().Get("Content-Encoding") != "" || packed.Code != 200 || packed.Body.Len() > plain.Body.Len() {
			t.Errorf("%s: %d %d, %d and %d bytes", name, plain.Code, packed.Code, plain.Body.Len(), packed.Body.Len())
		}
	}
	if w := do(t, s.Handler(), "GET", "/docs/swagger.json", ""); w.Code != 404 {
		t.Error(w.Code)
	}
}

func TestOps(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	var unready error
	registry := prometheus.NewRegistry()
	registry.MustRegister(prometheus.NewCounter(prometheus.CounterOpts{Name: "eprod_test_total", Help: "x"}))
	cfg := web.DefaultConfig()
	cfg.OpsListen = "127.0.0.1:0"
	ops := web.NewOps(cfg, web.OpsDeps{Ready: func(context.Context) error { return unready }, Registry: registry, Version: "1.2.3"})
	check := func(path string, status int, part string) {
		t.Helper()
		if w := do(t, ops.Handler(), "GET", path, ""); w.Code != status || !strings.Contains(w.Body.String(), part) {
			t.Errorf("%s: %d %s", path, w.Code, w.Body.String())
		}
	}
	check("/readyz", 200, "ready")
	check("/metrics", 200, "eprod_test_total 0")
	check("/version", 200, `"version":"1.2.3"`)
	unready = errors.New("the log and the spool are away")
	check("/readyz", 503, "the spool")
	check("/livez", 200, "ok")
	check("/other", 404, "")
	ctx, stop := context.WithCancel(t.Context())
	if err := ops.Listen(ctx); err != nil || ops.Addr() == "" {
		t.Fatal(err)
	}
	ran := make(chan error, 1)
	go func() { ran <- ops.Run(ctx) }()
	stop()
	if err := <-ran; err != nil {
		t.Error(err)
	}
}
