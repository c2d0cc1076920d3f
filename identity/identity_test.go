package identity

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
)

const (
	cluster  = "6f1b2d8e-0000-4000-8000-000000000001"
	patience = 20 * time.Second
)

// ca is a cluster's CA, with its roots as the state would have them.
type ca struct {
	t     *testing.T
	keys  Keys
	now   *Authority
	roots []*fleetv1.Root
	trust *fleetv1.Trust
}

func newCA(t *testing.T) *ca {
	t.Helper()
	file := KeyFile(filepath.Join(t.TempDir(), "cluster.key"))
	must(t, file.Make())
	keys, err := file.Read()
	must(t, err)
	a, err := NewAuthority(cluster, time.Now())
	must(t, err)
	c := &ca{t: t, keys: keys, now: a}
	c.use(a)
	return c
}

// use makes an authority the one that issues.
func (c *ca) use(a *Authority) {
	c.t.Helper()
	root, err := a.Root(c.keys)
	must(c.t, err)
	c.now, c.roots = a, append([]*fleetv1.Root{root}, c.roots...)
	c.trusted()
}

func (c *ca) trusted() {
	c.trust = &fleetv1.Trust{ClusterId: cluster}
	for _, r := range c.roots {
		c.trust.Roots = append(c.trust.Roots, r.GetCertificate())
	}
}

// member makes a keeper with a certificate.
func (c *ca) member(role, name string) *Keeper {
	c.t.Helper()
	k, err := Open(c.t.TempDir(), slog.New(slog.DiscardHandler))
	must(c.t, err)
	c.certify(k, role, name, time.Now(), time.Hour)
	return k
}

func (c *ca) certify(k *Keeper, role, name string, issued time.Time, lifetime time.Duration) {
	c.t.Helper()
	p, err := Prepare(name, []string{"localhost", "127.0.0.1"})
	must(c.t, err)
	must(c.t, k.Adopt(p, c.issue(p, role, issued, lifetime), c.trust))
}

func (c *ca) issue(p *Pending, role string, issued time.Time, lifetime time.Duration) *fleetv1.IssuedCertificate {
	c.t.Helper()
	r, err := ParseRequest(p.CSR)
	must(c.t, err)
	cert, _, err := c.now.Issue(r, role, issued, lifetime, c.roots)
	must(c.t, err)
	return cert
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// serve answers Renew with the caller's name, as an error, and Join as given.
type service struct {
	fleetv1.UnimplementedJoinServiceServer
	join func(*fleetv1.JoinRequest) (*fleetv1.JoinResponse, error)
}

func (s *service) Renew(ctx context.Context, _ *fleetv1.RenewRequest) (*fleetv1.RenewResponse, error) {
	p, ok := PeerOf(ctx)
	if !ok {
		return nil, status.Error(codes.Unauthenticated, "no certificate")
	}
	return nil, status.Error(codes.AlreadyExists, p.String())
}

func (s *service) Join(_ context.Context, r *fleetv1.JoinRequest) (*fleetv1.JoinResponse, error) {
	return s.join(r)
}

func serve(t *testing.T, k *Keeper, s *service) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	server := grpc.NewServer(grpc.Creds(k.ServerCredentials()))
	fleetv1.RegisterJoinServiceServer(server, s)
	go server.Serve(l) // ends with Stop
	t.Cleanup(server.Stop)
	return l.Addr().String()
}

// whoami asks a server who it takes the caller for.
func whoami(t *testing.T, addr string, creds credentials.TransportCredentials) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	err := call(ctx, addr, creds, func(ctx context.Context, conn *grpc.ClientConn) error {
		_, err := fleetv1.NewJoinServiceClient(conn).Renew(ctx, &fleetv1.RenewRequest{})
		return err
	})
	return err
}

func TestMembersKnowEachOther(t *testing.T) {
	c, other := newCA(t), newCA(t)
	server := c.member(fleetv1.RoleScheduler, "s1")
	addr := serve(t, server, &service{})
	agent := c.member(fleetv1.RoleAgent, "n1")
	if err := whoami(t, addr, agent.ClientCredentials()); status.Code(err) != codes.AlreadyExists || !strings.Contains(err.Error(), "agent/n1") {
		t.Errorf("an agent: %v", err)
	}
	if err := whoami(t, addr, other.member(fleetv1.RoleAgent, "n1").ClientCredentials()); status.Code(err) != codes.Unavailable {
		t.Errorf("an agent of a wrong CA: %v", err)
	}
	roots := x509.NewCertPool()
	roots.AddCert(c.now.cert)
	if err := whoami(t, addr, credentials.NewClientTLSFromCert(roots, "localhost")); status.Code(err) != codes.Unauthenticated {
		t.Errorf("an operator, by host name: %v", err)
	}
	if err := whoami(t, addr, credentials.NewClientTLSFromCert(roots, "elsewhere")); status.Code(err) != codes.Unavailable {
		t.Errorf("an operator who meant another host: %v", err)
	}
	// An agent's certificate is none to serve with: nobody takes it for a scheduler.
	fake := serve(t, agent, &service{})
	if err := whoami(t, fake, agent.ClientCredentials()); status.Code(err) != codes.Unavailable {
		t.Errorf("an agent that poses as scheduler: %v", err)
	}
}

