package notify

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/eprod/eprod/internal/limit"
)

// Config bounds the sending of messages.
type Config struct {
	Order      []string            `koanf:"order"`      // names of senders of texts, the first to be asked first
	InlineWait time.Duration       `koanf:"inlineWait"` // how long a request waits for the gateway before it is told that the message is being sent
	Inline     int                 `koanf:"inline"`     // calls on behalf of requests at once; what is more waits for the worker
	Interval   time.Duration       `koanf:"interval"`   // how often the worker looks for what is due
	Batch      int                 `koanf:"batch"`      // messages that the worker takes from one shard at once
	Lease      time.Duration       `koanf:"lease"`      // after which a message that somebody was sending counts as of unknown outcome
	AskAfter   time.Duration       `koanf:"askAfter"`   // how long a receipt is waited for before the gateway is asked, and between questions
	RetryMin   time.Duration       `koanf:"retryMin"`   // first pause of a message that was certainly not sent; it doubles
	RetryMax   time.Duration       `koanf:"retryMax"`
	MaxAge     time.Duration       `koanf:"maxAge"`  // a message that is older is given up
	Rate       float64             `koanf:"rate"`    // messages a second of one process to each sender
	Burst      int                 `koanf:"burst"`   // at once
	Breaker    limit.BreakerConfig `koanf:"breaker"` // one for each sender
}

// DefaultServiceConfig returns settings for reminders that are of use for some hours.
func DefaultServiceConfig() Config {
	breaker := limit.DefaultBreakerConfig()
	breaker.CallTimeout = 5 * time.Second
	return Config{Order: []string{AliyunName, TencentName, TwilioName}, InlineWait: 300 * time.Millisecond, Inline: 64, Interval: time.Second, Batch: 100,
		Lease: 30 * time.Second, AskAfter: time.Minute, RetryMin: 2 * time.Second, RetryMax: 5 * time.Minute, MaxAge: 6 * time.Hour,
		Rate: 20, Burst: 40, Breaker: breaker}
}

// Validate returns every problem at once, each as "key: value: what would be right".
func (c Config) Validate() error {
	var p problems
	known := []string{AliyunName, TencentName, TwilioName}
	for i, name := range c.Order {
		if !slices.Contains(known, name) || slices.Contains(c.Order[:i], name) {
			p.add("order: %s: must name each of %v at most once", name, known)
		}
	}
	for _, d := range []struct {
		key   string
		value time.Duration
	}{{"inlineWait", c.InlineWait}, {"interval", c.Interval}, {"lease", c.Lease}, {"askAfter", c.AskAfter}, {"retryMin", c.RetryMin}, {"retryMax", c.RetryMax}, {"maxAge", c.MaxAge}} {
		if d.value < time.Millisecond {
			p.add("%s: %v: must be 1ms or more", d.key, d.value)
		}
	}
	if c.InlineWait > 2*time.Second {
		p.add("inlineWait: %v: must be at most 2s: requests must not wait for gateways", c.InlineWait)
	}
	if c.Lease <= c.Breaker.CallTimeout {
		p.add("lease: %v: must be longer than breaker.callTimeout, %v", c.Lease, c.Breaker.CallTimeout)
	}
	if c.Inline < 1 || c.Inline > 10_000 {
		p.add("inline: %d: must be between 1 and 10000", c.Inline)
	}
	if c.Batch < 1 || c.Batch > 1000 {
		p.add("batch: %d: must be between 1 and 1000", c.Batch)
	}
	if c.Rate <= 0 || c.Burst < 1 {
		p.add("rate: %v, burst: %d: must be above zero", c.Rate, c.Burst)
	}
	if err := c.Breaker.Validate(); err != nil {
		p = append(p, fmt.Errorf("breaker.%w", err))
	}
	return errors.Join(p...)
}
