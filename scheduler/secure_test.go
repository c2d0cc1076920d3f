package scheduler_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/drover-fleet/drover/client"
	"github.com/drover-fleet/drover/identity"
	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
	"github.com/drover-fleet/drover/scheduler"
)

// book keeps what a scheduler logs.
type book struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (b *book) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

// line is a line with all the words, or "".
func (b *book) line(words ...string) string {
	b.mu.Lock()
	defer b.mu.Unlock()
next:
	for line := range strings.Lines(b.text.String()) {
		for _, w := range words {
			if !strings.Contains(line, w) {
				continue next
			}
		}
		return line
	}
	return ""
}

// secured is a scheduler with TLS in this process, and an operator's client of it.
type secured struct {
	*scheduler.Server
	t      *testing.T
	log    *book
	client *client.Client
	stop   func()
}

func secureConfig(dir string) scheduler.Config {
	cfg := testConfig(dir)
	cfg.Insecure, cfg.LeaseDuration = false, 2*time.Second
	return cfg
}

func runSecure(t *testing.T, cfg scheduler.Config) *secured {
	t.Helper()
	s := &secured{t: t, log: &book{}}
	var err error
	if s.Server, err = scheduler.New(cfg, slog.New(slog.NewTextHandler(s.log, nil))); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	var once sync.Once
	s.stop = func() {
		once.Do(func() {
			if s.client != nil {
				s.client.Close()
			}
			cancel()
			if err := <-ended; err != nil {
				t.Errorf("Run: %v", err)
			}
			if t.Failed() {
				t.Logf("the scheduler's log:\n%s", s.log.text.String())
			}
		})
	}
	t.Cleanup(s.stop)
	select {
	case <-s.Ready():
	case <-time.After(patience):
		t.Fatalf("the scheduler does not become ready:\n%s", s.log.text.String())
	}
	s.client, err = client.Dial(client.Config{Addr: s.GRPCAddr(), TokenFile: filepath.Join(cfg.DataDir, scheduler.AdminTokenFile), CAFile: s.CAPath()})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func (s *secured) context() context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	s.t.Cleanup(cancel)
	return ctx
}

func (s *secured) must(err error) {
	s.t.Helper()
	if err != nil {
		s.t.Fatal(err)
	}
}

// audited waits for a line of the audit with all the words; the other end may hear first.
func (s *secured) audited(words ...string) {
	s.t.Helper()
	s.within("a line of the audit with "+strings.Join(words, ", "), func() bool {
		return s.log.line(append(words, "audit=refused", "from=127.0.0.1:")...) != ""
	})
}