// peers connects two ends by PeerTLS and sends one byte.
func peers(t *testing.T, from, to *Keeper) error {
	t.Helper()
	raw, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	l := to.ListenPeers(raw, "Raft")
	defer l.Close()
	got := make(chan error, 1)
	go func() {
		c, err := l.Accept()
		if err != nil {
			got <- err
			return
		}
		defer c.Close()
		_, err = io.ReadFull(c, make([]byte, 1))
		got <- err
	}()
	c, err := from.ListenPeers(nil, "").Dial(raw.Addr().String(), patience)
	if err != nil {
		return err
	}
	defer c.Close()
	if _, err := c.Write([]byte{1}); err != nil {
		return err
	}
	return <-got
}

func TestPeers(t *testing.T) {
	c := newCA(t)
	s1, s2, agent := c.member(fleetv1.RoleScheduler, "s1"), c.member(fleetv1.RoleScheduler, "s2"), c.member(fleetv1.RoleAgent, "n1")
	if err := peers(t, s1, s2); err != nil {
		t.Errorf("two schedulers: %v", err)
	}
	if err := peers(t, agent, s1); err == nil {
		t.Error("an agent is let in")
	}
	if err := peers(t, s1, agent); err == nil {
		t.Error("an agent is taken for a scheduler")
	}
	if err := peers(t, newCA(t).member(fleetv1.RoleScheduler, "s1"), s1); err == nil {
		t.Error("a scheduler of another CA is let in")
	}
	if err := peers(t, s1, newCA(t).member(fleetv1.RoleScheduler, "s1")); err == nil {
		t.Error("a scheduler of another CA is talked to")
	}
}

func TestRevocation(t *testing.T) {
	c := newCA(t)
	server := c.member(fleetv1.RoleScheduler, "s1")
	addr := serve(t, server, &service{})
	agent := c.member(fleetv1.RoleAgent, "n1")
	conn, err := grpc.NewClient(addr, grpc.WithTransportCredentials(agent.ClientCredentials()))
	must(t, err)
	defer conn.Close()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	ask := func() error {
		_, err := fleetv1.NewJoinServiceClient(conn).Renew(ctx, &fleetv1.RenewRequest{})
		return err
	}
	if err := ask(); status.Code(err) != codes.AlreadyExists {
		t.Fatal(err)
	}
	now := time.Now()
	trust := proto.CloneOf(c.trust)
	trust.Revocations = []*fleetv1.Revocation{{Role: fleetv1.RoleAgent, Name: "n1", UntilUnixNano: now.UnixNano()}}
	must(t, server.SetTrust(trust))
	if err := ask(); status.Code(err) != codes.Unavailable {
		t.Errorf("the living connection goes on: %v", err)
	}
	if err := whoami(t, addr, agent.ClientCredentials()); status.Code(err) != codes.Unavailable {
		t.Errorf("a revoked certificate is let in: %v", err)
	}
	if err := whoami(t, addr, c.member(fleetv1.RoleAgent, "n2").ClientCredentials()); status.Code(err) != codes.AlreadyExists {
		t.Errorf("another node is shut out: %v", err)
	}
	c.certify(agent, fleetv1.RoleAgent, "n1", now.Add(1), time.Hour)
	if err := whoami(t, addr, agent.ClientCredentials()); status.Code(err) != codes.AlreadyExists {
		t.Errorf("a certificate that was issued later is refused: %v", err)
	}
}

func TestExpired(t *testing.T) {
	c := newCA(t)
	addr := serve(t, c.member(fleetv1.RoleScheduler, "s1"), &service{})
	agent := c.member(fleetv1.RoleAgent, "n1")
	c.certify(agent, fleetv1.RoleAgent, "n1", time.Now().Add(-time.Hour), time.Minute)
	if err := whoami(t, addr, agent.ClientCredentials()); status.Code(err) != codes.Unavailable {
		t.Errorf("it is let in: %v", err)
	}
	s1, s2 := c.member(fleetv1.RoleScheduler, "s1"), c.member(fleetv1.RoleScheduler, "s2")
	c.certify(s1, fleetv1.RoleScheduler, "s1", time.Now().Add(-3*time.Minute), time.Minute)
	if err := errors.Join(peers(t, s1, s2), peers(t, s2, s1)); err != nil {
		t.Errorf("schedulers among themselves: %v", err)
	}
	if err := whoami(t, serve(t, s2, &service{}), s1.ClientCredentials()); status.Code(err) != codes.Unavailable {
		t.Errorf("a scheduler elsewhere: %v", err)
	}
}

