package identity

import (
	"context"
	"crypto/x509"
	"encoding/binary"
	"errors"
	"fmt"
	"net/url"
	"regexp"
	"strings"
	"time"

	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
)

// Peer is whom a certificate is for.
type Peer struct {
	Cluster string // ID of the cluster
	Role    string // fleetv1.RoleScheduler or fleetv1.RoleAgent
	Name    string // of the node, or the ID of the scheduler
	Serial  string // of the certificate, hexadecimal
	Issued  time.Time
}

// String is "ROLE/NAME".
func (p Peer) String() string { return p.Role + "/" + p.Name }

const scheme = "drover"

var (
	validName    = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$`)
	validCluster = regexp.MustCompile(`^[a-z0-9][a-z0-9-]{0,63}$`)
)

// CheckName says why a certificate can't have this name.
func CheckName(name string) error {
	if !validName.MatchString(name) {
		return fmt.Errorf("name %q: want 1–64 letters, digits, '.', '-' or '_', the first one a letter or digit", name)
	}
	return nil
}

func (p Peer) uri() *url.URL {
	return &url.URL{Scheme: scheme, Host: p.Cluster, Path: "/" + p.Role + "/" + p.Name}
}

// parsePeer reads the URI of a certificate.
func parsePeer(u *url.URL) (Peer, error) {
	role, name, ok := strings.Cut(strings.TrimPrefix(u.Path, "/"), "/")
	p := Peer{Cluster: u.Host, Role: role, Name: name}
	switch {
	case !ok || u.String() != p.uri().String():
		return Peer{}, fmt.Errorf("URI %q: want %s://CLUSTER/ROLE/NAME", u, scheme)
	case role != fleetv1.RoleAgent && role != fleetv1.RoleScheduler:
		return Peer{}, fmt.Errorf("URI %q: the role is neither %s nor %s", u, fleetv1.RoleAgent, fleetv1.RoleScheduler)
	case !validCluster.MatchString(p.Cluster):
		return Peer{}, fmt.Errorf("URI %q: the cluster is none", u)
	}
	return p, CheckName(name)
}

// serialBytes is the length of a serial number: the time of issue, and as much at random.
const serialBytes = 16

// peerOf reads a certificate that was checked, or is to be.
func peerOf(c *x509.Certificate) (Peer, error) {
	if len(c.URIs) != 1 {
		return Peer{}, fmt.Errorf("the certificate of %q has %d URIs, not one: it isn't a member's", c.Subject.CommonName, len(c.URIs))
	}
	p, err := parsePeer(c.URIs[0])
	if err != nil {
		return Peer{}, err
	}
	if c.SerialNumber.Sign() < 0 || c.SerialNumber.BitLen() > 8*serialBytes {
		return Peer{}, errors.New("the certificate's serial number is not a member's")
	}
	var serial [serialBytes]byte
	c.SerialNumber.FillBytes(serial[:])
	p.Serial = fmt.Sprintf("%x", serial)
	p.Issued = time.Unix(0, int64(binary.BigEndian.Uint64(serial[:8])&(1<<63-1)))
	return p, nil
}

// PeerOf is who made the gRPC call, by the certificate that the handshake has checked; ok is false when the caller
// showed none.
func PeerOf(ctx context.Context) (p Peer, ok bool) {
	from, ok := peer.FromContext(ctx)
	if !ok {
		return Peer{}, false
	}
	info, ok := from.AuthInfo.(credentials.TLSInfo)
	if !ok || len(info.State.PeerCertificates) == 0 {
		return Peer{}, false
	}
	p, err := peerOf(info.State.PeerCertificates[0])
	return p, err == nil
}

// revoked says whether a certificate is refused.
func revoked(all []*fleetv1.Revocation, p Peer) bool {
	for _, r := range all {
		if r.GetRole() == p.Role && r.GetName() == p.Name && p.Issued.UnixNano() <= r.GetUntilUnixNano() {
			return true
		}
	}
	return false
}
