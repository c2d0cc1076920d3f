package identity

import (
	"bytes"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
)

// Files of a Keeper's directory.
const (
	CAFile     = "ca.pem"       // the trusted roots, for operators and look-up clients
	memberFile = "identity.pem" // the generation
	keyBlock   = "PRIVATE KEY"
	certBlock  = "CERTIFICATE"
	trustBlock = "DROVER TRUST" // fleetv1.Trust
)

// ErrNone means that there is no certificate yet.
var ErrNone = errors.New("this member has no certificate yet")

// Keeper holds the identity of this process. Its methods may be called from any goroutine.
type Keeper struct {
	dir string
	log *slog.Logger

	saving sync.Mutex // one change at a time

	mu      sync.RWMutex
	now     *generation // nil without a certificate
	conns   map[*conn]struct{}
	changed chan struct{} // closed by a change
}

// Exists says whether a directory holds the identity of a member.
func Exists(dir string) bool {
	_, err := os.Stat(filepath.Join(dir, memberFile))
	return err == nil
}

// Open reads what the directory holds, and makes it when there is none.
func Open(dir string, log *slog.Logger) (*Keeper, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("open the identity: %w", err)
	}
	k := &Keeper{dir: dir, log: log, conns: map[*conn]struct{}{}, changed: make(chan struct{})}
	path := filepath.Join(dir, memberFile)
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return k, nil
	}
	if err != nil {
		return nil, fmt.Errorf("open the identity: %w", err)
	}
	if k.now, err = parseGeneration(data); err != nil {
		return nil, fmt.Errorf("%s: %w; restore it, or remove it and join again", path, err)
	}
	return k, nil
}

// CAPath is the file with the trusted roots; it exists once there is a certificate.
func (k *Keeper) CAPath() string { return filepath.Join(k.dir, CAFile) }

func (k *Keeper) current() *generation {
	k.mu.RLock()
	defer k.mu.RUnlock()
	return k.now
}

// Self is whom this process's certificate is for; ok is false when it has none.
func (k *Keeper) Self() (p Peer, ok bool) {
	if g := k.current(); g != nil {
		return g.self, true
	}
	return Peer{}, false
}

// Expires is when the certificate does; zero without one.
func (k *Keeper) Expires() time.Time {
	if g := k.current(); g != nil {
		return g.cert.Leaf.NotAfter
	}
	return time.Time{}
}

// Trust is whom this process believes; nil without a certificate. It must not be written to.
func (k *Keeper) Trust() *fleetv1.Trust {
	if g := k.current(); g != nil {
		return g.trust
	}
	return nil
}

// Changed is closed when certificate or trust next change.
func (k *Keeper) Changed() <-chan struct{} {
	k.mu.RLock()
	defer k.mu.RUnlock()
	return k.changed
}

// Hosts says whether the certificate has exactly these names and addresses.
func (k *Keeper) Hosts(want []string) bool {
	g := k.current()
	if g == nil {
		return false
	}
	have := slices.Clone(g.cert.Leaf.DNSNames)
	for _, ip := range g.cert.Leaf.IPAddresses {
		have = append(have, ip.String())
	}
	want = slices.Clone(want)
	slices.Sort(have)
	slices.Sort(want)
	return slices.Equal(have, want)
}

// Adopt makes the certificate of a pending key this process's own, durably.
func (k *Keeper) Adopt(p *Pending, issued *fleetv1.IssuedCertificate, trust *fleetv1.Trust) error {
	return k.adopt(p, issued, trust, false)
}

// Move is Adopt for a member whose cluster has become another one, because it was restored from a backup.
func (k *Keeper) Move(p *Pending, issued *fleetv1.IssuedCertificate, trust *fleetv1.Trust) error {
	return k.adopt(p, issued, trust, true)
}

func (k *Keeper) adopt(p *Pending, issued *fleetv1.IssuedCertificate, trust *fleetv1.Trust, moves bool) error {
	k.saving.Lock()
	defer k.saving.Unlock()
	g, err := newGeneration(p.key, issued.GetChain(), trust)
	if err != nil {
		return fmt.Errorf("the issued certificate: %w", err)
	}
	if self, ok := k.Self(); ok && (self.Cluster != g.self.Cluster && !moves || self.String() != g.self.String()) {
		return fmt.Errorf("the issued certificate is for %s of cluster %s, this is %s of cluster %s", g.self, g.self.Cluster, self, self.Cluster)
	}
	return k.save(g)
}

// SetTrust replaces whom this process believes, durably, and ends the connections whose peers it no longer
// believes.
func (k *Keeper) SetTrust(trust *fleetv1.Trust) error {
	k.saving.Lock()
	defer k.saving.Unlock()
	g := k.current()
	if g == nil {
		return ErrNone
	}
	if trust.GetClusterId() != g.self.Cluster {
		return fmt.Errorf("trust of cluster %q: this is a member of cluster %s", trust.GetClusterId(), g.self.Cluster)
	}
	if len(trust.GetSchedulers()) == 0 && len(g.trust.GetSchedulers()) > 0 {
		trust = proto.CloneOf(trust)
		trust.Schedulers = g.trust.GetSchedulers()
	}
	if proto.Equal(trust, g.trust) {
		return nil
	}
	next := &generation{cert: g.cert, self: g.self, trust: trust}
	var err error
	if next.trusts, err = pool(trust); err != nil {
		return err
	}
	return k.save(next)
}

// save is for who holds saving.
func (k *Keeper) save(g *generation) error {
	data, err := g.encode()
	if err != nil {
		return err
	}
	if err := WriteFile(filepath.Join(k.dir, memberFile), data); err != nil {
		return fmt.Errorf("save the identity: %w", err)
	}
	var roots []byte
	for _, der := range g.trust.GetRoots() {
		roots = append(roots, pem.EncodeToMemory(&pem.Block{Type: certBlock, Bytes: der})...)
	}
	if err := WriteFile(k.CAPath(), roots); err != nil {
		return fmt.Errorf("save the identity: %w", err)
	}
	k.mu.Lock()
	before := k.now
	k.now = g
	close(k.changed)
	k.changed = make(chan struct{})
	open := slices.Collect(maps.Keys(k.conns)) // later ones are checked against g
	k.mu.Unlock()
	if before != nil {
		k.recheck(open, before, g)
	}
	return nil
}

// recheck ends the connections whose peers are no longer believed. There may be as many as there are nodes: signatures
// are checked only when a root was dropped.
func (k *Keeper) recheck(open []*conn, before, now *generation) {
	dropped := slices.ContainsFunc(before.trust.GetRoots(), func(der []byte) bool {
		return !slices.ContainsFunc(now.trust.GetRoots(), func(other []byte) bool { return bytes.Equal(der, other) })
	})
	for _, c := range open {
		var err error
		switch {
		case revoked(now.trust.GetRevocations(), c.peer):
			err = ErrRevoked
		case dropped:
			err = now.check(c.chain, c.usage, c.since)
		}
		if err == nil {
			continue
		}
		k.log.Warn("a connection ends: its peer is no longer believed", "audit", "refused", "who", c.peer.String(), "from", c.RemoteAddr().String(), "error", err)
		if err := c.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
			k.log.Debug("close a connection", "error", err)
		}
	}
}
