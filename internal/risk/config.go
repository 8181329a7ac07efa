package risk

import (
	"errors"
	"fmt"
	"net/url"
	"time"

	"github.com/eprod/eprod/internal/limit"
	"github.com/eprod/eprod/internal/web"
)

// Config bounds assessing.
type Config struct {
	Rate       float64             `koanf:"rate"`       // assessments a second of each model, of all processes together
	Burst      int                 `koanf:"burst"`      // at once after a pause
	Batch      int                 `koanf:"batch"`      // events of one batch: at the rate above, all partitions' batches must fit into timeout
	Timeout    time.Duration       `koanf:"timeout"`    // for one batch; then it is begun anew, and what is done stays done
	History    int                 `koanf:"history"`    // earlier responses that a model sees
	SettingTTL time.Duration       `koanf:"settingTtl"` // how old a process' view of a study's setting may be
	Breaker    limit.BreakerConfig `koanf:"breaker"`    // around the model behind HTTP
	HTTP       HTTPConfig          `koanf:"http"`
}

// HTTPConfig says where a sponsor's own model is.
type HTTPConfig struct {
	URL     string        `koanf:"url"`     // empty: there is none
	Model   string        `koanf:"model"`   // name that must answer
	Version string        `koanf:"version"` // version that must answer
	Timeout time.Duration `koanf:"timeout"` // for one answer

	PlainHTTP bool `koanf:"plainHttp"` // allow http:// to another machine
}

// DefaultConfig returns ten assessments a second.
func DefaultConfig() Config {
	breaker := limit.DefaultBreakerConfig()
	breaker.CallTimeout = 6 * time.Second
	return Config{Rate: 10, Burst: 10, Batch: 10, Timeout: 60 * time.Second, History: 5, SettingTTL: 2 * time.Second, Breaker: breaker, HTTP: HTTPConfig{Timeout: 5 * time.Second}}
}

// Validate returns every problem at once, each as "key: value: what would be right".
func (c Config) Validate() error {
	var problems []error
	bad := func(format string, args ...any) { problems = append(problems, fmt.Errorf(format, args...)) }
	if c.Rate <= 0 || c.Rate > 10_000 {
		bad("rate: %g: must be above 0 and at most 10000", c.Rate)
	}
	for _, n := range []struct {
		key         string
		value, most int
	}{{"burst", c.Burst, 10_000}, {"batch", c.Batch, 1000}, {"history", c.History, 20}} {
		if n.value < 1 || n.value > n.most {
			bad("%s: %d: must be from 1 to %d", n.key, n.value, n.most)
		}
	}
	if c.Timeout < time.Second || c.SettingTTL < 10*time.Millisecond || c.HTTP.Timeout < 10*time.Millisecond {
		bad("timeout: %v, settingTtl: %v, http.timeout: %v: must be at least 1s, 10ms and 10ms", c.Timeout, c.SettingTTL, c.HTTP.Timeout)
	}
	if err := c.Breaker.Validate(); err != nil {
		bad("breaker: %w", err)
	}
	if c.HTTP.URL == "" {
		return errors.Join(problems...)
	}
	switch u, err := url.Parse(c.HTTP.URL); {
	case err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http" || u.User != nil:
		bad("http.url: must be an address such as https://model.example.org/assess, without an account")
	case web.InTheClear(u) && !c.HTTP.PlainHTTP:
		bad("http.url: http:// would send scores in the clear: use https://, or set http.plainHttp for a network that encrypts by itself")
	}
	if c.HTTP.Model == "" || c.HTTP.Version == "" || len(c.HTTP.Model) > 64 || len(c.HTTP.Version) > 64 {
		bad("http.model, http.version: must name the model that answers, in at most 64 bytes each")
	}
	return errors.Join(problems...)
}
