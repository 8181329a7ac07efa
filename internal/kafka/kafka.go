// Package kafka decides how eprod speaks to its log, real or embedded: a producer whose call returns when all in-sync
// replicas have the record, and a consumer that marks a record only after its handler has finished. Sarama appears here and
// nowhere else.
package kafka

import (
	"context"
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/eprod/eprod/internal/trace"
)

// Header is one header of a record.
type Header struct {
	Key   string
	Value []byte
}

// Message is one record. Records have no key: the sender chooses the partition. Partition, Offset and Time of a message
// that is sent are ignored, except Partition.
type Message struct {
	Topic     string // without the configured prefix
	Partition int32
	Offset    int64
	Headers   []Header
	Value     []byte
	Time      time.Time
}

// Traceparent returns the record's place in a trace, or "".
func (m *Message) Traceparent() string {
	for _, h := range m.Headers {
		if h.Key == trace.HeaderName && len(h.Value) == trace.HeaderLength {
			return string(h.Value)
		}
	}
	return ""
}

// Dial opens a connection; nil means TCP. The embedded broker has one that opens no port.
type Dial func(ctx context.Context, network, address string) (net.Conn, error)

// Config says where the log is and bounds every wait for it. Start from DefaultConfig.
type Config struct {
	Brokers      []string      `koanf:"brokers"`      // host:port of some brokers; empty: the embedded broker
	Prefix       string        `koanf:"prefix"`       // before every topic and group name, where a cluster is shared
	Partitions   int           `koanf:"partitions"`   // of topics that eprod makes; consecutive buckets share one
	Replication  int           `koanf:"replication"`  // copies of topics that eprod makes; 3 in production
	MinInSync    int           `koanf:"minInSync"`    // copies that must have a record before it counts; 2 in production
	DialTimeout  time.Duration `koanf:"dialTimeout"`  // to connect to a broker
	ReadTimeout  time.Duration `koanf:"readTimeout"`  // for a broker's reply
	WriteTimeout time.Duration `koanf:"writeTimeout"` // to send a request
	AckTimeout   time.Duration `koanf:"ackTimeout"`   // longest wait for an acknowledgement, retries included; beyond it the outcome is unknown
	MaxBuffered  int           `koanf:"maxBuffered"`  // records of one process without an acknowledgement; more are refused
	MaxBytes     int           `koanf:"maxBytes"`     // largest record, headers included
}

// recordOverhead is what the largest record may take on the wire beyond MaxBytes: framing, and the lengths of its headers.
const recordOverhead = 16 << 10

// DefaultConfig returns settings for one broker; production raises Replication and MinInSync.
func DefaultConfig() Config {
	return Config{
		Partitions: 8, Replication: 1, MinInSync: 1,
		DialTimeout: 3 * time.Second, ReadTimeout: 3 * time.Second, WriteTimeout: 3 * time.Second,
		AckTimeout: 5 * time.Second, MaxBuffered: 20_000, MaxBytes: 1 << 20,
	}
}

// Validate returns every problem at once, each as "key: value: what would be right".
func (c Config) Validate() error {
	var problems []error
	bad := func(key string, value any, want string) {
		problems = append(problems, fmt.Errorf("%s: %v: %s", key, value, want))
	}
	for _, b := range c.Brokers {
		if _, _, err := net.SplitHostPort(b); err != nil {
			bad("brokers", b, "must be host:port, such as kafka-1:9092")
		}
	}
	if c.Partitions < 1 || c.Partitions > 256 {
		bad("partitions", c.Partitions, "must be between 1 and 256, the number of buckets")
	}
	if c.Replication < 1 {
		bad("replication", c.Replication, "must be 1 or more")
	}
	if c.MinInSync < 1 || c.MinInSync > c.Replication {
		bad("minInSync", c.MinInSync, "must be between 1 and replication")
	}
	for _, d := range []struct {
		key   string
		value time.Duration
	}{{"dialTimeout", c.DialTimeout}, {"readTimeout", c.ReadTimeout}, {"writeTimeout", c.WriteTimeout}, {"ackTimeout", c.AckTimeout}} {
		if d.value <= 0 {
			bad(d.key, d.value, "must be above zero, such as 3s")
		}
	}
	if c.MaxBuffered < 1 {
		bad("maxBuffered", c.MaxBuffered, "must be 1 or more")
	}
	if c.MaxBytes < 1<<10 {
		bad("maxBytes", c.MaxBytes, "must be 1024 or more")
	}
	return errors.Join(problems...)
}
