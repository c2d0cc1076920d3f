package instance

import (
	"errors"
	"fmt"
	"net"
	"strconv"
	"sync"
	"syscall"
)

// ports is the ledger of host ports that instances of this node hold.
type ports struct {
	low, high int

	mu    sync.Mutex
	next  int
	owner map[int]string
}

func newPorts(low, high int) *ports {
	return &ports{low: low, high: high, next: low, owner: map[int]string{}}
}

// hold notes a port from the journal.
func (p *ports) hold(port int, id string) {
	if port == 0 {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.owner[port] = id
}

// take gives the instance a port that nobody holds and that can be bound now, instead of what it held.
// Ports are given in turn, so that one which was just given back is not used again at once.
func (p *ports) take(id string) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for range p.high - p.low + 1 {
		port := p.next
		if p.next++; p.next > p.high {
			p.next = p.low
		}
		if p.owner[port] != "" || !bindable(port) {
			continue
		}
		p.releaseLocked(id)
		p.owner[port] = id
		return port, nil
	}
	return 0, fmt.Errorf("no free port between %d and %d", p.low, p.high)
}

func (p *ports) release(id string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.releaseLocked(id)
}

func (p *ports) releaseLocked(id string) {
	for port, owner := range p.owner {
		if owner == id {
			delete(p.owner, port)
		}
	}
}

// bindable tells whether the port is free on all addresses of the host.
func bindable(port int) bool {
	l, err := net.Listen("tcp", ":"+strconv.Itoa(port))
	if errors.Is(err, syscall.EAFNOSUPPORT) {
		l, err = net.Listen("tcp4", ":"+strconv.Itoa(port))
	}
	return err == nil && l.Close() == nil
}
