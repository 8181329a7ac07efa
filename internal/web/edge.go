package web

import (
	"fmt"
	"net/http"
	"time"

	"github.com/gin-gonic/gin"

	"github.com/eprod/eprod/internal/errs"
)

// Edge is what stands between the listener and the routes and is not this package's own. Its members may be nil: then that stage lets
// everything through.
type Edge struct {
	InFlight     Slots           // for all routes that have no slots of their own
	Authenticate gin.HandlerFunc // makes the caller known, from the header alone: it must touch no store
	Limit        gin.HandlerFunc // refuses callers that come too often; may ask a store within a bound of its own
	Elsewhere    gin.HandlerFunc // answers for what was moved away from the routes' stores
}

// Slots bounds how many requests are inside at once. Safe for concurrent use.
type Slots interface {
	// TryAcquire never waits. Release must be called once when ok.
	TryAcquire() (release func(), ok bool)
}

// stage is one step of the edge. It lets a request pass by returning or by calling Next, and refuses it with WriteProblem, which ends the
// chain: nothing of a later stage happens.
type stage struct {
	name string
	run  gin.HandlerFunc
}

// stages is the order of the edge, for every request, and the only place where it is said. What costs least comes first, and what a stage
// refuses has cost the later ones nothing:
//
//  1. request id: id, deadline, log line, recovery. Everything later is logged under the id and ends by the deadline.
//  2. trusted proxy: whose X-Forwarded-For is believed. Every later stage sees the same address of the client.
//  3. size: by the announced length, before anything is read; a body without one is cut off at the limit while it is read.
//  4. in flight: one of a bounded number of places, held until the answer is written. Nothing waits for one.
//  5. authentication: the token's signature; no store is asked.
//  6. limits: the caller's token bucket. It may ask Redis, for 50 ms at most, behind a breaker.
//  7. elsewhere: where data of archived studies is, from memory.
//  8. route: decoding, rights, the use case. The only stage that reads the body.
//  9. breaker: inside the route, around every single call to a database, the log, Redis, etcd and a gateway (limit.Breaker).
func (s *Server) stages(e Edge) []stage {
	return []stage{
		{"request id", s.around},
		{"trusted proxy", s.client},
		{"size", s.size},
		{"in flight", s.inFlight(e.InFlight)},
		{"authentication", orPass(e.Authenticate)},
		{"limits", orPass(e.Limit)},
		{"elsewhere", orPass(e.Elsewhere)},
	}
}

// addEdge puts the stages on the engine. It must come before any route: gin gives a route the stages that stand when it is added.
func (s *Server) addEdge(e Edge) error {
	// gin would believe anybody's X-Forwarded-For.
	if err := s.engine.SetTrustedProxies(s.cfg.TrustedProxies); err != nil {
		return fmt.Errorf("web: trustedProxies: %w", err)
	}
	for _, stage := range s.stages(e) {
		s.engine.Use(stage.run)
	}
	return nil
}

func orPass(stage gin.HandlerFunc) gin.HandlerFunc {
	if stage == nil {
		return func(*gin.Context) {}
	}
	return stage
}

// answerShare is the part of requestTimeout that a request has for its work; the rest is for writing the answer that the work's deadline
// makes of it, so that no request is older than requestTimeout when it ends.
const answerShare = 0.9

// deadline is how long the work of a request may take.
func (s *Server) deadline(rt *route) time.Duration {
	if rt.Timeout > 0 {
		return rt.Timeout
	}
	return time.Duration(answerShare * float64(s.cfg.RequestTimeout))
}

// client takes forwarding headers away from those who are nobody's proxy, so that no later stage can be told another address.
func (s *Server) client(c *gin.Context) {
	h := c.Request.Header
	if _, forwarded := h["X-Forwarded-For"]; !forwarded {
		if _, real := h["X-Real-Ip"]; !real {
			return
		}
	}
	if c.ClientIP() == c.RemoteIP() {
		h.Del("X-Forwarded-For")
		h.Del("X-Real-Ip")
	}
}

// size refuses by the announced length what is larger than the route takes, and cuts off at the limit what announces none.
func (s *Server) size(c *gin.Context) {
	rt := s.route(c)
	if c.Request.ContentLength > rt.maxBody {
		rt.refused("too_large")
		WriteProblem(c, errTooLarge(rt.maxBody))
		return
	}
	if c.Request.ContentLength < 0 { // a known length is kept to by net/http
		c.Request.Body = http.MaxBytesReader(c.Writer, c.Request.Body, rt.maxBody)
	}
}

// inFlight holds a place for as long as the later stages run. Routes with slots of their own cannot be starved by the others, and cannot
// starve them.
func (s *Server) inFlight(shared Slots) gin.HandlerFunc {
	return func(c *gin.Context) {
		rt, slots := s.route(c), shared
		if rt.Slots != nil {
			slots = rt.Slots
		}
		if slots == nil {
			return
		}
		release, ok := slots.TryAcquire()
		if !ok {
			rt.refused("overloaded")
			WriteProblem(c, errs.New(errs.Overloaded, "overloaded", "the server is full at this moment; send the same request again").WithRetryAfter(2*time.Second))
			return
		}
		defer release()
		c.Next()
	}
}

// refused tells the route's owner of what never reached its handler.
func (rt *route) refused(code string) {
	if rt.Refused != nil {
		rt.Refused(code)
	}
}
