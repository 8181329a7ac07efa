package limit_test

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/danielgtaylor/huma/v2"
	"github.com/gin-gonic/gin"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/redis/go-redis/v9"

	"github.com/eprod/eprod/internal/limit"
	"github.com/eprod/eprod/internal/telemetry"
	"github.com/eprod/eprod/internal/web"
)

type accountKey struct{}

// door is a server with two limited operations and a free one. The header Account says who is signed in.
type door struct {
	handler http.Handler
	metrics *telemetry.Metrics
	read    atomic.Int64 // bodies that a handler got
}

func newDoor(t *testing.T, routes map[string]limit.Rule, client redis.Scripter) (*door, error) {
	t.Helper()
	cfg := web.DefaultConfig()
	cfg.TrustedProxies = []string{"10.0.0.1"}
	server, err := web.New(cfg, web.Deps{})
	if err != nil {
		t.Fatal(err)
	}
	d := &door{handler: server.Handler(), metrics: telemetry.NewMetrics()}
	settings := limit.DefaultConfig()
	settings.Routes = routes
	limits, err := limit.New(settings, limit.Parts{Redis: client, Prefix: "t:", Random: rand.Reader, Clock: time.Now,
		Caller: func(ctx context.Context) string { account, _ := ctx.Value(accountKey{}).(string); return account },
		Meter:  d.metrics.Limits, Gauge: d.metrics.Health, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		return nil, err
	}
	server.Gin().Use(func(c *gin.Context) {
		if account := c.GetHeader("Account"); account != "" {
			c.Request = c.Request.WithContext(context.WithValue(c.Request.Context(), accountKey{}, account))
		}
	}, limits.Middleware())
	operation := func(id, method, path string) {
		web.Register(server.API(), huma.Operation{OperationID: id, Method: method, Path: path, DefaultStatus: 204},
			func(context.Context, *struct {
				ID string `path:"id"`
			}) (*struct{}, error) {
				d.read.Add(1)
				return nil, nil
			})
	}
	operation("read", http.MethodGet, "/things/{id}")
	operation("write", http.MethodPost, "/things/{id}")
	operation("free", http.MethodDelete, "/things/{id}")
	return d, limits.Bind(server.API())
}

// ask sends one request; header is "Name: value" pairs.
func (d *door) ask(method, remote string, header ...string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(method, "/things/1", nil)
	r.RemoteAddr = remote
	for _, h := range header {
		name, value, _ := strings.Cut(h, ": ")
		r.Header.Set(name, value)
	}
	w := httptest.NewRecorder()
	d.handler.ServeHTTP(w, r)
	return w
}

func TestMiddleware(t *testing.T) {
	d, err := newDoor(t, map[string]limit.Rule{
		"things": {Operations: []string{"read", "write"}, Rate: 0.05, Burst: 2, Key: limit.ByAccount, Scope: limit.Local}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	for i, step := range []struct {
		method, remote, account string
		status                  int
	}{
		{"GET", "192.0.2.1:1", "anna", 204},
		{"POST", "192.0.2.9:1", "anna", 204}, // one bucket for the operations of a rule, wherever the account comes from
		{"GET", "192.0.2.1:1", "anna", 429},
		{"POST", "192.0.2.1:1", "anna", 429},
		{"DELETE", "192.0.2.1:1", "anna", 204}, // no rule
		{"GET", "192.0.2.1:1", "bert", 204},
		{"GET", "192.0.2.1:1", "", 204}, // by address
		{"GET", "192.0.2.1:2", "", 204},
		{"GET", "192.0.2.1:3", "", 429},
		{"GET", "192.0.2.2:1", "", 204},
		{"GET", "192.0.2.1:1", "192.0.2.1", 204}, // an account is never an address
	} {
		var header []string
		if step.account != "" {
			header = []string{"Account: " + step.account}
		}
		w := d.ask(step.method, step.remote, header...)
		if w.Code != step.status {
			t.Fatalf("step %d: %d, want %d", i, w.Code, step.status)
		}
		if step.status != 429 {
			continue
		}
		after, err := strconv.Atoi(w.Header().Get("Retry-After"))
		if err != nil || after < 20 || after > 41 || w.Header().Get("Content-Type") != "application/problem+json" || !strings.Contains(w.Body.String(), `"code":"rate_limited"`) {
			t.Errorf("step %d: Retry-After %q, %s %s; want 20 s and up to as much again", i, w.Header().Get("Retry-After"), w.Header().Get("Content-Type"), w.Body)
		}
	}
	if d.read.Load() != 8 {
		t.Errorf("%d requests reached a handler, want 8", d.read.Load())
	}
	d.shows(t, `eprod_limited_total{rule="things"} 3`)
}

// shows looks for a line in what /metrics answers.
func (d *door) shows(t *testing.T, line string) {
	t.Helper()
	w := httptest.NewRecorder()
	promhttp.HandlerFor(d.metrics.Registry, promhttp.HandlerOpts{}).ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
	if !strings.Contains(w.Body.String(), line+"\n") {
		t.Errorf("/metrics lacks %s", line)
	}
}

// TestJitter: those who are refused together are not told to come back together.
func TestJitter(t *testing.T) {
	d, err := newDoor(t, map[string]limit.Rule{"r": {Operations: []string{"read"}, Rate: 0.01, Burst: 1, Key: limit.ByRoute, Scope: limit.Local}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	seen := make(map[string]bool)
	for i := range 30 {
		w := d.ask("GET", fmt.Sprintf("192.0.2.%d:1", i))
		if (w.Code == 204) != (i == 0) {
			t.Fatalf("request %d of a route with one token: %d", i, w.Code)
		}
		seen[w.Header().Get("Retry-After")] = true
	}
	if len(seen) < 10 {
		t.Errorf("only %d different delays for 29 callers", len(seen))
	}
}

// TestAddresses: a client cannot choose its address, and an IPv6 client's whole network is one caller.
func TestAddresses(t *testing.T) {
	for name, tt := range map[string]struct {
		one, two       string // remote addresses
		header1, head2 string
		same           bool
	}{
		"IPv4":              {"192.0.2.1:1", "192.0.2.2:1", "", "", false},
		"forged":            {"192.0.2.1:1", "192.0.2.1:1", "X-Forwarded-For: 203.0.113.1", "X-Forwarded-For: 203.0.113.2", true},
		"by the proxy":      {"10.0.0.1:1", "10.0.0.1:1", "X-Forwarded-For: 203.0.113.1", "X-Forwarded-For: 203.0.113.2", false},
		"IPv6, one network": {"[2001:db8:1:2::1]:1", "[2001:db8:1:2:ffff::9]:1", "", "", true},
		"IPv6, two":         {"[2001:db8:1:2::1]:1", "[2001:db8:1:3::1]:1", "", "", false},
		"IPv4 in IPv6":      {"192.0.2.1:1", "[::ffff:192.0.2.1]:1", "", "", true},
	} {
		t.Run(name, func(t *testing.T) {
			d, err := newDoor(t, map[string]limit.Rule{"r": {Operations: []string{"read"}, Rate: 0.01, Burst: 1, Key: limit.ByAddress, Scope: limit.Local}}, nil)
			if err != nil {
				t.Fatal(err)
			}
			if w := d.ask("GET", tt.one, tt.header1, "Account: anna"); w.Code != 204 {
				t.Fatal(w.Code)
			}
			if w := d.ask("GET", tt.two, tt.head2, "Account: bert"); (w.Code == 429) != tt.same {
				t.Errorf("%d for the second caller", w.Code)
			}
		})
	}
}

// TestSharedDoors: two servers share a caller's tokens; without Redis each goes on alone, and says so.
func TestSharedDoors(t *testing.T) {
	store := miniredis.RunT(t)
	routes := map[string]limit.Rule{"r": {Operations: []string{"read"}, Rate: 0.001, Burst: 60, Key: limit.ByAccount, Scope: limit.Shared}}
	var doors []*door
	for range 2 {
		client := redis.NewClient(&redis.Options{Addr: store.Addr(), ContextTimeoutEnabled: true, MaxRetries: -1, DisableIdentity: true, DialerRetries: 1})
		t.Cleanup(func() { _ = client.Close() })
		d, err := newDoor(t, routes, client)
		if err != nil {
			t.Fatal(err)
		}
		doors = append(doors, d)
	}
	passed := func(account string) int64 {
		var n atomic.Int64
		var wg sync.WaitGroup
		for i := range 8 {
			wg.Go(func() {
				for range 40 {
					if doors[i%2].ask("GET", "192.0.2.1:1", "Account: "+account).Code == 204 {
						n.Add(1)
					}
				}
			})
		}
		wg.Wait()
		return n.Load()
	}
	if n := passed("anna"); n != 60 {
		t.Errorf("%d requests passed two doors that share 60 tokens", n)
	}
	if keys := strings.Join(store.Keys(), " "); strings.Contains(keys, "anna") || len(store.Keys()) != 1 {
		t.Errorf("keys in Redis: %s", keys)
	}
	doors[0].shows(t, `eprod_breaker_state{name="limits"} 0`)
	store.Close()
	if n := passed("bert"); n != 120 {
		t.Errorf("%d requests passed two doors of 60 tokens each without Redis", n)
	}
	doors[0].shows(t, `eprod_breaker_state{name="limits"} 2`)
	doors[0].shows(t, `eprod_limited_alone_total{rule="r"} 160`)
}

func TestNewRefuses(t *testing.T) {
	good := limit.Rule{Operations: []string{"read"}, Rate: 1, Burst: 1, Key: limit.ByRoute, Scope: limit.Local}
	elsewhere, wrong := good, good
	elsewhere.Operations, wrong.Burst = []string{"raed"}, 0
	for want, routes := range map[string]map[string]limit.Rule{
		"limits.routes.a.operations: raed: no such operation; the API document has free, read, write": {"a": elsewhere},
		"routes.a.burst: 0: must be between 1 and 1000000":                                            {"a": wrong},
		"routes.b.operations: read: stands in a already":                                              {"a": good, "b": good},
	} {
		if _, err := newDoor(t, routes, nil); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v; want %s", err, want)
		}
	}
	if _, err := limit.New(limit.DefaultConfig(), limit.Parts{Random: strings.NewReader("")}); !errors.Is(err, io.EOF) {
		t.Errorf("%v; a process needs a name of its own", err)
	}
}

func TestValidateNamesEveryProblem(t *testing.T) {
	for name, tt := range map[string]struct {
		err  error
		want []string
	}{
		"breaker": {limit.BreakerConfig{}.Validate(), []string{"callTimeout: ", "openFor: ", "window: ", "failures: ", "minCalls: ", "probes: ", "ratio: "}},
		"rule":    {limit.Rule{}.Validate(), []string{"rate: ", "burst: ", "key: ", "scope: "}},
		"config": {limit.Config{Routes: map[string]limit.Rule{"x": {}}}.Validate(),
			[]string{"keys: ", "processes: ", "breaker.callTimeout: ", "breaker.ratio: ", "routes.x.rate: ", "routes.x.scope: "}},
	} {
		for _, key := range tt.want {
			if tt.err == nil || !strings.Contains(tt.err.Error(), key) {
				t.Errorf("%s: %v does not name %s", name, tt.err, key)
			}
		}
	}
	if err := errors.Join(limit.DefaultBreakerConfig().Validate(), limit.DefaultConfig().Validate()); err != nil {
		t.Error(err)
	}
}