func (s *secured) within(what string, done func() bool) {
	s.t.Helper()
	deadline := time.Now().Add(patience)
	for !done() {
		if time.Now().After(deadline) {
			s.t.Fatalf("not within %v: %s", patience, what)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// joinFile makes a token, and answers what its file says.
func (s *secured) joinFile(req *fleetv1.CreateJoinTokenRequest) identity.JoinFile {
	s.t.Helper()
	resp, err := s.client.Identity.CreateJoinToken(s.context(), req)
	s.must(err)
	token, err := identity.ParseToken(resp.GetSecret())
	s.must(err)
	return identity.JoinFile{Schedulers: resp.GetSchedulers(), Token: token}
}

// empty is an identity without a certificate.
func (s *secured) empty() *identity.Keeper {
	s.t.Helper()
	k, err := identity.Open(s.t.TempDir(), slog.New(slog.DiscardHandler))
	s.must(err)
	return k
}

func (s *secured) join(k *identity.Keeper, file identity.JoinFile, role, name string) error {
	return k.Join(s.context(), file, role, name, nil, nil)
}

// member is an identity with a certificate of this cluster.
func (s *secured) member(role, name string) *identity.Keeper {
	s.t.Helper()
	k := s.empty()
	s.must(s.join(k, s.joinFile(&fleetv1.CreateJoinTokenRequest{Role: role, Node: name}), role, name))
	return k
}

func (s *secured) dial(k *identity.Keeper) *grpc.ClientConn {
	s.t.Helper()
	conn, err := grpc.NewClient("passthrough:///"+s.GRPCAddr(), grpc.WithTransportCredentials(k.ClientCredentials()))
	s.must(err)
	s.t.Cleanup(func() { conn.Close() })
	return conn
}

type sessionStream = grpc.BidiStreamingClient[fleetv1.SessionRequest, fleetv1.SessionResponse]

// session says hello for a node and answers the first message.
func (s *secured) session(conn *grpc.ClientConn, node string) (sessionStream, error) {
	stream, err := fleetv1.NewAgentServiceClient(conn).Session(s.context())
	if err != nil {
		return nil, err
	}
	err = stream.Send(&fleetv1.SessionRequest{Message: &fleetv1.SessionRequest_Hello{Hello: &fleetv1.Hello{NodeName: node, Facts: facts()}}})
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	_, err = stream.Recv()
	return stream, err
}

func TestSecureClusterServes(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := runSecure(t, secureConfig(dir))
	if _, err := s.client.Nodes.ListNodes(s.context(), &fleetv1.ListNodesRequest{}); err != nil {
		t.Fatalf("an operator with token and CA file: %v", err)
	}
	agent := s.member(fleetv1.RoleAgent, "n1")
	stream, err := s.session(s.dial(agent), "n1")
	if err != nil {
		t.Fatalf("an agent: %v", err)
	}
	for {
		m, err := stream.Recv()
		s.must(err)
		if trust := m.GetTrust(); trust != nil {
			s.must(agent.SetTrust(trust))
			break
		}
	}
	hc, err := client.NewHTTPClient(s.CAPath())
	s.must(err)
	resp, err := hc.Get("https://" + s.HTTPAddr() + "/healthz")
	if err != nil || resp.StatusCode != 200 {
		t.Errorf("HTTP: %v, %v", resp, err)
	} else {
		resp.Body.Close()
	}
	list, err := s.client.Identity.ListCertificates(s.context(), &fleetv1.ListCertificatesRequest{})
	if err != nil || len(list.GetCertificates()) != 2 || len(list.GetRoots()) != 1 {
		t.Errorf("certificates: %v, %v", list, err)
	}
	for _, file := range []string{"cluster.key", "identity/identity.pem", "identity/ca.pem"} {
		if info, err := os.Stat(filepath.Join(dir, file)); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v, %v", file, info, err)
		}
	}
	// The CA's key is on no disk in the clear.
	s.stop()
	err = filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() || d.Name() == "identity.pem" {
			return err
		}
		data, err := os.ReadFile(path)
		if bytes.Contains(data, []byte("PRIVATE KEY")) || bytes.Contains(data, ecdsaKeyBegin) {
			t.Errorf("%s holds a private key", path)
		}
		return err
	})
	s.must(err)
	again := runSecure(t, secureConfig(dir))
	if after, err := again.client.Identity.ListCertificates(again.context(), &fleetv1.ListCertificatesRequest{}); err != nil || len(after.GetCertificates()) != 2 || after.GetRoots()[0] != list.GetRoots()[0] {
		t.Errorf("after a restart: %v, %v", after, err)
	}
}

// ecdsaKeyBegin is in every unencrypted PKCS #8 key of the curve P-256: version, algorithm and curve.
var ecdsaKeyBegin = []byte{0x02, 0x01, 0x00, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01}

// A cluster that ran without TLS gets a CA when it first runs with it.
func TestClusterFromBefore(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	before := run(t, dir)
	status, err := fleetv1.NewClusterServiceClient(before.conn).GetClusterStatus(before.admin(), &fleetv1.GetClusterStatusRequest{})
	if err != nil {
		t.Fatal(err)
	}
	_, err = fleetv1.NewIdentityServiceClient(before.conn).CreateJoinToken(before.admin(), &fleetv1.CreateJoinTokenRequest{})
	if err == nil || !strings.Contains(err.Error(), "insecure") {
		t.Errorf("a join token without TLS: %v", err)
	}
	before.stop()
	s := runSecure(t, secureConfig(dir))
	after, err := s.client.Cluster.GetClusterStatus(s.context(), &fleetv1.GetClusterStatusRequest{})
	if err != nil || after.GetClusterId() != status.GetClusterId() {
		t.Errorf("%v, %v", after, err)
	}
	self, _ := s.member(fleetv1.RoleAgent, "n1").Self()
	if self.Cluster != status.GetClusterId() {
		t.Errorf("certificates of cluster %s", self.Cluster)
	}
}

