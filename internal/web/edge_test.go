package web

import (
	"io"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"github.com/gin-gonic/gin"
	"github.com/google/go-cmp/cmp"

	"github.com/eprod/eprod/internal/errs"
)

// watched is an edge whose stages write down that they worked, and refuse what a header asks them to refuse.
type watched struct {
	happened []string
	full     bool
	inside   int
	address  string // of the client, as authentication saw it
}

func (w *watched) TryAcquire() (func(), bool) {
	w.happened = append(w.happened, "in flight")
	if w.full {
		return nil, false
	}
	w.inside++
	return func() { w.inside-- }, true
}

func (w *watched) Read([]byte) (int, error) {
	w.happened = append(w.happened, "body")
	return 0, io.EOF
}

func (w *watched) edge() Edge {
	return Edge{
		InFlight: w,
		Authenticate: func(c *gin.Context) {
			w.happened = append(w.happened, "authentication")
			if w.address = c.ClientIP(); c.GetHeader("Authorization") == "bad" {
				WriteProblem(c, errs.NoCredentials("no"))
			}
		},
		Limit: func(c *gin.Context) {
			w.happened = append(w.happened, "limits")
			if c.GetHeader("X-Often") != "" {
				WriteProblem(c, errs.New(errs.RateLimited, "rate_limited", "no"))
			}
		},
		Elsewhere: func(*gin.Context) { w.happened = append(w.happened, "elsewhere") },
	}
}

// behind returns a server whose stages stand in the order that arrange makes of them, with one route.
func (w *watched) behind(t *testing.T, arrange func([]stage) []stage) *Server {
	t.Helper()
	s, err := New(DefaultConfig(), Deps{})
	if err != nil {
		t.Fatal(err)
	}
	s.engine = gin.New()
	if err := s.engine.SetTrustedProxies([]string{"10.0.0.0/8"}); err != nil {
		t.Fatal(err)
	}
	for _, stage := range arrange(s.stages(w.edge())) {
		s.engine.Use(stage.run)
	}
	s.routes[routeID{"POST", "/work"}] = &route{maxBody: 100}
	s.engine.POST("/work", func(c *gin.Context) {
		_, _ = io.ReadAll(c.Request.Body)
		w.happened = append(w.happened, "route")
		if c.GetHeader("X-Panic") != "" {
			panic("as asked")
		}
	})
	return s
}

// edgeCase is a request that one stage refuses, and what may have happened until then.
type edgeCase struct {
	name     string
	full     bool
	length   int64
	header   string // name: value
	status   int
	code     string
	happened []string
}

var edgeCases = []edgeCase{
	{"too large", true, 101, "Authorization: bad", 413, "too_large", nil},
	{"full", true, 10, "Authorization: bad", 503, "overloaded", []string{"in flight"}},
	{"bad token", false, 10, "Authorization: bad", 401, "unauthenticated", []string{"in flight", "authentication"}},
	{"too often", false, 10, "X-Often: yes", 429, "rate_limited", []string{"in flight", "authentication", "limits"}},
	{"panic", false, 10, "X-Panic: yes", 500, "internal", []string{"in flight", "authentication", "limits", "elsewhere", "body", "route"}},
	{"good", false, 10, "Authorization: good", 200, "", []string{"in flight", "authentication", "limits", "elsewhere", "body", "route"}},
}

// check sends the request and returns what is not as it must be.
func (c *edgeCase) check(t *testing.T, arrange func([]stage) []stage) string {
	t.Helper()
	w := &watched{full: c.full}
	s := w.behind(t, arrange)
	r := httptest.NewRequest("POST", "/work", w)
	r.ContentLength = c.length
	name, value, _ := strings.Cut(c.header, ": ")
	r.Header.Set(name, value)
	answer := httptest.NewRecorder()
	s.Handler().ServeHTTP(answer, r)
	problem := cmp.Diff(c.happened, w.happened)
	if answer.Code != c.status || !strings.Contains(answer.Body.String(), c.code) {
		problem += answer.Body.String()
	}
	if answer.Header().Get("X-Request-Id") == "" {
		problem += " no request id"
	}
	if c.status == 503 && answer.Header().Get("Retry-After") == "" {
		problem += " no Retry-After"
	}
	if w.inside != 0 {
		problem += " a place was not given back"
	}
	return problem
}

