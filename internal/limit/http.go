package limit

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/gin-gonic/gin"
	"github.com/redis/go-redis/v9"

	"github.com/eprod/eprod/internal/web"
)

// Limits holds every rule and applies it to the requests of its operations. Safe for concurrent use.
type Limits struct {
	caller func(ctx context.Context) string
	meter  Meter
	rules  map[string]*bucketRule
	routes map[route]*bucketRule // written by Bind only
}

// Meter counts what limits decide. It must be quick and safe for concurrent use.
type Meter interface {
	// Limited counts a refusal by the rule of that name.
	Limited(rule string)
	// LimitedAlone counts a decision of this process alone, because Redis did not answer.
	LimitedAlone(rule string)
}

// Parts are what Limits stand on.
type Parts struct {
	// Redis keeps the buckets of scope shared. It needs ContextTimeoutEnabled and MaxRetries −1.
	Redis redis.Scripter
	// Prefix begins every key in Redis.
	Prefix string
	// Caller returns the signed-in account of a request, as text that no other account has, or "".
	Caller func(ctx context.Context) string
	Random io.Reader // names this process
	Clock  func() time.Time
	Meter  Meter
	Gauge  Gauge
	Log    *slog.Logger
}

type bucketRule struct {
	Rule
	name   string
	bucket interface {
		Allow(ctx context.Context, key string) (ok bool, retryAfter time.Duration)
	}
}

type route struct{ method, path string }

// New returns the limits of cfg, which must be valid. They apply once Middleware is in use and Bind was called.
func New(cfg Config, p Parts) (*Limits, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	var process [8]byte
	if _, err := io.ReadFull(p.Random, process[:]); err != nil {
		return nil, fmt.Errorf("limits: name this process: %w", err)
	}
	breaker := NewBreaker("the shared limits", cfg.Breaker, Announce("limits", p.Gauge, p.Log))
	l := &Limits{caller: p.Caller, meter: p.Meter, rules: make(map[string]*bucketRule, len(cfg.Routes)), routes: make(map[route]*bucketRule)}
	for name, r := range cfg.Routes {
		rule := &bucketRule{Rule: r, name: name}
		if r.Scope == Local {
			rule.bucket = NewBuckets(r.Rate, r.Burst, cfg.Keys, p.Clock)
		} else {
			part := float64(cfg.Processes)
			rule.bucket = NewLeased(r.Rate, r.Burst, cfg.Keys, LeasedParts{
				Client: p.Redis, Breaker: breaker, Prefix: p.Prefix + "limit:" + name + ":", Process: hex.EncodeToString(process[:]), Clock: p.Clock,
				Alone:   NewBuckets(r.Rate/part, r.Burst/cfg.Processes, cfg.Keys, p.Clock),
				OnAlone: func() { p.Meter.LimitedAlone(name) },
			})
		}
		l.rules[name] = rule
	}
	return l, nil
}

// Bind finds the routes of the rules' operations in the API document. Call it after all routes are registered and before the server runs.
// Its error names every operation that does not exist.
func (l *Limits) Bind(api huma.API) error {
	places := make(map[string]route)
	for path, item := range api.OpenAPI().Paths {
		for method, op := range map[string]*huma.Operation{http.MethodGet: item.Get, http.MethodPut: item.Put, http.MethodPost: item.Post,
			http.MethodDelete: item.Delete, http.MethodPatch: item.Patch} {
			if op != nil {
				places[op.OperationID] = route{method, strings.NewReplacer("{", ":", "}", "").Replace(path)}
			}
		}
	}
	var problems []error
	for _, name := range slices.Sorted(maps.Keys(l.rules)) {
		for _, operation := range l.rules[name].Operations {
			place, ok := places[operation]
			if !ok {
				problems = append(problems, fmt.Errorf("limits.routes.%s.operations: %s: no such operation; the API document has %s", name, operation,
					strings.Join(slices.Sorted(maps.Keys(places)), ", ")))
				continue
			}
			l.routes[place] = l.rules[name]
		}
	}
	return errors.Join(problems...)
}

// Middleware answers 429 rate_limited with Retry-After where the bucket of a request's rule is empty, before its body is read. It must stand after
// the middleware that makes the caller known, and before the routes.
func (l *Limits) Middleware() gin.HandlerFunc {
	return func(c *gin.Context) {
		rule, ok := l.routes[route{c.Request.Method, c.FullPath()}]
		if !ok {
			return
		}
		if ok, after := rule.bucket.Allow(c.Request.Context(), l.key(c, rule.Key)); !ok {
			l.meter.Limited(rule.name)
			web.WriteProblem(c, RateLimited(after))
		}
	}
}

// key names the bucket of a request. Accounts and addresses cannot be taken for one another.
func (l *Limits) key(c *gin.Context, by Key) string {
	if by == ByRoute {
		return "route"
	}
	if by == ByAccount {
		if account := l.caller(c.Request.Context()); account != "" {
			return "account " + account
		}
	}
	return "address " + network(c.ClientIP())
}

// network returns an IPv4 address as it is and an IPv6 address as its /64, which one client has to itself.
func network(address string) string {
	ip, err := netip.ParseAddr(address)
	if err != nil {
		return "unknown" // all of them share a bucket
	}
	if ip = ip.Unmap(); ip.Is4() {
		return ip.String()
	}
	prefix, err := ip.WithZone("").Prefix(64)
	if err != nil {
		return "unknown"
	}
	return prefix.String()
}
