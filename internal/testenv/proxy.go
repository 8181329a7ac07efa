package testenv

import (
	"bytes"
	"net"
	"sync"
	"testing"
)

// Proxy relays TCP connections to a server and breaks them when it is told to. It is safe for concurrent use.
type Proxy struct {
	listener net.Listener
	target   string
	running  sync.WaitGroup

	mu     sync.Mutex
	heard  *sync.Cond
	silent bool
	closed bool
	lose   []byte // the reply to a request that holds this is lost, once
	conns  []net.Conn
}

// NewProxy returns a proxy to target that listens until the test ends.
func NewProxy(t testing.TB, target string) *Proxy {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &Proxy{listener: listener, target: target}
	p.heard = sync.NewCond(&p.mu)
	p.running.Go(p.accept)
	t.Cleanup(p.close)
	return p
}

// Address is where the proxy listens.
func (p *Proxy) Address() string { return p.listener.Addr().String() }

// Silence holds all bytes back, in both directions, until it is switched off: connections stay open, as those of a server
// that hangs.
func (p *Proxy) Silence(on bool) {
	p.mu.Lock()
	p.silent = on
	p.mu.Unlock()
	p.heard.Broadcast()
}

// LoseReply cuts the connection of the next request that holds text, after the server has answered it: the request is
// carried out and its sender cannot know.
func (p *Proxy) LoseReply(text string) {
	p.mu.Lock()
	p.lose = []byte(text)
	p.mu.Unlock()
}

// Lost reports whether a reply was lost since LoseReply.
func (p *Proxy) Lost() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.lose == nil
}

func (p *Proxy) accept() {
	for {
		client, err := p.listener.Accept()
		if err != nil {
			return
		}
		server, err := net.Dial("tcp", p.target)
		if err != nil {
			client.Close()
			continue
		}
		p.mu.Lock()
		p.conns = append(p.conns, client, server)
		closed := p.closed
		p.mu.Unlock()
		if closed {
			client.Close()
			server.Close()
			return
		}
		cut := make(chan struct{})
		p.running.Go(func() { p.requests(client, server, cut) })
		p.running.Go(func() { p.replies(server, client, cut) })
	}
}

// wait returns false when the proxy has ended.
func (p *Proxy) wait() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	for p.silent && !p.closed {
		p.heard.Wait()
	}
	return !p.closed
}

func (p *Proxy) requests(client, server net.Conn, cut chan struct{}) {
	defer server.Close()
	buffer := make([]byte, 64<<10)
	for {
		n, err := client.Read(buffer)
		if err != nil || !p.wait() {
			return
		}
		p.mu.Lock()
		if p.lose != nil && bytes.Contains(buffer[:n], p.lose) {
			p.lose = nil
			close(cut)
		}
		p.mu.Unlock()
		if _, err := server.Write(buffer[:n]); err != nil {
			return
		}
	}
}

func (p *Proxy) replies(server, client net.Conn, cut chan struct{}) {
	defer client.Close()
	buffer := make([]byte, 64<<10)
	for {
		n, err := server.Read(buffer)
		if err != nil || !p.wait() {
			return
		}
		select {
		case <-cut:
			return
		default:
		}
		if _, err := client.Write(buffer[:n]); err != nil {
			return
		}
	}
}

func (p *Proxy) close() {
	p.listener.Close()
	p.mu.Lock()
	p.closed = true
	for _, c := range p.conns {
		c.Close()
	}
	p.mu.Unlock()
	p.heard.Broadcast()
	p.running.Wait()
}
