package identity

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"math/big"
	"net/url"
	"time"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
)

const (
	rootLifetime = 10 * 365 * 24 * time.Hour
	// clockSkew is how far a member's clock may be behind that of who signs.
	clockSkew = 5 * time.Minute
)

// Authority is a root of the cluster with its key: it signs.
type Authority struct {
	cluster string
	cert    *x509.Certificate
	cross   []byte // DER; nil for the first root
	key     *ecdsa.PrivateKey
}

// NewAuthority makes the first root of a cluster.
func NewAuthority(cluster string, now time.Time) (*Authority, error) {
	if !validCluster.MatchString(cluster) {
		return nil, fmt.Errorf("make a CA: cluster ID %q is none", cluster)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make a CA: %w", err)
	}
	public, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		return nil, fmt.Errorf("make a CA: %w", err)
	}
	id := sha256.Sum256(public)
	template := &x509.Certificate{
		SerialNumber: newSerial(now), Subject: pkix.Name{CommonName: "Drover CA " + hex.EncodeToString(id[:4]), Organization: []string{cluster}},
		NotBefore: now.Add(-clockSkew), NotAfter: now.Add(rootLifetime),
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign, IsCA: true, BasicConstraintsValid: true, MaxPathLen: 1,
		SubjectKeyId: id[:20],
	}
	cert, err := sign(template, template, key, key)
	if err != nil {
		return nil, fmt.Errorf("make a CA: %w", err)
	}
	return &Authority{cluster: cluster, cert: cert, key: key}, nil
}

// Successor makes the next root, which this one signs as well.
func (a *Authority) Successor(now time.Time) (*Authority, error) {
	next, err := NewAuthority(a.cluster, now)
	if err != nil {
		return nil, err
	}
	template := *next.cert
	template.MaxPathLen, template.MaxPathLenZero = 0, true
	template.NotAfter = a.cert.NotAfter
	cross, err := sign(&template, a.cert, next.key, a.key)
	if err != nil {
		return nil, fmt.Errorf("sign the next CA: %w", err)
	}
	next.cross = cross.Raw
	return next, nil
}

func sign(template, parent *x509.Certificate, of, by *ecdsa.PrivateKey) (*x509.Certificate, error) {
	der, err := x509.CreateCertificate(rand.Reader, template, parent, of.Public(), by)
	if err != nil {
		return nil, err
	}
	return x509.ParseCertificate(der)
}

func newSerial(issued time.Time) *big.Int {
	var b [serialBytes]byte
	rand.Read(b[8:]) // never fails
	binary.BigEndian.PutUint64(b[:8], uint64(issued.UnixNano()))
	return new(big.Int).SetBytes(b[:])
}

// about binds a sealed key to the root that it is of.
func about(certificate []byte) string { return "key of CA " + RootID(certificate) }

// RootID names a root: the SHA-256 of its certificate, hexadecimal.
func RootID(certificate []byte) string {
	sum := sha256.Sum256(certificate)
	return hex.EncodeToString(sum[:])
}

// Root is how the state keeps it.
func (a *Authority) Root(keys Keys) (*fleetv1.Root, error) {
	der, err := x509.MarshalPKCS8PrivateKey(a.key)
	if err != nil {
		return nil, fmt.Errorf("encode the CA's key: %w", err)
	}
	sealed, err := keys.Seal(der, about(a.cert.Raw))
	if err != nil {
		return nil, err
	}
	return &fleetv1.Root{Certificate: a.cert.Raw, Cross: a.cross, Key: sealed}, nil
}

// OpenAuthority is the authority of a root that the state keeps.
func OpenAuthority(cluster string, root *fleetv1.Root, keys Keys) (*Authority, error) {
	cert, err := x509.ParseCertificate(root.GetCertificate())
	if err != nil {
		return nil, fmt.Errorf("the CA's certificate: %w", err)
	}
	der, err := keys.Open(root.GetKey(), about(cert.Raw))
	if err != nil {
		return nil, err
	}
	parsed, err := x509.ParsePKCS8PrivateKey(der)
	if err != nil {
		return nil, fmt.Errorf("the CA's key: %w", err)
	}
	key, ok := parsed.(*ecdsa.PrivateKey)
	if !ok || !key.PublicKey.Equal(cert.PublicKey) {
		return nil, errors.New("the CA's key is not that of its certificate")
	}
	return &Authority{cluster: cluster, cert: cert, cross: root.GetCross(), key: key}, nil
}

// Request is a certificate signing request that was checked: whoever sent it has the key.
type Request struct {
	Name string // that the caller wants
	csr  *x509.CertificateRequest
}

// ParseRequest checks a PKCS #10 request in DER.
func ParseRequest(der []byte) (Request, error) {
	csr, err := x509.ParseCertificateRequest(der)
	if err != nil {
		return Request{}, fmt.Errorf("certificate signing request: %w", err)
	}
	if err := csr.CheckSignature(); err != nil {
		return Request{}, fmt.Errorf("certificate signing request: %w", err)
	}
	if key, ok := csr.PublicKey.(*ecdsa.PublicKey); !ok || key.Curve != elliptic.P256() {
		return Request{}, errors.New("certificate signing request: the key is not ECDSA P-256")
	}
	return Request{Name: csr.Subject.CommonName, csr: csr}, CheckName(csr.Subject.CommonName)
}

// PublicKey is the SHA-256 of the key that the certificate is to be for.
func (r Request) PublicKey() []byte {
	sum := sha256.Sum256(r.csr.RawSubjectPublicKeyInfo)
	return sum[:]
}

// Issue signs a certificate for the role under the request's name. The result's chain leads to every root of the
// cluster; of it the first is the certificate. issued must be later than any revocation of the name.
func (a *Authority) Issue(r Request, role string, issued time.Time, lifetime time.Duration, roots []*fleetv1.Root) (*fleetv1.IssuedCertificate, Peer, error) {
	who := Peer{Cluster: a.cluster, Role: role, Name: r.Name}
	until := issued.Add(lifetime)
	if until.After(a.cert.NotAfter) {
		until = a.cert.NotAfter
	}
	template := &x509.Certificate{
		SerialNumber: newSerial(issued), Subject: pkix.Name{CommonName: r.Name, Organization: []string{role}},
		NotBefore: issued.Add(-clockSkew), NotAfter: until, URIs: []*url.URL{who.uri()},
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}, BasicConstraintsValid: true,
	}
	if role == fleetv1.RoleScheduler {
		template.ExtKeyUsage = append(template.ExtKeyUsage, x509.ExtKeyUsageServerAuth)
		template.DNSNames, template.IPAddresses = r.csr.DNSNames, r.csr.IPAddresses
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, r.csr.PublicKey, a.key)
	if err != nil {
		return nil, Peer{}, fmt.Errorf("sign the certificate of %s: %w", who, err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, Peer{}, fmt.Errorf("sign the certificate of %s: %w", who, err)
	}
	chain := [][]byte{der}
	if len(a.cross) > 0 {
		chain = append(chain, a.cross)
	}
	for _, root := range roots {
		chain = append(chain, root.GetCertificate())
	}
	if who, err = peerOf(cert); err != nil {
		return nil, Peer{}, fmt.Errorf("sign a certificate: %w", err)
	}
	return &fleetv1.IssuedCertificate{Chain: chain}, who, nil
}