// TestEdgeOrder: what a stage refuses has cost the later stages nothing. Any two neighbours in the other order fail a case.
func TestEdgeOrder(t *testing.T) {
	asIs := func(all []stage) []stage { return all }
	for _, c := range edgeCases {
		if problem := c.check(t, asIs); problem != "" {
			t.Errorf("%s: %s", c.name, problem)
		}
	}
	names := []string{"request id", "trusted proxy", "size", "in flight", "authentication", "limits", "elsewhere"}
	for i := range len(names) - 1 {
		if names[i] == "trusted proxy" || names[i+1] == "trusted proxy" {
			continue // TestEdgeTrustedProxy
		}
		swapped := func(all []stage) []stage {
			for n, s := range all {
				if s.name != names[n] {
					t.Fatalf("stage %d is %s, not %s", n, s.name, names[n])
				}
			}
			all = slices.Clone(all)
			all[i], all[i+1] = all[i+1], all[i]
			return all
		}
		if !slices.ContainsFunc(edgeCases, func(c edgeCase) bool { return c.check(t, swapped) != "" }) {
			t.Errorf("%s after %s: no case notices", names[i], names[i+1])
		}
	}
	late := func(all []stage) []stage { return append(slices.Clone(all[1:]), all[0]) }
	if !slices.ContainsFunc(edgeCases, func(c edgeCase) bool { return c.check(t, late) != "" }) {
		t.Error("request id last: no case notices")
	}
}

// TestEdgeTrustedProxy: nobody but a trusted proxy can make later stages see another address.
func TestEdgeTrustedProxy(t *testing.T) {
	for _, c := range []struct{ peer, want string }{{"10.1.2.3:99", "198.51.100.7"}, {"203.0.113.9:99", "203.0.113.9"}} {
		w := new(watched)
		s := w.behind(t, func(all []stage) []stage { return all })
		r := httptest.NewRequest("POST", "/work", w)
		r.RemoteAddr = c.peer
		r.Header.Set("X-Forwarded-For", "198.51.100.7")
		s.Handler().ServeHTTP(httptest.NewRecorder(), r)
		if forwarded := r.Header.Get("X-Forwarded-For") != ""; w.address != c.want || forwarded != (c.peer[:3] == "10.") {
			t.Errorf("from %s: %s, forwarding header kept: %v", c.peer, w.address, forwarded)
		}
	}
}

// TestEdgeOwnSlots: a route with places of its own goes on when the others are full, and the other way round.
func TestEdgeOwnSlots(t *testing.T) {
	for _, ownFull := range []bool{true, false} {
		shared, own := &watched{full: !ownFull}, &watched{full: ownFull}
		s := shared.behind(t, func(all []stage) []stage { return all })
		var told []string
		s.routes[routeID{"POST", "/own"}] = &route{Route: Route{Slots: own, Refused: func(code string) { told = append(told, code) }}, maxBody: 10}
		s.engine.POST("/own", func(c *gin.Context) { c.Status(202) })
		for path, full := range map[string]bool{"/own": ownFull, "/work": !ownFull} {
			answer := httptest.NewRecorder()
			s.Handler().ServeHTTP(answer, httptest.NewRequest("POST", path, nil))
			if (answer.Code == 503) != full {
				t.Errorf("%s, full %v: %d", path, full, answer.Code)
			}
		}
		if ownFull && !slices.Equal(told, []string{"overloaded"}) {
			t.Errorf("the route was told %v", told)
		}
	}
}
