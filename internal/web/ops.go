package web

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/pprof"
	"runtime"
	"runtime/debug"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// Ops is the listener for operators: /livez, /readyz, /metrics, /version, and the profiles of the Go runtime: /debug/pprof/profile
// (CPU, ?seconds= up to 14), heap and goroutine. It has no authentication and must never be public.
type Ops struct {
	cfg      Config
	server   *http.Server
	listener net.Listener
}

// OpsDeps are the dependencies of Ops. Ready says whether this process can durably accept; nil means always. It is given two seconds.
type OpsDeps struct {
	Ready    func(ctx context.Context) error
	Registry *prometheus.Registry
	Version  string
	Log      *slog.Logger
}

// NewOps returns a listener that has not taken its port yet.
func NewOps(cfg Config, deps OpsDeps) *Ops {
	log := deps.Log
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /livez", func(w http.ResponseWriter, _ *http.Request) { plain(w, http.StatusOK, "ok\n") })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithTimeout(r.Context(), 2*time.Second)
		defer cancel()
		if deps.Ready != nil {
			if err := deps.Ready(ctx); err != nil {
				log.LogAttrs(ctx, slog.LevelWarn, "not ready", slog.String("error.message", err.Error()))
				plain(w, http.StatusServiceUnavailable, "not ready: "+err.Error()+"\n") // operators may read the reason here
				return
			}
		}
		plain(w, http.StatusOK, "ready\n")
	})
	mux.HandleFunc("GET /version", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", jsonType)
		_ = json.NewEncoder(w).Encode(versionOf(deps.Version)) // the client may be gone
	})
	mux.HandleFunc("GET /debug/pprof/profile", pprof.Profile)
	mux.Handle("GET /debug/pprof/heap", pprof.Handler("heap"))
	mux.Handle("GET /debug/pprof/goroutine", pprof.Handler("goroutine"))
	if deps.Registry != nil {
		mux.Handle("GET /metrics", promhttp.HandlerFor(deps.Registry, promhttp.HandlerOpts{
			ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelError), Timeout: 10 * time.Second, MaxRequestsInFlight: 4}))
	}
	return &Ops{cfg: cfg, server: &http.Server{
		Handler: mux, ReadHeaderTimeout: cfg.ReadHeaderTimeout, ReadTimeout: 10 * time.Second, WriteTimeout: 15 * time.Second,
		IdleTimeout: cfg.IdleTimeout, MaxHeaderBytes: 16 << 10, ErrorLog: slog.NewLogLogger(quiet{log.Handler()}, slog.LevelWarn),
	}}
}

func plain(w http.ResponseWriter, status int, text string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(status)
	_, _ = w.Write([]byte(text)) // the client may be gone
}

// versionOf tells what runs; revision and time come from the build.
func versionOf(version string) map[string]string {
	v := map[string]string{"version": version, "go": runtime.Version()}
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, s := range info.Settings {
			switch s.Key {
			case "vcs.revision":
				v["revision"] = s.Value
			case "vcs.time":
				v["revisionTime"] = s.Value
			case "vcs.modified":
				v["modified"] = s.Value
			}
		}
	}
	return v
}

// Handler returns the whole listener as a handler, for tests.
func (o *Ops) Handler() http.Handler { return o.server.Handler }

// Listen takes the port, so that a taken one fails before anything else has started.
func (o *Ops) Listen(ctx context.Context) error {
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", o.cfg.OpsListen)
	if err != nil {
		return fmt.Errorf("web: listen for operators on %s: %w", o.cfg.OpsListen, err)
	}
	o.listener = l
	return nil
}

// Addr returns the address that Listen got, or "" before it.
func (o *Ops) Addr() string {
	if o.listener == nil {
		return ""
	}
	return o.listener.Addr().String()
}

// Run serves until ctx ends. Its ctx should end after that of everything it reports on, so that "not ready" can be seen.
func (o *Ops) Run(ctx context.Context) error {
	if o.listener == nil {
		if err := o.Listen(ctx); err != nil {
			return err
		}
	}
	return serve(ctx, o.server, o.listener, 2*time.Second, func() {})
}