func TestAttackPlainTCP(t *testing.T) {
	t.Parallel()
	s := runSecure(t, secureConfig(t.TempDir()))
	for port, addr := range map[string]string{"gRPC": s.GRPCAddr(), "HTTP": s.HTTPAddr(), "Raft": s.RaftAddr()} {
		conn, err := net.DialTimeout("tcp", addr, patience)
		s.must(err)
		t.Cleanup(func() { conn.Close() })
		s.must(conn.SetDeadline(time.Now().Add(patience)))
		_, err = conn.Write([]byte("GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n"))
		s.must(err)
		answer, err := io.ReadAll(conn)
		if err != nil && !errors.Is(err, net.ErrClosed) && !strings.Contains(err.Error(), "reset") {
			t.Errorf("%s: the connection isn't closed: %v", port, err)
		}
		if bytes.Contains(answer, []byte("drover_")) {
			t.Errorf("%s answers %q", port, answer)
		}
		if port == "HTTP" {
			s.within("HTTP tells of it", func() bool { return s.log.line("port=HTTP", "TLS handshake error from 127.0.0.1:") != "" })
			continue
		}
		s.audited("port=" + port)
	}
}

func TestAttackWrongCA(t *testing.T) {
	t.Parallel()
	s, other := runSecure(t, secureConfig(t.TempDir())), runSecure(t, secureConfig(t.TempDir()))
	stranger := other.member(fleetv1.RoleAgent, "n1")
	// It believes this cluster, which is more than an attacker needs.
	conn, err := grpc.NewClient("passthrough:///"+s.GRPCAddr(), grpc.WithTransportCredentials(believing(t, stranger, s.CAPath())))
	s.must(err)
	defer conn.Close()
	if _, err := s.session(conn, "n1"); status.Code(err) != codes.Unavailable {
		t.Errorf("an agent of another cluster: %v", err)
	}
	s.audited("who=agent/n1", "unknown authority", "port=gRPC")
	if _, err := s.session(s.dial(stranger), "n1"); status.Code(err) != codes.Unavailable || !strings.Contains(err.Error(), "unknown authority") {
		t.Errorf("an agent of another cluster takes this for its own: %v", err)
	}
	if _, err := stranger.ListenPeers(nil, "").Dial(s.RaftAddr(), patience); err == nil {
		t.Error("a stranger talks to Raft")
	}
}

func TestAttackAgentElsewhere(t *testing.T) {
	t.Parallel()
	s := runSecure(t, secureConfig(t.TempDir()))
	agent := s.member(fleetv1.RoleAgent, "n1")
	conn := s.dial(agent)
	if _, err := fleetv1.NewNodeServiceClient(conn).ListNodes(s.context(), &fleetv1.ListNodesRequest{}); status.Code(err) != codes.PermissionDenied {
		t.Errorf("the operators' API: %v", err)
	}
	s.audited("who=agent/n1", "method=/fleet.v1.NodeService/ListNodes")
	if _, err := s.session(conn, "n2"); status.Code(err) != codes.PermissionDenied {
		t.Errorf("a session of another node: %v", err)
	}
	s.audited("who=agent/n1", "node=n2")
	// TLS 1.3 lets a client go ahead before it is refused.
	if raft, err := agent.ListenPeers(nil, "").Dial(s.RaftAddr(), patience); err == nil {
		s.must(raft.SetDeadline(time.Now().Add(patience)))
		if _, err := raft.Read(make([]byte, 1)); err == nil {
			t.Error("Raft answers an agent")
		}
		raft.Close()
	}
	s.audited("who=agent/n1", "port=Raft", "not a scheduler's")
}

