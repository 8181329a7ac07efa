package limit

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/eprod/eprod/internal/errs"
)

// Key says whose tokens a request takes.
type Key string

// The keys. An address is that of an IPv4 client, or the /64 network of an IPv6 client.
const (
	ByAccount Key = "account" // the signed-in account, or the address where nobody is signed in
	ByAddress Key = "address" // the client's address
	ByRoute   Key = "route"   // one bucket for everybody
)

// Scope says who shares a bucket.
type Scope string

// The scopes.
const (
	Local  Scope = "local"  // each process has buckets of its own
	Shared Scope = "shared" // all processes that share a Redis
)

// Rule is one token bucket per key, for the requests of some operations together.
type Rule struct {
	Operations []string `koanf:"operations"` // operation ids of the API document; none: the rule is off
	Rate       float64  `koanf:"rate"`       // tokens per second and key
	Burst      int      `koanf:"burst"`      // tokens of a key that has been idle
	Key        Key      `koanf:"key"`
	Scope      Scope    `koanf:"scope"`
}

// Config holds the settings of all rules. The zero value is not usable; start from DefaultConfig.
type Config struct {
	Keys      int             `koanf:"keys"`      // keys remembered per rule
	Processes int             `koanf:"processes"` // that share Redis: without it each gives out this part of the shared buckets
	Breaker   BreakerConfig   `koanf:"breaker"`   // around Redis; its callTimeout is how long a request may wait for it
	Routes    map[string]Rule `koanf:"routes"`    // by name; an operation stands in at most one
}

// DefaultConfig limits what is costly, and what the API documents as limited.
func DefaultConfig() Config {
	breaker := DefaultBreakerConfig()
	breaker.CallTimeout, breaker.OpenFor, breaker.Probes = 50*time.Millisecond, time.Second, 1
	return Config{Keys: 100_000, Processes: 1, Breaker: breaker, Routes: map[string]Rule{
		"questionnaires": {Operations: []string{"get-questionnaire", "get-study-questionnaire"}, Rate: 50, Burst: 100, Key: ByAccount, Scope: Local},
		"sign-in":        {Operations: []string{"login", "participant-sign-in"}, Rate: 10, Burst: 200, Key: ByAddress, Scope: Shared},
		"imports":        {Operations: []string{"import-participants", "import-questionnaire"}, Rate: 1, Burst: 20, Key: ByAccount, Scope: Shared},
		"ids":            {Operations: []string{"get-ids"}, Rate: 1000, Burst: 2000, Key: ByAccount, Scope: Local},
	}}
}

// Validate returns every problem at once, each as "key: value: what would be right".
func (c Config) Validate() error {
	var problems []error
	if c.Keys < 1 || c.Keys > 10_000_000 {
		problems = append(problems, fmt.Errorf("keys: %d: must be between 1 and 10000000", c.Keys))
	}
	if c.Processes < 1 || c.Processes > 1024 {
		problems = append(problems, fmt.Errorf("processes: %d: must be between 1 and 1024", c.Processes))
	}
	if err := c.Breaker.Validate(); err != nil {
		problems = append(problems, prefixed("breaker.", err)...)
	}
	taken := make(map[string]string)
	for _, name := range slices.Sorted(maps.Keys(c.Routes)) {
		rule := c.Routes[name]
		problems = append(problems, prefixed("routes."+name+".", rule.Validate())...)
		for _, operation := range rule.Operations {
			if other, ok := taken[operation]; ok {
				problems = append(problems, fmt.Errorf("routes.%s.operations: %s: stands in %s already; an operation has one rule", name, operation, other))
			}
			taken[operation] = name
		}
	}
	return errors.Join(problems...)
}

// prefixed puts the place of a section before each of its joined problems.
func prefixed(place string, err error) []error {
	joined, ok := err.(interface{ Unwrap() []error })
	if !ok {
		return nil
	}
	var out []error
	for _, problem := range joined.Unwrap() {
		out = append(out, fmt.Errorf("%s%w", place, problem))
	}
	return out
}

// Validate returns every problem at once, each as "key: value: what would be right".
func (r Rule) Validate() error {
	var problems []error
	if !(r.Rate >= 0.001 && r.Rate <= 1_000_000) {
		problems = append(problems, fmt.Errorf("rate: %v: must be between 0.001 and 1000000", r.Rate))
	}
	if r.Burst < 1 || r.Burst > 1_000_000 {
		problems = append(problems, fmt.Errorf("burst: %d: must be between 1 and 1000000", r.Burst))
	}
	if r.Key != ByAccount && r.Key != ByAddress && r.Key != ByRoute {
		problems = append(problems, fmt.Errorf("key: %q: must be account, address or route", r.Key))
	}
	if r.Scope != Local && r.Scope != Shared {
		problems = append(problems, fmt.Errorf("scope: %q: must be local or shared", r.Scope))
	}
	return errors.Join(problems...)
}

// RateLimited is the refusal for a caller whose bucket is empty for this long. The door adds jitter to it.
func RateLimited(retryAfter time.Duration) *errs.Error {
	return errs.New(errs.RateLimited, "rate_limited", "too many requests; slow down").WithRetryAfter(retryAfter)
}