// A new root issues at once: who knows only the old one is led to it, until the old one is dropped.
func TestNewRoot(t *testing.T) {
	c := newCA(t)
	server, agent := c.member(fleetv1.RoleScheduler, "s1"), c.member(fleetv1.RoleAgent, "n1")
	addr := serve(t, server, &service{})
	old := x509.NewCertPool()
	old.AddCert(c.now.cert)
	oldDigest := c.now.cert.Raw

	next, err := c.now.Successor(time.Now())
	must(t, err)
	c.use(next)
	c.certify(server, fleetv1.RoleScheduler, "s1", time.Now(), time.Hour)
	if err := whoami(t, addr, agent.ClientCredentials()); status.Code(err) != codes.AlreadyExists {
		t.Errorf("an agent that knows the old root only: %v", err)
	}
	if err := whoami(t, addr, credentials.NewClientTLSFromCert(old, "localhost")); status.Code(err) != codes.Unauthenticated {
		t.Errorf("an operator with the old CA file: %v", err)
	}
	if err := whoami(t, addr, credentials.NewTLS(pinned(digest(oldDigest)))); status.Code(err) != codes.Unauthenticated {
		t.Errorf("a join token of before: %v", err)
	}
	if err := whoami(t, addr, credentials.NewTLS(pinned(digest(next.cert.Raw)))); status.Code(err) != codes.Unauthenticated {
		t.Errorf("a join token of now: %v", err)
	}
	must(t, agent.SetTrust(c.trust))
	c.roots = c.roots[:1]
	c.trusted()
	must(t, server.SetTrust(c.trust))
	if err := whoami(t, addr, agent.ClientCredentials()); status.Code(err) != codes.Unavailable {
		t.Errorf("a certificate of the dropped root is let in: %v", err)
	}
	c.certify(agent, fleetv1.RoleAgent, "n1", time.Now(), time.Hour)
	if err := whoami(t, addr, agent.ClientCredentials()); status.Code(err) != codes.AlreadyExists {
		t.Errorf("a certificate of the new root: %v", err)
	}
}

func TestAuthorityIsSealed(t *testing.T) {
	c := newCA(t)
	root := c.roots[0]
	if _, err := OpenAuthority(cluster, root, c.keys); err != nil {
		t.Fatal(err)
	}
	other := newCA(t)
	if _, err := OpenAuthority(cluster, root, other.keys); err == nil || !strings.Contains(err.Error(), "does not hold the key "+c.keys.ID()) {
		t.Errorf("with another key file: %v", err)
	}
	for name, spoil := range map[string]func(*fleetv1.Root){
		"ciphertext":  func(r *fleetv1.Root) { r.Key.Ciphertext[3] ^= 1 },
		"nonce":       func(r *fleetv1.Root) { r.Key.Nonce = r.Key.Nonce[1:] },
		"certificate": func(r *fleetv1.Root) { r.Certificate = other.roots[0].Certificate },
	} {
		r := proto.CloneOf(root)
		spoil(r)
		if _, err := OpenAuthority(cluster, r, c.keys); err == nil {
			t.Errorf("a changed %s isn't noticed", name)
		}
	}
}

func TestKeeperKeeps(t *testing.T) {
	c := newCA(t)
	dir := t.TempDir()
	k, err := Open(dir, slog.New(slog.DiscardHandler))
	must(t, err)
	if _, ok := k.Self(); ok || k.SetTrust(c.trust) == nil {
		t.Error("an empty keeper has an identity")
	}
	c.certify(k, fleetv1.RoleScheduler, "s1", time.Now(), time.Hour)
	again, err := Open(dir, slog.New(slog.DiscardHandler))
	must(t, err)
	self, ok := again.Self()
	if want, _ := k.Self(); !ok || self != want || !again.Expires().Equal(k.Expires()) || !proto.Equal(again.Trust(), c.trust) {
		t.Errorf("read again: %v, %v", self, again.Trust())
	}
	if !again.Hosts([]string{"127.0.0.1", "localhost"}) || again.Hosts([]string{"localhost"}) {
		t.Error("its hosts are not those asked for")
	}
	for _, file := range []string{memberFile, CAFile} {
		if info, err := os.Stat(filepath.Join(dir, file)); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v, %v", file, info.Mode(), err)
		}
	}
	data, err := os.ReadFile(filepath.Join(dir, memberFile))
	must(t, err)
	must(t, os.WriteFile(filepath.Join(dir, memberFile), data[:len(data)/2], 0o600))
	if _, err := Open(dir, slog.New(slog.DiscardHandler)); err == nil || !strings.Contains(err.Error(), memberFile) {
		t.Errorf("a damaged file: %v", err)
	}
	p, err := Prepare("s2", nil)
	must(t, err)
	if err := k.Adopt(p, c.issue(p, fleetv1.RoleScheduler, time.Now(), time.Hour), c.trust); err == nil {
		t.Error("it becomes another member")
	}
}

