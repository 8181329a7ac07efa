package web

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/gin-gonic/gin"

	"github.com/eprod/eprod/internal/trace"
)

// Metrics takes one measurement per request. Route is the template, such as /api/v1/studies/:id, or "(none)". It is called
// from many goroutines at once.
type Metrics interface {
	ObserveRequest(method, route string, status int, took time.Duration)
}

// Deps are the server's dependencies. All may be zero: no log, no metrics, crypto/rand, the real clock.
type Deps struct {
	Log     *slog.Logger
	Metrics Metrics
	Random  io.Reader // for request ids; safe for concurrent use
	Clock   func() time.Time
	Version string        // of the program, for the API document
	Tracer  *trace.Tracer // nil: requests are not followed
	Edge    Edge
}

// Server is the public listener. Add routes first (Gin, API), then Listen, then Run. Routes must not be added once it runs.
type Server struct {
	cfg      Config
	log      *slog.Logger
	metrics  Metrics
	random   io.Reader
	clock    func() time.Time
	tracer   *trace.Tracer
	engine   *gin.Engine
	api      huma.API
	routes   map[routeID]*route
	plain    *route
	nosniff  []string
	noStore  []string
	listener net.Listener
	draining atomic.Bool
}

// New returns a server without routes, except the API document and its readable form. It fails when cfg is not valid.
func New(cfg Config, deps Deps) (*Server, error) {
	if err := cfg.Validate(); err != nil {
		return nil, fmt.Errorf("web: %w", err)
	}
	s := &Server{
		cfg: cfg, log: deps.Log, metrics: deps.Metrics, random: deps.Random, clock: deps.Clock, tracer: deps.Tracer,
		routes: map[routeID]*route{}, plain: &route{maxBody: cfg.MaxBodyBytes},
		nosniff: []string{"nosniff"}, noStore: []string{"no-store"},
	}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	if s.random == nil {
		s.random = rand.Reader
	}
	if s.clock == nil {
		s.clock = time.Now
	}
	gin.SetMode(gin.ReleaseMode) // gin's only switch for its debug printing to stdout is this package variable of its own
	s.engine = gin.New()
	s.engine.HandleMethodNotAllowed = true
	s.engine.RedirectTrailingSlash = false // a redirect turns a POST into a GET in some clients
	if err := s.addEdge(deps.Edge); err != nil {
		return nil, err
	}
	s.engine.NoRoute(func(c *gin.Context) {
		writeStatus(c, http.StatusNotFound, "not_found", "there is nothing at this path")
	})
	s.engine.NoMethod(func(c *gin.Context) {
		writeStatus(c, http.StatusMethodNotAllowed, "method_not_allowed", "this path has other methods; see the Allow header")
	})
	s.api = s.newAPI(deps.Version)
	s.addDocs()
	return s, nil
}

// Gin returns the engine for plain handlers on hot paths. A plain handler's operation goes into the API document by Describe. What
// stands before all routes belongs into Edge.
func (s *Server) Gin() *gin.Engine { return s.engine }

// API returns what Register and Describe take.
func (s *Server) API() huma.API { return s.api }

// Handler returns the whole server as a handler, for tests and benchmarks.
func (s *Server) Handler() http.Handler { return s.engine }

// Draining reports whether the server was told to stop. Readiness must then be false.
func (s *Server) Draining() bool { return s.draining.Load() }

// Listen takes the port, so that a taken one fails before anything else has started. Connections wait until Run.
func (s *Server) Listen(ctx context.Context) error {
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", s.cfg.Listen)
	if err != nil {
		return fmt.Errorf("web: listen on %s: %w", s.cfg.Listen, err)
	}
	s.listener = l
	return nil
}

// Addr returns the address that Listen got, or "" before it.
func (s *Server) Addr() string {
	if s.listener == nil {
		return ""
	}
	return s.listener.Addr().String()
}

// Run serves until ctx ends, then drains: not ready, DrainDelay, no new connections, requests in flight finish, at most ShutdownTimeout.
// It returns when nothing of it runs any more: nil after a clean stop, else every error joined. Requests do not see the end of ctx.
func (s *Server) Run(ctx context.Context) error {
	if s.listener == nil {
		if err := s.Listen(ctx); err != nil {
			return err
		}
	}
	srv := &http.Server{
		Handler:           s.engine,
		ReadHeaderTimeout: s.cfg.ReadHeaderTimeout,
		ReadTimeout:       s.cfg.ReadTimeout,
		WriteTimeout:      s.cfg.WriteTimeout,
		IdleTimeout:       s.cfg.IdleTimeout,
		MaxHeaderBytes:    32 << 10,
		ErrorLog:          slog.NewLogLogger(quiet{s.log.Handler()}, slog.LevelWarn),
	}
	return serve(ctx, srv, s.listener, s.cfg.ShutdownTimeout, func() {
		s.draining.Store(true)
		wait := time.NewTimer(s.cfg.DrainDelay)
		defer wait.Stop()
		<-wait.C
	})
}

// serve runs srv until ctx ends, calls drain, and stops srv within limit. The requests' contexts live until their requests end or
// the limit has passed.
func serve(ctx context.Context, srv *http.Server, l net.Listener, limit time.Duration, drain func()) error {
	requests, cut := context.WithCancel(context.WithoutCancel(ctx))
	defer cut()
	srv.BaseContext = func(net.Listener) context.Context { return requests }
	failed := make(chan error, 1)
	go func() { failed <- srv.Serve(l) }()
	select {
	case err := <-failed:
		return fmt.Errorf("web: serve on %s: %w", l.Addr(), err)
	case <-ctx.Done():
	}
	drain()
	bounded, cancel := context.WithTimeout(context.WithoutCancel(ctx), limit)
	defer cancel()
	err := srv.Shutdown(bounded)
	if err != nil {
		cut()
		err = errors.Join(fmt.Errorf("web: requests were cut off after %v: %w", limit, err), srv.Close())
	}
	if served := <-failed; !errors.Is(served, http.ErrServerClosed) {
		err = errors.Join(err, served)
	}
	return err
}

// quiet drops the lines in which net/http tells of clients that hang up during a handshake, and the addresses in the others.
type quiet struct{ slog.Handler }

// Handle logs that something happened on a connection; net/http's own text holds the client's address and, after a panic, its value.
func (q quiet) Handle(ctx context.Context, r slog.Record) error {
	return q.Handler.Handle(ctx, slog.NewRecord(r.Time, r.Level, "net/http reported a connection error", r.PC))
}
