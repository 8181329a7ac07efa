package web

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"runtime"
	"runtime/debug"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/gin-gonic/gin"

	"github.com/eprod/eprod/internal/errs"
	"github.com/eprod/eprod/internal/trace"
)

// Route holds what one operation needs beyond the defaults of Config. Put it into an operation's Metadata under RouteKey.
// The largest body of a route is its operation's MaxBodyBytes.
type Route struct {
	Hot     bool              // its 2xx answers are sampled in the access log
	Timeout time.Duration     // instead of Config.RequestTimeout; the connection's time-outs are stretched to it
	Stream  bool              // the answer begins before the request body was read to its end
	Slots   Slots             // places of its own instead of those that the other routes share
	Refused func(code string) // told of what the edge refuses before the handler sees it; nil: nobody
}

// RouteKey is the key of a Route in an operation's Metadata.
const RouteKey = "eprod.route"

// route is what the middleware knows of one registered operation. It does not change once the server runs.
type route struct {
	Route
	maxBody int64
	served  atomic.Uint64
}

type routeID struct{ method, path string }

// request is the context of one request and what its log line will tell. It embeds the request's context, so that one allocation
// carries both.
type request struct {
	context.Context
	id    string
	cause error // why the answer is an error; written by the handler's goroutine only
	span  trace.Span
}

type requestKey struct{}

// Value finds the request itself, then what the context beneath holds.
func (r *request) Value(key any) any {
	if key == (requestKey{}) {
		return r
	}
	return r.Context.Value(key)
}

// RequestID returns the id of the request that ctx belongs to, or "".
func RequestID(ctx context.Context) string {
	if r, ok := ctx.Value(requestKey{}).(*request); ok {
		return r.id
	}
	return ""
}

// note keeps the cause of an error answer for the access log.
func note(ctx context.Context, err error) {
	if r, ok := ctx.Value(requestKey{}).(*request); ok {
		r.cause = err
	}
}

// around gives every request its identity, deadline, recovery and log line.
func (s *Server) around(c *gin.Context) {
	start := s.clock()
	rt := s.route(c)
	r := &request{id: s.requestID(c.Request)}
	if rt.Timeout > 0 {
		s.stretch(c, start, rt)
	}
	ctx, cancel := context.WithTimeout(c.Request.Context(), s.deadline(rt))
	defer cancel()
	r.Context = ctx
	if s.tracer != nil {
		r.Context, r.span = s.tracer.Request(ctx, methodOf(c)+" "+pathOf(c), c.Request.Header.Get(trace.HeaderName))
	}
	c.Request = c.Request.WithContext(r)

	h := c.Writer.Header()
	h["X-Request-Id"] = []string{r.id}
	h["X-Content-Type-Options"] = s.nosniff
	h["Cache-Control"] = s.noStore

	defer s.finish(c, r, rt, start)
	defer s.recover(c, r)
	c.Next()
}

func (s *Server) route(c *gin.Context) *route {
	if rt, ok := s.routes[routeID{c.Request.Method, c.FullPath()}]; ok {
		return rt
	}
	return s.plain
}

// stretch gives a long route its time on the connection. Failures mean a connection that cannot do it, as in tests: its own bounds stay.
func (s *Server) stretch(c *gin.Context, now time.Time, rt *route) {
	rc := http.NewResponseController(c.Writer)
	_ = rc.SetReadDeadline(now.Add(rt.Timeout + time.Second))
	_ = rc.SetWriteDeadline(now.Add(rt.Timeout + 2*time.Second))
	if rt.Stream {
		_ = rc.EnableFullDuplex()
	}
}

// requestID takes a client's or proxy's X-Request-ID if it is harmless in logs, else makes one of 128 random bits.
func (s *Server) requestID(r *http.Request) string {
	if id := r.Header.Get("X-Request-Id"); len(id) >= 8 && len(id) <= 64 && harmless(id) {
		return id
	}
	var b [16]byte
	if _, err := s.random.Read(b[:]); err != nil {
		return "unknown-" + hex.EncodeToString(b[:4]) // an id is for finding log lines; a request must not fail for want of one
	}
	return hex.EncodeToString(b[:])
}