func TestAttackJoinTokens(t *testing.T) {
	t.Parallel()
	s := runSecure(t, secureConfig(t.TempDir()))
	refused := func(what string, err error, want codes.Code, words ...string) {
		t.Helper()
		if status.Code(errors.Unwrap(errors.Unwrap(err))) != want {
			t.Errorf("%s: %v, want %v", what, err, want)
		}
		s.audited(append(words, "what=join")...)
	}
	once := s.joinFile(&fleetv1.CreateJoinTokenRequest{})
	s.must(s.join(s.empty(), once, fleetv1.RoleAgent, "n1"))
	refused("a used token", s.join(s.empty(), once, fleetv1.RoleAgent, "n2"), codes.PermissionDenied, "who=agent/n2", "is used up")

	short := s.joinFile(&fleetv1.CreateJoinTokenRequest{LifetimeSeconds: 1})
	made := time.Now()
	s.within("the token expires", func() bool { return time.Since(made) > time.Second })
	refused("an expired token", s.join(s.empty(), short, fleetv1.RoleAgent, "n3"), codes.PermissionDenied, "who=agent/n3", "expired at")

	many := s.joinFile(&fleetv1.CreateJoinTokenRequest{MaxUses: 5})
	refused("a living node's name", s.join(s.empty(), many, fleetv1.RoleAgent, "n1"), codes.AlreadyExists, "who=agent/n1", "has a certificate until")
	refused("another role", s.join(s.empty(), many, fleetv1.RoleScheduler, "s9"), codes.PermissionDenied, "who=scheduler/s9", "is for the role agent")
	bound := s.joinFile(&fleetv1.CreateJoinTokenRequest{Node: "n4"})
	refused("another's token", s.join(s.empty(), bound, fleetv1.RoleAgent, "n5"), codes.PermissionDenied, "who=agent/n5")
	guess := many
	guess.Token.Secret = strings.Repeat("A", 52)
	refused("a guess", s.join(s.empty(), guess, fleetv1.RoleAgent, "n6"), codes.Unauthenticated, "who=agent/n6")

	list, err := s.client.Identity.ListJoinTokens(s.context(), &fleetv1.ListJoinTokensRequest{})
	s.must(err)
	for _, token := range list.GetTokens() {
		if len(token.GetSecretSha256()) > 0 {
			t.Error("the list shows hashes of secrets")
		}
		if token.GetMaxUses() == 5 {
			_, err := s.client.Identity.RevokeJoinToken(s.context(), &fleetv1.RevokeJoinTokenRequest{Name: token.GetMeta().GetName()})
			s.must(err)
		}
	}
	refused("a revoked token", s.join(s.empty(), many, fleetv1.RoleAgent, "n7"), codes.Unauthenticated, "who=agent/n7")
	certs, err := s.client.Identity.ListCertificates(s.context(), &fleetv1.ListCertificatesRequest{})
	if err != nil || len(certs.GetCertificates()) != 2 {
		t.Errorf("certificates after all that: %v, %v", certs, err)
	}
}

// An agent whose answer was lost asks again with its key; nobody else gains by that.
// Hosts that are set up together come together, with one token.
func TestManyJoinAtOnce(t *testing.T) {
	t.Parallel()
	const hosts = 30
	s := runSecure(t, secureConfig(t.TempDir()))
	file := s.joinFile(&fleetv1.CreateJoinTokenRequest{MaxUses: hosts})
	conn := s.dial(s.member(fleetv1.RoleAgent, "any"))
	errs := make([]error, hosts)
	var all sync.WaitGroup
	for i := range hosts {
		all.Go(func() {
			p, err := identity.Prepare(fmt.Sprint("host-", i), nil)
			if err == nil {
				_, err = fleetv1.NewJoinServiceClient(conn).Join(s.context(), &fleetv1.JoinRequest{Secret: file.Token.Secret, Csr: p.CSR, Role: fleetv1.RoleAgent})
			}
			errs[i] = err
		})
	}
	all.Wait()
	s.must(errors.Join(errs...))
	if refused := s.log.line("audit=refused"); refused != "" {
		t.Error(refused)
	}
}

func TestJoinAgain(t *testing.T) {
	t.Parallel()
	s := runSecure(t, secureConfig(t.TempDir()))
	file := s.joinFile(&fleetv1.CreateJoinTokenRequest{})
	p, err := identity.Prepare("n1", nil)
	s.must(err)
	conn := s.dial(s.member(fleetv1.RoleAgent, "any"))
	join := func(csr []byte) error {
		_, err := fleetv1.NewJoinServiceClient(conn).Join(s.context(), &fleetv1.JoinRequest{Secret: file.Token.Secret, Csr: csr, Role: fleetv1.RoleAgent})
		return err
	}
	s.must(join(p.CSR))
	if err := join(p.CSR); err != nil {
		t.Errorf("the same key: %v", err)
	}
	other, err := identity.Prepare("n1", nil)
	s.must(err)
	if err := join(other.CSR); status.Code(err) != codes.PermissionDenied {
		t.Errorf("another key: %v", err)
	}
	_, err = s.client.Identity.RevokeNode(s.context(), &fleetv1.RevokeNodeRequest{Name: "n1"})
	s.must(err)
	if err := join(p.CSR); status.Code(err) != codes.PermissionDenied {
		t.Errorf("the same key after a revocation: %v", err)
	}
}

