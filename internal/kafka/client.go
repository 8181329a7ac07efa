package kafka

import (
	"context"
	"encoding/binary"
	"net"
	"sync/atomic"
	"time"

	"github.com/IBM/sarama"
)

// settings returns what all clients share. Each client gets its own: producer and consumer must not share connections, or
// a long poll holds up an acknowledgement. Ending ctx cuts the client's connections, which ends every wait for a broker:
// sarama's own calls take no context.
func settings(ctx context.Context, c Config, dial Dial, client string) *sarama.Config {
	s := sarama.NewConfig()
	s.ClientID = "eprod-" + client
	s.Version = sarama.V4_1_0_0 // the highest; what the broker speaks is negotiated
	s.Net.DialTimeout, s.Net.ReadTimeout, s.Net.WriteTimeout = c.DialTimeout, c.ReadTimeout, c.WriteTimeout
	s.Metadata.Retry.Max, s.Metadata.Retry.Backoff = 2, 100*time.Millisecond
	s.Metadata.Timeout = c.DialTimeout + c.ReadTimeout
	s.Metadata.RefreshFrequency = time.Minute
	s.Metadata.AllowAutoTopicCreation = false
	s.Admin.Timeout = c.ReadTimeout
	if dial == nil {
		dial = new(net.Dialer).DialContext
	}
	s.Net.Proxy.Enable, s.Net.Proxy.Dialer = true, &lines{ctx: ctx, dial: dial, timeout: c.DialTimeout}
	return s
}

// lines opens the connections of one client and closes them when ctx ends.
type lines struct {
	ctx      context.Context
	dial     Dial
	timeout  time.Duration
	patience time.Duration // how much longer than any other request one may take that waits for the group's other members
}

// Dial implements sarama's proxy dialer.
func (l *lines) Dial(network, address string) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(l.ctx, l.timeout)
	defer cancel()
	c, err := l.dial(ctx, network, address)
	if err != nil {
		return nil, err
	}
	out := &line{Conn: c, patience: l.patience}
	out.forget = context.AfterFunc(l.ctx, func() { _ = c.Close() })
	return out, nil
}

// line is one connection to a broker.
type line struct {
	net.Conn
	forget   func() bool
	patience time.Duration
	patient  atomic.Bool // the last request waits for other members of the group
}

// Close implements net.Conn.
func (l *line) Close() error {
	l.forget()
	return l.Conn.Close()
}

// Write implements net.Conn. Sarama writes one request per call; its API key is in the fifth and sixth byte.
func (l *line) Write(request []byte) (int, error) {
	const joinGroup, syncGroup = 11, 14
	if l.patience > 0 && len(request) > 6 {
		key := binary.BigEndian.Uint16(request[4:])
		l.patient.Store(key == joinGroup || key == syncGroup)
	}
	return l.Conn.Write(request)
}

// SetReadDeadline implements net.Conn. A reply to join or sync comes only when the group's other members have finished
// their batches; every other reply is late after the usual time, so that a broker that hangs is noticed.
func (l *line) SetReadDeadline(t time.Time) error {
	if l.patient.Load() && !t.IsZero() {
		t = t.Add(l.patience)
	}
	return l.Conn.SetReadDeadline(t)
}

// quietly closes what is only closed because something else has failed or finished already.
func quietly(c interface{ Close() error }) { _ = c.Close() }

// pause waits for d or until ctx ends, and reports whether d has passed.
func pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}
