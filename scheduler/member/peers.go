package member

import (
	"errors"
	"fmt"
	"sync"
	"time"

	"google.golang.org/grpc"
)

// Peers holds a connection to each scheduler that has been called, by its gRPC address.
type Peers struct {
	dial func(addr string) (*grpc.ClientConn, error)

	mu     sync.Mutex
	closed bool
	conns  map[string]*connection
}

type connection struct {
	*grpc.ClientConn
	used time.Time
}

// idle is for how long a connection that nobody asks for is kept: longer than any call but a stream takes. Those to
// members are asked for by every probe.
const idle = time.Minute

func newPeers(dial func(addr string) (*grpc.ClientConn, error)) *Peers {
	return &Peers{dial: dial, conns: map[string]*connection{}}
}

// Conn answers the connection to an address; it is the Peers' to close.
func (p *Peers) Conn(addr string) (*grpc.ClientConn, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return nil, errors.New("this scheduler is stopping")
	}
	if c := p.conns[addr]; c != nil {
		c.used = time.Now()
		return c.ClientConn, nil
	}
	c, err := p.dial(addr)
	if err != nil {
		return nil, fmt.Errorf("connect to the scheduler at %s: %w", addr, err)
	}
	p.conns[addr] = &connection{c, time.Now()}
	return c, nil
}

// forget closes the connections that nobody has asked for since a time.
func (p *Peers) forget(since time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for addr, c := range p.conns {
		if c.used.Before(since) {
			c.Close() // what a connection says when it's given up is of no use
			delete(p.conns, addr)
		}
	}
}

func (p *Peers) close() {
	p.mu.Lock()
	p.closed = true
	p.mu.Unlock()
	p.forget(time.Now().Add(time.Hour))
}
