package scheduler

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/tap"

	"github.com/drover-fleet/drover/scheduler/auth"
)

// strangers bound what connections can take on which nobody has shown a valid credential yet: those of one port. Once
// somebody has, a connection isn't counted or limited here any more.
type strangers struct {
	perSource int           // connections
	time      time.Duration // that a connection may stay one of a stranger
	calls     int32         // of gRPC under way on a connection without a valid credential
	bytes     int64         // that may come on the connection while any of them is

	mu       sync.Mutex
	bySource map[netip.Prefix]int
}

func defaultStrangers() *strangers {
	return &strangers{perSource: 1024, time: time.Minute, bytes: 64 << 10, calls: 16, bySource: map[netip.Prefix]int{}}
}

// listen accepts strangers within the bounds; to those beyond them it says goodbye.
func (s *strangers) listen(l net.Listener, goodbye string) net.Listener {
	return &strangerListener{l, s, goodbye}
}

type strangerListener struct {
	net.Listener
	s       *strangers
	goodbye string
}

func (l *strangerListener) Accept() (net.Conn, error) {
	for {
		c, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		source := sourceOf(c.RemoteAddr())
		if l.s.take(source) {
			return l.s.meet(c, source), nil
		}
		refuse(c, l.goodbye)
	}
}

// sourceOf is what strangers are counted by: an IPv4 address, or the 64 bits of an IPv6 address that a network hands out.
func sourceOf(addr net.Addr) netip.Prefix {
	at, err := netip.ParseAddrPort(addr.String())
	if err != nil {
		return netip.Prefix{} // no TCP address: all such are one source
	}
	ip, bits := at.Addr().Unmap().WithZone(""), 64
	if ip.Is4() {
		bits = 32
	}
	return netip.PrefixFrom(ip, bits).Masked()
}

func (s *strangers) take(source netip.Prefix) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.bySource[source] >= s.perSource {
		return false
	}
	s.bySource[source]++
	return true
}

func (s *strangers) giveBack(source netip.Prefix) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.bySource[source]--; s.bySource[source] == 0 {
		delete(s.bySource, source)
	}
}

func (s *strangers) meet(c net.Conn, source netip.Prefix) *guest {
	g := &guest{Conn: c, limits: s, since: time.Now(), uncount: sync.OnceFunc(func() { s.giveBack(source) })}
	g.timer.Store(time.AfterFunc(s.time, g.expire))
	return g
}

// guest is a connection that begins as a stranger's.
type guest struct {
	net.Conn
	limits  *strangers
	since   time.Time
	uncount func()
	known   atomic.Bool
	calls   atomic.Int32 // under way while it isn't known
	left    atomic.Int64 // bytes that may come meanwhile
	timer   atomic.Pointer[time.Timer]
}

var errStranger = errors.New("too much has come for calls without a credential")

// Read takes more than a stranger may send by one read at most. What comes for no call is kept nowhere.
func (c *guest) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if !c.known.Load() && c.calls.Load() > 0 && c.left.Add(-int64(n)) < 0 {
		return 0, errStranger
	}
	return n, err
}

func (c *guest) Close() error {
	c.end()
	return c.Conn.Close()
}

// expire is the timer's; whoever serves the connection sees it closed, and gives it back.
func (c *guest) expire() {
	if !c.known.Load() {
		_ = c.Conn.Close() // who serves it closes it again, and has the error
	}
}

// recognise is called when a valid credential has been shown.
func (c *guest) recognise() {
	if c != nil && !c.known.Swap(true) {
		c.end()
	}
}

func (c *guest) end() {
	if t := c.timer.Swap(nil); t != nil {
		t.Stop()
	}
	c.uncount()
}

// ages says that the connection is a stranger's and has so little time left that it shouldn't carry another request.
func (c *guest) ages() bool {
	return c != nil && !c.known.Load() && time.Since(c.since) > c.limits.time/2
}

// call counts a gRPC call without a valid credential until its context ends. One too many ends the connection.
func (c *guest) call(ctx context.Context) {
	if c == nil || c.known.Load() {
		return
	}
	now := c.calls.Add(1)
	context.AfterFunc(ctx, func() { c.calls.Add(-1) })
	switch {
	case now == 1:
		c.left.Store(c.limits.bytes)
	case now > c.limits.calls:
		c.expire()
	}
}

// RemoteAddr leads back to the connection: it is all that gRPC and HTTP tell of it with a call.
func (c *guest) RemoteAddr() net.Addr { return guestAddr{c.Conn.RemoteAddr(), c} }

type guestAddr struct {
	net.Addr
	guest *guest
}

// guestAt is the connection that a call came on; nil when it came on none that began as a stranger's.
func guestAt(addr net.Addr) *guest {
	a, _ := addr.(guestAddr)
	return a.guest
}

type guestKey struct{}

// withGuest is http.Server.ConnContext.
func withGuest(ctx context.Context, c net.Conn) context.Context {
	return context.WithValue(ctx, guestKey{}, guestAt(c.RemoteAddr()))
}

// guestOf is guestAt for an HTTP request.
func guestOf(ctx context.Context) *guest {
	g, _ := ctx.Value(guestKey{}).(*guest)
	return g
}

// arrive looks at a gRPC call when its headers are there and before any of its message is read. Who shows no valid credential
// is refused, so that none of it is buffered, or has little room for it until an interceptor refuses him. It is called by the
// goroutine that reads the connection.
func (l *limits) arrive(in *auth.Interceptors, m *metrics) tap.ServerInHandle {
	return func(ctx context.Context, info *tap.Info) (context.Context, error) {
		var g *guest
		if p, ok := peer.FromContext(ctx); ok {
			g = guestAt(p.Addr)
		}
		known, refuse := ask(ctx, in, g, info.FullMethodName)
		switch {
		case known:
			g.recognise()
		case refuse != nil && l.forgettable(ctx):
			err := refuse()
			if in.Knows(info.FullMethodName) { // else a stranger could make labels
				m.ended(info.FullMethodName, err)
			}
			return ctx, err
		default:
			g.call(ctx)
		}
		return awaitMessage(ctx, l.firstMessage), nil
	}
}

// ask has the credential of a call looked at. That takes a stack of 8 KiB, which wouldn't get smaller again while its goroutine
// waits for what comes next: so it isn't the one that reads the connection, as long as that isn't known. An agent, of which there
// are thousands, makes one call and keeps 4 KiB less.
func ask(ctx context.Context, in *auth.Interceptors, g *guest, method string) (known bool, refuse func() error) {
	if g == nil || g.known.Load() {
		return in.Arrive(ctx, method)
	}
	type judgement struct {
		known  bool
		refuse func() error
	}
	judged := make(chan judgement)
	go func() {
		known, refuse := in.Arrive(ctx, method)
		judged <- judgement{known, refuse}
	}()
	j := <-judged
	return j.known, j.refuse
}

// forgettable says that a call can be refused as it arrives. gRPC then keeps the timer of its deadline until that: so it is
// done for near ones, and for so many a second.
func (l *limits) forgettable(ctx context.Context) bool {
	at, limited := ctx.Deadline()
	return !limited || time.Until(at) < time.Minute && l.refusals.Allow()
}
