// Package web decides how eprod speaks HTTP: one gin engine, one huma API on it, one form of error (RFC 9457), one edge
// (edge.go), one way to stop.
//
// A bounded context adds its routes with Register (typed, described, validated) or, on a hot path, with a plain gin handler plus
// Describe. Handlers return errs errors; this package alone turns them into answers. In the structs of Register a body member
// is required unless its tag says omitempty, omitzero or required:"false"; unknown members are refused.
package web

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"
)

// Config holds the settings of both listeners. The zero value is not usable; start from DefaultConfig.
type Config struct {
	Listen            string        `koanf:"listen"`            // host:port of the public listener; port 0 picks a free one
	OpsListen         string        `koanf:"opsListen"`         // host:port for operators (/livez, /readyz, /metrics); never public
	TrustedProxies    []string      `koanf:"trustedProxies"`    // addresses or networks whose X-Forwarded-For is believed; empty: nobody's
	MaxBodyBytes      int64         `koanf:"maxBodyBytes"`      // largest request body, unless a route allows more
	MaxInFlight       int           `koanf:"maxInFlight"`       // requests inside the server at once, without submissions, which have places of their own
	RequestTimeout    time.Duration `koanf:"requestTimeout"`    // longest life of a request, unless a route allows more; nine tenths are for its work
	ReadHeaderTimeout time.Duration `koanf:"readHeaderTimeout"` // for the request line and headers
	ReadTimeout       time.Duration `koanf:"readTimeout"`       // for the whole request; longer than requestTimeout
	WriteTimeout      time.Duration `koanf:"writeTimeout"`      // from the end of the headers to the last byte of the answer; longer than requestTimeout
	IdleTimeout       time.Duration `koanf:"idleTimeout"`       // between requests of one connection
	DrainDelay        time.Duration `koanf:"drainDelay"`        // between "not ready" and closing the listener, so that balancers notice
	ShutdownTimeout   time.Duration `koanf:"shutdownTimeout"`   // for requests in flight when the listener has closed; longer than the longest request
	AccessLogSample   int           `koanf:"accessLogSample"`   // on routes marked Hot, one of this many 2xx answers is logged; everything else always is
}

// DefaultConfig returns settings that suit a small production server behind a proxy.
func DefaultConfig() Config {
	return Config{
		Listen:            ":8080",
		OpsListen:         "127.0.0.1:9090",
		MaxBodyBytes:      1 << 20,
		MaxInFlight:       2048,
		RequestTimeout:    3 * time.Second,
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       15 * time.Second,
		WriteTimeout:      20 * time.Second,
		IdleTimeout:       2 * time.Minute,
		DrainDelay:        time.Second,
		ShutdownTimeout:   25 * time.Second,
		AccessLogSample:   100,
	}
}

// Validate returns every problem at once, each as "key: value: what would be right".
func (c Config) Validate() error {
	var problems []error
	bad := func(key string, value any, want string) {
		problems = append(problems, fmt.Errorf("%s: %v: %s", key, value, want))
	}
	for key, address := range map[string]string{"listen": c.Listen, "opsListen": c.OpsListen} {
		if _, _, err := net.SplitHostPort(address); err != nil {
			bad(key, address, "must be host:port, such as 127.0.0.1:8080 or :8080")
		}
	}
	for _, p := range c.TrustedProxies {
		_, errAddr := netip.ParseAddr(p)
		_, errNet := netip.ParsePrefix(p)
		if errAddr != nil && errNet != nil {
			bad("trustedProxies", p, "must be an address or a network, such as 10.0.0.0/8")
		}
	}
	if c.MaxBodyBytes < 1<<10 || c.MaxBodyBytes > 64<<20 {
		bad("maxBodyBytes", c.MaxBodyBytes, "must be between 1024 and 67108864")
	}
	for _, d := range []struct {
		key   string
		value time.Duration
	}{{"requestTimeout", c.RequestTimeout}, {"readHeaderTimeout", c.ReadHeaderTimeout}, {"idleTimeout", c.IdleTimeout}} {
		if d.value <= 0 {
			bad(d.key, d.value, "must be above zero, such as 5s")
		}
	}
	if c.ReadTimeout <= c.RequestTimeout {
		bad("readTimeout", c.ReadTimeout, "must be longer than requestTimeout")
	}
	if c.WriteTimeout <= c.RequestTimeout {
		bad("writeTimeout", c.WriteTimeout, "must be longer than requestTimeout")
	}
	if c.DrainDelay < 0 {
		bad("drainDelay", c.DrainDelay, "must not be negative")
	}
	if c.ShutdownTimeout <= c.WriteTimeout {
		bad("shutdownTimeout", c.ShutdownTimeout, "must be longer than writeTimeout, which bounds a request")
	}
	if c.MaxInFlight < 1 {
		bad("maxInFlight", c.MaxInFlight, "must be 1 or more")
	}
	if c.AccessLogSample < 1 {
		bad("accessLogSample", c.AccessLogSample, "must be 1 or more")
	}
	return errors.Join(problems...)
}
