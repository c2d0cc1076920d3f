package identity

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"time"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
)

// ServerTLS is for listeners of gRPC and HTTP: a client may show a certificate, and then it must be a member's.
func (k *Keeper) ServerTLS() *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS13, SessionTicketsDisabled: true,
		GetCertificate: k.serverCertificate, ClientAuth: tls.RequestClientCert,
		VerifyConnection: func(s tls.ConnectionState) error {
			if len(s.PeerCertificates) == 0 {
				return nil
			}
			_, err := k.verify(s.PeerCertificates, x509.ExtKeyUsageClientAuth, now)
			return err
		},
	}
}

// PeerTLS is for the connections between schedulers, both ends: nobody else is let in, or talked to. A certificate may
// have expired.
func (k *Keeper) PeerTLS() *tls.Config {
	c := k.ClientTLS()
	server := k.ServerTLS()
	server.ClientAuth = tls.RequireAnyClientCert
	server.VerifyConnection = func(s tls.ConnectionState) error {
		return k.verifyScheduler(s, x509.ExtKeyUsageClientAuth, unexpired)
	}
	c.VerifyConnection = func(s tls.ConnectionState) error {
		return k.verifyScheduler(s, x509.ExtKeyUsageServerAuth, unexpired)
	}
	c.GetConfigForClient = func(*tls.ClientHelloInfo) (*tls.Config, error) { return server, nil }
	return c
}

// ClientTLS is for calls to schedulers: the other end must be one, by its role; its name doesn't matter.
func (k *Keeper) ClientTLS() *tls.Config {
	return &tls.Config{
		MinVersion:           tls.VersionTLS13,
		GetClientCertificate: k.clientCertificate,
		// Host names aren't checked, which the library can't do without; VerifyConnection checks all the rest.
		InsecureSkipVerify: true, //nolint:gosec // see above
		VerifyConnection: func(s tls.ConnectionState) error {
			return k.verifyScheduler(s, x509.ExtKeyUsageServerAuth, now)
		},
	}
}

func (k *Keeper) serverCertificate(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	if g := k.current(); g != nil {
		return g.cert, nil
	}
	return nil, ErrNone
}

func (k *Keeper) clientCertificate(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
	if g := k.current(); g != nil {
		return g.cert, nil
	}
	return nil, ErrNone
}

// now is when certificates are checked.
func now(*x509.Certificate) time.Time { return time.Now() }

// unexpired is a time at which the certificate has not expired.
func unexpired(c *x509.Certificate) time.Time {
	if at := time.Now(); at.Before(c.NotAfter) {
		return at
	}
	return c.NotAfter
}

func (k *Keeper) verifyScheduler(s tls.ConnectionState, usage x509.ExtKeyUsage, at func(*x509.Certificate) time.Time) error {
	p, err := k.verify(s.PeerCertificates, usage, at)
	if err != nil {
		return err
	}
	if p.Role != fleetv1.RoleScheduler {
		return &PeerError{p, errors.New("its certificate is not a scheduler's")}
	}
	return nil
}

// PeerError is why a peer that is known by its certificate was refused.
type PeerError struct {
	Peer Peer
	Err  error
}

func (e *PeerError) Error() string { return e.Peer.String() + ": " + e.Err.Error() }
func (e *PeerError) Unwrap() error { return e.Err }

// Errors of a peer's certificate, besides those of crypto/x509.
var (
	ErrRevoked      = errors.New("its certificate is revoked")
	ErrOtherCluster = errors.New("its certificate is of another cluster")
)

// verify checks a chain that a peer has shown against the current generation.
func (k *Keeper) verify(chain []*x509.Certificate, usage x509.ExtKeyUsage, at func(*x509.Certificate) time.Time) (Peer, error) {
	g := k.current()
	if g == nil {
		return Peer{}, ErrNone
	}
	if len(chain) == 0 {
		return Peer{}, errors.New("the peer shows no certificate")
	}
	if err := g.check(chain, usage, at(chain[0])); err != nil {
		return Peer{}, err
	}
	return peerOf(chain[0])
}

// check says why a chain is not believed, at a time.
func (g *generation) check(chain []*x509.Certificate, usage x509.ExtKeyUsage, at time.Time) error {
	if err := verifyChain(chain, g.trusts, usage, at); err != nil {
		return err
	}
	p, err := peerOf(chain[0])
	switch {
	case err != nil:
		return err
	case p.Cluster != g.self.Cluster:
		return &PeerError{p, ErrOtherCluster}
	case revoked(g.trust.GetRevocations(), p):
		return &PeerError{p, ErrRevoked}
	}
	return nil
}

func verifyChain(chain []*x509.Certificate, roots *x509.CertPool, usage x509.ExtKeyUsage, at time.Time) error {
	between := x509.NewCertPool()
	for _, c := range chain[1:] {
		between.AddCert(c)
	}
	_, err := chain[0].Verify(x509.VerifyOptions{
		Roots: roots, Intermediates: between, KeyUsages: []x509.ExtKeyUsage{usage}, CurrentTime: at,
	})
	if err != nil {
		if p, bad := peerOf(chain[0]); bad == nil {
			return &PeerError{p, err} // who it claims to be
		}
		return fmt.Errorf("the certificate of %q: %w", chain[0].Subject.CommonName, err)
	}
	return nil
}
