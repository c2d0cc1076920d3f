package identity

import (
	"crypto/ecdsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"strings"

	"google.golang.org/protobuf/proto"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
)

// generation is what belongs together; it never changes.
type generation struct {
	cert   *tls.Certificate
	self   Peer
	trust  *fleetv1.Trust
	trusts *x509.CertPool
}

func pool(trust *fleetv1.Trust) (*x509.CertPool, error) {
	if len(trust.GetRoots()) == 0 {
		return nil, errors.New("trust without a root")
	}
	p := x509.NewCertPool()
	for _, der := range trust.GetRoots() {
		c, err := x509.ParseCertificate(der)
		if err != nil {
			return nil, fmt.Errorf("a trusted root: %w", err)
		}
		p.AddCert(c)
	}
	return p, nil
}

// newGeneration checks that its parts belong together; the certificate may have expired.
func newGeneration(key *ecdsa.PrivateKey, chain [][]byte, trust *fleetv1.Trust) (*generation, error) {
	if len(chain) == 0 {
		return nil, errors.New("it is missing")
	}
	leaf, err := x509.ParseCertificate(chain[0])
	if err != nil {
		return nil, err
	}
	if !key.PublicKey.Equal(leaf.PublicKey) {
		return nil, errors.New("it is for another key")
	}
	g := &generation{cert: &tls.Certificate{Certificate: chain, PrivateKey: key, Leaf: leaf}, trust: trust}
	if g.self, err = peerOf(leaf); err != nil {
		return nil, err
	}
	if g.self.Cluster != trust.GetClusterId() {
		return nil, fmt.Errorf("it is of cluster %s, and what it is trusted by of cluster %q", g.self.Cluster, trust.GetClusterId())
	}
	g.trusts, err = pool(trust)
	return g, err
}

func (g *generation) encode() ([]byte, error) {
	key, err := x509.MarshalPKCS8PrivateKey(g.cert.PrivateKey)
	if err != nil {
		return nil, fmt.Errorf("encode the identity: %w", err)
	}
	trust, err := proto.MarshalOptions{Deterministic: true}.Marshal(g.trust)
	if err != nil {
		return nil, fmt.Errorf("encode the identity: %w", err)
	}
	var out []byte
	add := func(kind string, b []byte) {
		out = append(out, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: b})...)
	}
	for _, der := range g.cert.Certificate {
		add(certBlock, der)
	}
	add(keyBlock, key)
	add(trustBlock, trust)
	return out, nil
}

func parseGeneration(data []byte) (*generation, error) {
	var chain [][]byte
	var key *ecdsa.PrivateKey
	var trust *fleetv1.Trust
	for {
		var b *pem.Block
		if b, data = pem.Decode(data); b == nil {
			break
		}
		switch b.Type {
		case certBlock:
			chain = append(chain, b.Bytes)
		case keyBlock:
			parsed, err := x509.ParsePKCS8PrivateKey(b.Bytes)
			if err != nil {
				return nil, fmt.Errorf("the private key: %w", err)
			}
			var ok bool
			if key, ok = parsed.(*ecdsa.PrivateKey); !ok {
				return nil, errors.New("the private key is not an ECDSA one")
			}
		case trustBlock:
			trust = &fleetv1.Trust{}
			if err := proto.Unmarshal(b.Bytes, trust); err != nil {
				return nil, fmt.Errorf("the trust: %w", err)
			}
		}
	}
	if len(strings.TrimSpace(string(data))) > 0 || len(chain) == 0 || key == nil || trust == nil {
		return nil, errors.New("it is damaged")
	}
	return newGeneration(key, chain, trust)
}

// parsed is nil for what is no certificate.
func parsed(der []byte) *x509.Certificate {
	c, err := x509.ParseCertificate(der)
	if err != nil {
		return nil
	}
	return c
}
