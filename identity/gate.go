package identity

import (
	"crypto/tls"
	"errors"
	"net"
	goruntime "runtime"
	"sync"
	"time"
)

// A handshake costs a server some hundred microseconds of a core. When a leader has died ten thousand agents call the
// next one in the same second, and what it must do a few times a second to remain the leader would wait behind all of
// them: it would lose its office, and with it all sessions, again and again. So only a few are computed at once.
const (
	handshakesPerCore = 8
	// gateWait is how long a client is kept waiting for its turn: half of what agents wait for a welcome.
	gateWait = 5 * time.Second
	// gateTurn is how long one handshake may hold up others, however slow the client is: then it goes on beside them.
	gateTurn = 100 * time.Millisecond
)

var errBusy = errors.New("too many clients connect at once: it has waited too long for its turn")

// gate lets a few handshakes in at a time, first come, first served.
type gate chan struct{}

func newGate() gate { return make(gate, handshakesPerCore*goruntime.GOMAXPROCS(0)) }

// enter waits for a turn, which ends with leave or after gateTurn.
func (g gate) enter() (leave func(), err error) {
	timer := time.NewTimer(gateWait)
	defer timer.Stop()
	select {
	case g <- struct{}{}:
	case <-timer.C:
		return nil, errBusy
	}
	end := sync.OnceFunc(func() { <-g })
	turn := time.AfterFunc(gateTurn, end)
	return func() { turn.Stop(); end() }, nil
}

// gated is a connection before its handshake.
type gated struct {
	net.Conn
	leave func() // nil before its turn
}

// pass makes the handshake take its turn once the client has said what it wants: one that says nothing holds up
// nobody.
func (g gate) pass(c *tls.Config) *tls.Config {
	c.GetConfigForClient = func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
		var err error
		if c, ok := hello.Conn.(*gated); ok {
			c.leave, err = g.enter()
		}
		return nil, err
	}
	return c
}
