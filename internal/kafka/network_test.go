package kafka_test

import (
	"context"
	"errors"
	"net"
	"sync"
	"testing"

	"github.com/IBM/sarama"

	"github.com/eprod/eprod/internal/kafka"
)

// weather is what a network does to connections.
type weather int

const (
	fair   weather = iota
	cut            // connections break, new ones are refused
	silent         // what is sent disappears, nothing comes back
	deaf           // what is sent arrives, replies disappear
)

// network is a disturbed way to a broker.
type network struct {
	dial kafka.Dial

	mu    sync.Mutex
	now   weather
	lines map[*wire]bool
}

func (n *network) connect(ctx context.Context, kind, address string) (net.Conn, error) {
	if n.weather() == cut {
		return nil, errors.New("connection refused by the test")
	}
	c, err := n.dial(ctx, kind, address)
	if err != nil {
		return nil, err
	}
	w := &wire{Conn: c, network: n}
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.lines == nil {
		n.lines = map[*wire]bool{}
	}
	n.lines[w] = true
	return w, nil
}

func (n *network) weather() weather {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.now
}

// set changes the weather. A connection that has lost something does not survive the change.
func (n *network) set(to weather) {
	n.mu.Lock()
	broken := n.now != fair || to == cut
	n.now = to
	var victims []*wire
	if broken {
		for w := range n.lines {
			victims = append(victims, w)
		}
	}
	n.mu.Unlock()
	for _, w := range victims {
		_ = w.Close()
	}
}

// wire is one connection through a disturbed network.
type wire struct {
	net.Conn
	network *network
}

// Write implements net.Conn.
func (w *wire) Write(b []byte) (int, error) {
	if w.network.weather() == silent {
		return len(b), nil
	}
	return w.Conn.Write(b)
}

// Read implements net.Conn. It swallows replies until the deadline of its reader.
func (w *wire) Read(b []byte) (int, error) {
	for {
		n, err := w.Conn.Read(b)
		if err != nil || w.network.weather() == fair {
			return n, err
		}
	}
}

// Close implements net.Conn.
func (w *wire) Close() error {
	w.network.mu.Lock()
	delete(w.network.lines, w)
	w.network.mu.Unlock()
	return w.Conn.Close()
}

// raw returns a client of the test's own, past the package under test.
func (b broker) raw(t testing.TB) sarama.ClusterAdmin {
	t.Helper()
	s := sarama.NewConfig()
	s.Version = sarama.V4_1_0_0
	s.Net.Proxy.Enable, s.Net.Proxy.Dialer = true, plain{b.network.dial}
	admin, err := sarama.NewClusterAdmin(b.config.Brokers, s)
	if err != nil {
		t.Fatal(err)
	}
	return admin
}

type plain struct{ dial kafka.Dial }

// Dial implements sarama's proxy dialer.
func (p plain) Dial(kind, address string) (net.Conn, error) {
	return p.dial(context.Background(), kind, address)
}

// drop deletes the test's topic and groups, so that a broker that stays does not fill up.
func (b broker) drop(t testing.TB) {
	admin := b.raw(t)
	defer func() { _ = admin.Close() }()
	if err := admin.DeleteTopic(b.config.Prefix + topic); err != nil {
		t.Errorf("delete topic: %v", err)
	}
}