func TestAttackCSRForAnother(t *testing.T) {
	t.Parallel()
	s := runSecure(t, secureConfig(t.TempDir()))
	agent := s.member(fleetv1.RoleAgent, "n1")
	p, err := identity.Prepare("n2", nil)
	s.must(err)
	if _, err := fleetv1.NewJoinServiceClient(s.dial(agent)).Renew(s.context(), &fleetv1.RenewRequest{Csr: p.CSR}); status.Code(err) != codes.PermissionDenied {
		t.Errorf("it is given: %v", err)
	}
	s.audited("who=agent/n1", "what=renewal", "n2")
	own, err := identity.Prepare("n1", []string{"scheduler.example.org"})
	s.must(err)
	cert, trust, err := agent.Renew(s.context(), []string{s.GRPCAddr()}, own)
	s.must(err)
	s.must(agent.Adopt(own, cert, trust))
	if agent.Hosts([]string{"scheduler.example.org"}) {
		t.Error("an agent's certificate has a host name that it asked for")
	}
}

func TestAttackForgedCaller(t *testing.T) {
	t.Parallel()
	s := runSecure(t, secureConfig(t.TempDir()))
	forged := forwardedAs(t, "root")
	list := func(k *identity.Keeper) error {
		_, err := fleetv1.NewNodeServiceClient(s.dial(k)).ListNodes(forged(s.context()), &fleetv1.ListNodesRequest{})
		return err
	}
	if err := list(s.member(fleetv1.RoleAgent, "n1")); status.Code(err) != codes.PermissionDenied {
		t.Errorf("an agent passes a caller on: %v", err)
	}
	s.audited("who=agent/n1", "root", "ListNodes")
	if _, err := s.client.Nodes.ListNodes(forged(s.context()), &fleetv1.ListNodesRequest{}); status.Code(err) != codes.PermissionDenied {
		t.Errorf("an operator passes a caller on: %v", err)
	}
	s.audited("who=unknown", "root", "ListNodes")
	if err := list(s.member(fleetv1.RoleScheduler, "s2")); err != nil {
		t.Errorf("a scheduler can't pass a caller on: %v", err)
	}
}

func TestAttackRevoked(t *testing.T) {
	t.Parallel()
	s := runSecure(t, secureConfig(t.TempDir()))
	agent, other := s.member(fleetv1.RoleAgent, "n1"), s.member(fleetv1.RoleAgent, "n2")
	conn := s.dial(agent)
	stream, err := s.session(conn, "n1")
	s.must(err)
	bystander, err := s.session(s.dial(other), "n2")
	s.must(err)
	many := s.joinFile(&fleetv1.CreateJoinTokenRequest{MaxUses: 5})

	_, err = s.client.Identity.RevokeNode(s.context(), &fleetv1.RevokeNodeRequest{Name: "n1"})
	s.must(err)
	for err == nil {
		_, err = stream.Recv()
	}
	if status.Code(err) != codes.Unavailable {
		t.Errorf("the living session ends with %v", err)
	}
	if _, err := s.session(conn, "n1"); status.Code(err) != codes.Unavailable {
		t.Errorf("a new session: %v", err)
	}
	s.audited("who=agent/n1", "port=gRPC", "revoked")
	if err := bystander.Send(&fleetv1.SessionRequest{Message: &fleetv1.SessionRequest_Heartbeat{Heartbeat: &fleetv1.Heartbeat{}}}); err != nil {
		t.Errorf("another node's session ends too: %v", err)
	}
	if err := s.join(s.empty(), many, fleetv1.RoleAgent, "n1"); err == nil {
		t.Error("a token for anybody lets it in again")
	}
	if _, err := s.session(s.dial(s.member(fleetv1.RoleAgent, "n1")), "n1"); err != nil {
		t.Errorf("with a token of its own: %v", err)
	}
	// A certificate that is replaced by a bound token is worth nothing any more.
	s.member(fleetv1.RoleAgent, "n2")
	for ctx := s.context(); ; { // the scheduler learns it from its store, a moment later
		_, err := s.session(s.dial(other), "n2")
		if status.Code(err) == codes.Unavailable {
			break
		}
		if ctx.Err() != nil {
			t.Fatalf("the replaced certificate: %v", err)
		}
	}
	_, err = s.client.Identity.RevokeNode(s.context(), &fleetv1.RevokeNodeRequest{Name: "n3"})
	if status.Code(err) != codes.NotFound {
		t.Errorf("a node that isn't there: %v", err)
	}
}
