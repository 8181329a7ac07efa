package web_test

import (
	"bytes"
	"log/slog"
	"net/http"
	"testing"

	"github.com/danielgtaylor/huma/v2"
	"github.com/gin-gonic/gin"

	"github.com/eprod/eprod/internal/telemetry"
	"github.com/eprod/eprod/internal/web"
)

// discard is the cheapest response writer, so that the server's own cost shows.
type discard struct{ header http.Header }

func (d *discard) Header() http.Header         { return d.header }
func (d *discard) Write(p []byte) (int, error) { return len(p), nil }
func (d *discard) WriteHeader(int)             {}

// BenchmarkMiddleware sets the whole chain beside bare gin, on the same handler.
func BenchmarkMiddleware(b *testing.B) {
	handler := func(c *gin.Context) { c.Data(202, "application/json", []byte(`{"id":"1"}`)) }
	gin.SetMode(gin.ReleaseMode)
	bare := gin.New()
	bare.POST("/api/v1/submissions", handler)
	s := newServer(b, web.Deps{Log: slog.New(slog.NewJSONHandler(&discardWriter{}, nil)), Metrics: telemetry.NewMetrics().HTTP})
	s.Gin().POST("/api/v1/submissions", handler)
	s.Gin().POST("/logged", handler)
	web.Describe(s.API(), huma.Operation{Method: "POST", Path: "/api/v1/submissions", Metadata: map[string]any{web.RouteKey: web.Route{Hot: true}}})
	for _, bench := range []struct {
		name, path string
		h          http.Handler
	}{{"bare", "/api/v1/submissions", bare}, {"hot", "/api/v1/submissions", s.Handler()}, {"logged", "/logged", s.Handler()}} {
		b.Run(bench.name, func(b *testing.B) {
			b.ReportAllocs()
			body := []byte(`{}`)
			req, err := http.NewRequestWithContext(b.Context(), "POST", bench.path, bytes.NewReader(body))
			if err != nil {
				b.Fatal(err)
			}
			w := &discard{http.Header{}}
			for b.Loop() {
				clear(w.header)
				bench.h.ServeHTTP(w, req)
			}
		})
	}
}

type discardWriter struct{}

func (*discardWriter) Write(p []byte) (int, error) { return len(p), nil }
