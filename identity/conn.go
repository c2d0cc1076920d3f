package identity

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"google.golang.org/grpc/credentials"
)

// handshakeTimeout is how long a peer may take for its half of a handshake.
const handshakeTimeout = 10 * time.Second

// conn is a connection whose peer has shown a certificate. It ends when that is no longer believed.
type conn struct {
	net.Conn
	keeper *Keeper
	peer   Peer
	chain  []*x509.Certificate
	usage  x509.ExtKeyUsage
	since  time.Time
}

// hold keeps track of a connection after its handshake; one whose peer has shown nothing is left as it is.
func (k *Keeper) hold(c net.Conn, s tls.ConnectionState, usage x509.ExtKeyUsage) (net.Conn, error) {
	if len(s.PeerCertificates) == 0 {
		return c, nil
	}
	p, err := peerOf(s.PeerCertificates[0])
	if err != nil {
		return nil, err
	}
	held := &conn{Conn: c, keeper: k, peer: p, chain: s.PeerCertificates, usage: usage, since: unexpired(s.PeerCertificates[0])}
	k.mu.Lock()
	defer k.mu.Unlock()
	// What was believed in the handshake may have been revoked since.
	if err := k.now.check(held.chain, usage, held.since); err != nil {
		return nil, err
	}
	k.conns[held] = struct{}{}
	return held, nil
}

func (c *conn) Close() error {
	c.keeper.mu.Lock()
	delete(c.keeper.conns, c)
	c.keeper.mu.Unlock()
	return c.Conn.Close()
}

// audit writes down who was refused, and why. Of who hangs up before that it tells at debug level: nobody was refused.
func (k *Keeper) audit(port string, from net.Addr, err error) {
	who, level := "unknown", slog.LevelWarn
	var known *PeerError
	if errors.As(err, &known) {
		who = known.Peer.String()
	} else if errors.Is(err, io.EOF) || errors.Is(err, syscall.ECONNRESET) {
		level = slog.LevelDebug
	}
	k.log.Log(context.Background(), level, "a connection is refused", "audit", "refused", "port", port, "who", who, "from", from.String(), "error", err)
}

// serverCredentials are ServerTLS for gRPC, with an audit of refusals.
type serverCredentials struct {
	credentials.TransportCredentials
	keeper *Keeper
	gate   gate
}

// ServerCredentials are for a gRPC server. Few handshakes are computed at once.
func (k *Keeper) ServerCredentials() credentials.TransportCredentials {
	g := newGate()
	return &serverCredentials{credentials.NewTLS(g.pass(k.ServerTLS())), k, g}
}

// ClientCredentials are for gRPC calls to schedulers.
func (k *Keeper) ClientCredentials() credentials.TransportCredentials {
	return &clientCredentials{credentials.NewTLS(k.ClientTLS()), k}
}

func (c *serverCredentials) ServerHandshake(raw net.Conn) (net.Conn, credentials.AuthInfo, error) {
	waiting := &gated{Conn: raw}
	secured, info, err := c.TransportCredentials.ServerHandshake(waiting)
	if waiting.leave != nil {
		waiting.leave()
	}
	if err == nil {
		var held net.Conn
		if held, err = c.keeper.hold(secured, info.(credentials.TLSInfo).State, x509.ExtKeyUsageClientAuth); err == nil {
			return held, info, nil
		}
		err = errors.Join(err, secured.Close())
	}
	c.keeper.audit("gRPC", raw.RemoteAddr(), err)
	return nil, nil, err
}

func (c *serverCredentials) Clone() credentials.TransportCredentials {
	return &serverCredentials{c.TransportCredentials.Clone(), c.keeper, c.gate}
}

type clientCredentials struct {
	credentials.TransportCredentials
	keeper *Keeper
}

func (c *clientCredentials) ClientHandshake(ctx context.Context, authority string, raw net.Conn) (net.Conn, credentials.AuthInfo, error) {
	secured, info, err := c.TransportCredentials.ClientHandshake(ctx, authority, raw)
	if err != nil {
		return nil, nil, err
	}
	held, err := c.keeper.hold(secured, info.(credentials.TLSInfo).State, x509.ExtKeyUsageServerAuth)
	if err != nil {
		return nil, nil, errors.Join(err, secured.Close())
	}
	return held, info, nil
}

func (c *clientCredentials) Clone() credentials.TransportCredentials {
	return &clientCredentials{c.TransportCredentials.Clone(), c.keeper}
}

// PeerListener is a listener whose connections are those of schedulers, and the way to dial others: what Raft needs.
type PeerListener struct {
	net.Listener
	keeper *Keeper
	name   string
}

// ListenPeers secures a listener with PeerTLS; name is what the audit calls it. The handshake takes place with a
// connection's first use, so that a slow peer holds up nobody.
func (k *Keeper) ListenPeers(l net.Listener, name string) *PeerListener {
	return &PeerListener{l, k, name}
}

// Accept answers the next connection.
func (l *PeerListener) Accept() (net.Conn, error) {
	raw, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return &accepted{Conn: raw, tls: tls.Server(raw, l.keeper.PeerTLS()), listener: l}, nil
}

// Dial connects to another scheduler.
func (l *PeerListener) Dial(addr string, timeout time.Duration) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	raw, err := (&net.Dialer{}).DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, err
	}
	c := tls.Client(raw, l.keeper.PeerTLS())
	if err := c.HandshakeContext(ctx); err != nil {
		return nil, errors.Join(err, raw.Close())
	}
	held, err := l.keeper.hold(c, c.ConnectionState(), x509.ExtKeyUsageServerAuth)
	if err != nil {
		return nil, errors.Join(err, raw.Close())
	}
	return held, nil
}

// accepted is a connection whose handshake comes with its first use.
type accepted struct {
	net.Conn // the raw one
	tls      *tls.Conn
	listener *PeerListener

	once sync.Once
	done atomic.Bool // held and err are set
	held net.Conn
	err  error
}

func (a *accepted) shake() (net.Conn, error) {
	a.once.Do(func() {
		ctx, cancel := context.WithTimeout(context.Background(), handshakeTimeout)
		defer cancel()
		if a.err = a.tls.HandshakeContext(ctx); a.err == nil {
			a.held, a.err = a.listener.keeper.hold(a.tls, a.tls.ConnectionState(), x509.ExtKeyUsageClientAuth)
		}
		if a.err != nil {
			a.listener.keeper.audit(a.listener.name, a.RemoteAddr(), a.err)
			if err := a.Conn.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
				a.listener.keeper.log.Debug("close a refused connection", "error", err)
			}
		}
		a.done.Store(true)
	})
	return a.held, a.err
}

func (a *accepted) Read(b []byte) (int, error) {
	c, err := a.shake()
	if err != nil {
		return 0, err
	}
	return c.Read(b)
}

func (a *accepted) Write(b []byte) (int, error) {
	c, err := a.shake()
	if err != nil {
		return 0, err
	}
	return c.Write(b)
}

// Close ends a handshake under way.
func (a *accepted) Close() error {
	if a.done.Load() && a.held != nil {
		return a.held.Close()
	}
	return a.Conn.Close()
}