func TestJoin(t *testing.T) {
	c := newCA(t)
	tries := 0
	s := &service{join: func(r *fleetv1.JoinRequest) (*fleetv1.JoinResponse, error) {
		if tries++; tries == 1 {
			return nil, status.Error(codes.Unavailable, "no leader yet")
		}
		if r.GetSecret() != "secret" {
			return nil, status.Error(codes.Unauthenticated, "unknown token")
		}
		req, err := ParseRequest(r.GetCsr())
		if err != nil {
			return nil, err
		}
		cert, _, err := c.now.Issue(req, r.GetRole(), time.Now(), time.Hour, c.roots)
		return &fleetv1.JoinResponse{Certificate: cert, Trust: c.trust, KeyId: "k"}, err
	}}
	addr := serve(t, c.member(fleetv1.RoleScheduler, "s1"), s)
	k, err := Open(t.TempDir(), slog.New(slog.DiscardHandler))
	must(t, err)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	file := JoinFile{Schedulers: []string{addr}, Token: Token{CA: digest(c.now.cert.Raw), Secret: "guess"}}
	if err := k.Join(ctx, file, fleetv1.RoleAgent, "n1", nil, nil); status.Code(errors.Unwrap(errors.Unwrap(err))) != codes.Unauthenticated {
		t.Errorf("with a wrong secret: %v", err)
	}
	key, err := os.ReadFile(filepath.Join(k.dir, joinKeyFile))
	must(t, err)
	file.Token.Secret = "secret"
	must(t, k.Join(ctx, file, fleetv1.RoleAgent, "n1", nil, nil))
	if self, _ := k.Self(); self.String() != "agent/n1" || k.Trust().GetSchedulers()[0] != addr {
		t.Errorf("joined as %v, %v", self, k.Trust())
	}
	member, err := os.ReadFile(filepath.Join(k.dir, memberFile))
	must(t, err)
	if !strings.Contains(string(member), string(key)) {
		t.Error("the key of the first try wasn't used")
	}
	// A server of another CA hears nothing.
	other := newCA(t)
	heard := false
	addr = serve(t, other.member(fleetv1.RoleScheduler, "s1"), &service{join: func(*fleetv1.JoinRequest) (*fleetv1.JoinResponse, error) {
		heard = true
		return nil, status.Error(codes.PermissionDenied, "")
	}})
	short, cancelShort := context.WithTimeout(ctx, 500*time.Millisecond)
	defer cancelShort()
	file.Schedulers = []string{addr}
	if err := k.Join(short, file, fleetv1.RoleAgent, "n1", nil, nil); err == nil || heard {
		t.Errorf("a scheduler of another CA: %v, the secret was sent: %v", err, heard)
	}
}

func TestRenewsItself(t *testing.T) {
	c := newCA(t)
	k := c.member(fleetv1.RoleAgent, "n1")
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	asked := make(chan *Pending)
	go k.Run(ctx, nil, func(ctx context.Context, p *Pending) (*fleetv1.IssuedCertificate, *fleetv1.Trust, error) {
		select {
		case asked <- p:
		case <-ctx.Done():
			return nil, nil, ctx.Err()
		}
		return c.issue(p, fleetv1.RoleAgent, time.Now(), time.Hour), c.trust, nil
	})
	await := func(why string) {
		t.Helper()
		changed := k.Changed()
		select {
		case <-asked:
		case <-ctx.Done():
			t.Fatalf("it doesn't renew: %s", why)
		}
		select {
		case <-changed:
		case <-ctx.Done():
			t.Fatalf("it didn't take the new certificate: %s", why)
		}
	}
	before, _ := k.Self()
	c.certify(k, fleetv1.RoleAgent, "n1", time.Now().Add(-50*time.Minute), time.Hour)
	await("two thirds are over")
	if after, _ := k.Self(); !after.Issued.After(before.Issued) {
		t.Errorf("issued %v, then %v", before.Issued, after.Issued)
	}
	next, err := c.now.Successor(time.Now())
	must(t, err)
	c.use(next)
	must(t, k.SetTrust(c.trust))
	await("there is a new root")
	if g := k.current(); g.cert.Leaf.CheckSignatureFrom(next.cert) != nil {
		t.Error("it isn't of the new root")
	}
}

func digest(b []byte) [sha256.Size]byte { return sha256.Sum256(b) }