func harmless(s string) bool {
	for i := range len(s) {
		switch b := s[i]; {
		case b >= '0' && b <= '9', b >= 'a' && b <= 'z', b >= 'A' && b <= 'Z', b == '-', b == '_', b == '.':
		default:
			return false
		}
	}
	return true
}

// recover turns a panic into a 500. The panic's value may hold anything, so only its type is logged, and its text when it comes
// from the runtime.
func (s *Server) recover(c *gin.Context, r *request) {
	v := recover()
	if v == nil {
		return
	}
	if v == http.ErrAbortHandler {
		panic(v) // net/http's own way to cut a connection
	}
	err := fmt.Errorf("panic of type %T", v)
	var fault runtime.Error
	if e, ok := v.(error); ok && errors.As(e, &fault) {
		err = fmt.Errorf("panic: %w", fault)
	}
	s.log.LogAttrs(c.Request.Context(), slog.LevelError, "a handler panicked", slog.String("error.message", err.Error()),
		slog.String("error.stack_trace", string(debug.Stack())), slog.String("http.request.id", r.id))
	if c.Writer.Written() {
		note(c.Request.Context(), err)
		panic(http.ErrAbortHandler) // half an answer must not look whole
	}
	WriteProblem(c, err)
}

// finish measures and logs. It logs the route's template, never the path or query, for they may identify a participant.
func (s *Server) finish(c *gin.Context, r *request, rt *route, start time.Time) {
	took := s.clock().Sub(start)
	status := c.Writer.Status()
	path := pathOf(c)
	r.end(methodOf(c), path, status)
	if s.metrics != nil {
		s.metrics.ObserveRequest(c.Request.Method, path, status, took)
	}
	if rt.Hot && status < 300 && rt.served.Add(1)%uint64(s.cfg.AccessLogSample) != 1%uint64(s.cfg.AccessLogSample) {
		return
	}
	level := slog.LevelInfo
	if status >= 500 && status != http.StatusServiceUnavailable {
		level = slog.LevelError
	} else if status == http.StatusServiceUnavailable {
		level = slog.LevelWarn
	}
	if !s.log.Enabled(r, level) {
		return
	}
	attrs := make([]slog.Attr, 0, 8)
	attrs = append(attrs, slog.String("http.request.method", methodOf(c)), slog.String("url.path", path),
		slog.Int("http.response.status_code", status), slog.Int("http.response.body.bytes", max(0, c.Writer.Size())),
		slog.Int64("event.duration", took.Nanoseconds()), slog.String("event.outcome", outcome(status)), slog.String("http.request.id", r.id))
	if r.cause != nil {
		attrs = append(attrs, causeAttrs(r.cause, status)...)
	}
	s.log.LogAttrs(r, level, "request", attrs...)
}

// methodOf returns a request's method, or "_OTHER" where the client has made one up: it may say anything.
func methodOf(c *gin.Context) string {
	switch method := c.Request.Method; method {
	case http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete, http.MethodOptions:
		return method
	}
	return "_OTHER"
}

// pathOf returns the template of a request's route, never its path.
func pathOf(c *gin.Context) string {
	if path := c.FullPath(); path != "" {
		return path
	}
	return "(none)"
}

// end ends the request's span. A status from 500 on is a failure.
func (r *request) end(method, path string, status int) {
	if !r.span.On() {
		return
	}
	r.span.Set(trace.String("http.request.method", method), trace.String("http.route", path), trace.Int("http.response.status_code", int64(status)),
		trace.String("eprod.request.id", r.id))
	if status >= http.StatusInternalServerError {
		reason := strconv.Itoa(status)
		if e, ok := errs.As(r.cause); ok {
			reason = e.Code
		}
		r.span.Fail(reason)
	}
	r.span.End(nil)
}

// outcome is the word that the Elastic Common Schema has for a status.
func outcome(status int) string {
	if status < 400 {
		return "success"
	}
	return "failure"
}

// causeAttrs tells the code of every error and the text of our own failures only: the text of a refusal may quote the client.
func causeAttrs(err error, status int) []slog.Attr {
	var attrs []slog.Attr
	if e, ok := errs.As(err); ok {
		attrs = append(attrs, slog.String("error.code", e.Code))
	}
	if status >= 500 {
		attrs = append(attrs, slog.String("error.message", err.Error()))
	}
	return attrs
}
