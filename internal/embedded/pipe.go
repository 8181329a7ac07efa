package embedded

import (
	"context"
	"net"
	"sync"
)

// pipe is a listener whose connections are made in memory.
type pipe struct {
	address net.Addr
	waiting chan net.Conn
	closed  chan struct{}
	once    sync.Once
}

func newPipe(address string) *pipe {
	addr, err := net.ResolveTCPAddr("tcp", address)
	if err != nil {
		addr = &net.TCPAddr{}
	}
	return &pipe{address: addr, waiting: make(chan net.Conn), closed: make(chan struct{})}
}

// listen has the form that the broker asks for; there is one broker, so there is one listener.
func (p *pipe) listen(string, string) (net.Listener, error) { return p, nil }

func (p *pipe) dial(ctx context.Context, _, _ string) (net.Conn, error) {
	client, server := net.Pipe()
	select {
	case p.waiting <- server:
		return client, nil
	case <-p.closed:
		return nil, net.ErrClosed
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// Accept implements net.Listener.
func (p *pipe) Accept() (net.Conn, error) {
	select {
	case c := <-p.waiting:
		return c, nil
	case <-p.closed:
		return nil, net.ErrClosed
	}
}

// Close implements net.Listener.
func (p *pipe) Close() error {
	p.once.Do(func() { close(p.closed) })
	return nil
}

// Addr implements net.Listener.
func (p *pipe) Addr() net.Addr { return p.address }
