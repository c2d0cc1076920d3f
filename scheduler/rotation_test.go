package scheduler_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/drover-fleet/drover/identity"
	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
	"github.com/drover-fleet/drover/scheduler"
)

// renewing keeps a keeper's certificate as an agent does, until the test ends.
func (s *secured) renewing(k *identity.Keeper) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		k.Run(ctx, nil, func(ctx context.Context, p *identity.Pending) (*fleetv1.IssuedCertificate, *fleetv1.Trust, error) {
			return k.Renew(ctx, []string{s.GRPCAddr()}, p)
		})
	}()
	s.t.Cleanup(func() { cancel(); <-done })
}

// listening takes what a session tells about trust, until the session ends.
func (s *secured) listening(k *identity.Keeper, stream sessionStream) <-chan error {
	ended := make(chan error, 1)
	go func() {
		for {
			m, err := stream.Recv()
			if err != nil {
				ended <- err
				return
			}
			if trust := m.GetTrust(); trust != nil {
				if err := k.SetTrust(trust); err != nil {
					ended <- err
					return
				}
			}
		}
	}()
	return ended
}

func (s *secured) certificate(role, name string) *fleetv1.Certificate {
	s.t.Helper()
	list, err := s.client.Identity.ListCertificates(s.context(), &fleetv1.ListCertificatesRequest{})
	s.must(err)
	for _, c := range list.GetCertificates() {
		if c.GetRole() == role && (name == "" || c.GetName() == name) {
			return c
		}
	}
	return nil
}

// Certificates are renewed while sessions live, by agents and by the scheduler itself.
func TestRenewal(t *testing.T) {
	t.Parallel()
	cfg := secureConfig(t.TempDir())
	cfg.CertificateLifetime, cfg.LeaseDuration = 15*time.Second, time.Minute
	s := runSecure(t, cfg)
	agent := s.member(fleetv1.RoleAgent, "n1")
	stream, err := s.session(s.dial(agent), "n1")
	s.must(err)
	ended := s.listening(agent, stream)
	before, _ := agent.Self()
	first := s.certificate(fleetv1.RoleScheduler, "").GetSerial()
	s.renewing(agent)
	s.within("the agent renews", func() bool { now, _ := agent.Self(); return now.Issued.After(before.Issued) })
	s.within("the scheduler renews", func() bool { return s.certificate(fleetv1.RoleScheduler, "").GetSerial() != first })
	if _, err := s.session(s.dial(agent), "n1"); err != nil {
		t.Errorf("a session with the new certificate: %v", err)
	}
	if err := <-ended; status.Code(err) != codes.Aborted {
		t.Errorf("the session from before ended by itself: %v", err)
	}
}

func TestRotateCA(t *testing.T) {
	t.Parallel()
	cfg := secureConfig(t.TempDir())
	cfg.CertificateLifetime = time.Hour
	s := runSecure(t, cfg)
	agent, away := s.member(fleetv1.RoleAgent, "n1"), s.member(fleetv1.RoleAgent, "n2")
	stream, err := s.session(s.dial(agent), "n1")
	s.must(err)
	ended := s.listening(agent, stream)
	rotate := func(req *fleetv1.RotateCARequest) ([]string, error) {
		resp, err := s.client.Identity.RotateCA(s.context(), req)
		return resp.GetRoots(), err
	}
	if _, err := rotate(&fleetv1.RotateCARequest{Finish: true}); status.Code(err) != codes.FailedPrecondition {
		t.Errorf("finished before it began: %v", err)
	}
	before := s.joinFile(&fleetv1.CreateJoinTokenRequest{})
	roots, err := rotate(&fleetv1.RotateCARequest{})
	s.must(err)
	if len(roots) != 2 {
		t.Fatalf("roots %v", roots)
	}
	if _, err := rotate(&fleetv1.RotateCARequest{}); status.Code(err) != codes.FailedPrecondition {
		t.Errorf("begun twice: %v", err)
	}
	if _, err := rotate(&fleetv1.RotateCARequest{Finish: true}); status.Code(err) != codes.FailedPrecondition || !strings.Contains(err.Error(), "agent/n2") {
		t.Errorf("finished while members have certificates of the old root: %v", err)
	}
	// The agent hears of the new root by its session, and renews; so does the scheduler.
	s.renewing(agent)
	s.within("agent and scheduler have certificates of the new root", func() bool {
		return s.certificate(fleetv1.RoleAgent, "n1").GetRoot() == roots[0] && s.certificate(fleetv1.RoleScheduler, "").GetRoot() == roots[0]
	})
	// One that was away knows the old root alone: it is let in, and renews.
	if _, err := s.session(s.dial(away), "n2"); err != nil {
		t.Errorf("an agent that was away: %v", err)
	}
	s.must(s.join(s.empty(), before, fleetv1.RoleAgent, "n3")) // a token of before, and a certificate of the new root
	if _, err := rotate(&fleetv1.RotateCARequest{Finish: true}); status.Code(err) != codes.FailedPrecondition || strings.Contains(err.Error(), "agent/n1") || !strings.Contains(err.Error(), "agent/n2") {
		t.Errorf("finished while n2 has a certificate of the old root: %v", err)
	}
	roots, err = rotate(&fleetv1.RotateCARequest{Finish: true, Force: true})
	s.must(err)
	if len(roots) != 1 {
		t.Errorf("roots %v", roots)
	}
	s.within("the scheduler drops the old root", func() bool {
		_, err := s.session(s.dial(away), "n2")
		return status.Code(err) == codes.Unavailable
	})
	// A connection that was made with a certificate of the old root ends, and comes back with the new one.
	if err := <-ended; status.Code(err) != codes.Unavailable {
		t.Errorf("the session from before the rotation: %v", err)
	}
	if _, err := s.session(s.dial(agent), "n1"); err != nil {
		t.Errorf("the agent that renewed: %v", err)
	}
}

// A key file is rotated in three steps; at each the scheduler signs.
func TestRotateKey(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	cfg := secureConfig(dir)
	cfg.CertificateLifetime = time.Hour
	s := runSecure(t, cfg)
	path := filepath.Join(dir, "cluster.key")
	old, err := os.ReadFile(path)
	s.must(err)
	added := []byte(base64.StdEncoding.EncodeToString(bytes.Repeat([]byte{9}, 32)) + "\n")
	signs := func(name string) {
		t.Helper()
		s.member(fleetv1.RoleAgent, name)
	}
	s.must(os.WriteFile(path, append(bytes.Clone(added), old...), 0o600))
	signs("n1")
	resp, err := s.client.Identity.RotateKey(s.context(), &fleetv1.RotateKeyRequest{})
	s.must(err)
	signs("n2")
	s.must(os.WriteFile(path, added, 0o600))
	signs("n3")
	keys, err := identity.KeyFile(path).Read()
	if err != nil || keys.ID() != resp.GetKeyId() {
		t.Errorf("it is encrypted under %s: %v", resp.GetKeyId(), err)
	}
	// With the old key alone nobody is let in, and the line says why.
	s.must(os.WriteFile(path, old, 0o600))
	err = s.join(s.empty(), s.joinFile(&fleetv1.CreateJoinTokenRequest{}), fleetv1.RoleAgent, "n4")
	if err == nil || !strings.Contains(err.Error(), "does not hold the key "+resp.GetKeyId()) || strings.Contains(err.Error(), "\n") {
		t.Errorf("with a wrong key file: %v", err)
	}
	// A lost key: another CA, of which the connected hear.
	s.must(os.WriteFile(path, added, 0o600))
	agent := s.member(fleetv1.RoleAgent, "n5")
	s.must(os.WriteFile(path, old, 0o600))
	stream, err := s.session(s.dial(agent), "n5")
	s.must(err)
	s.listening(agent, stream)
	if _, err := s.client.Identity.RotateCA(s.context(), &fleetv1.RotateCARequest{}); status.Code(err) != codes.FailedPrecondition {
		t.Errorf("rotated without the old CA's key: %v", err)
	}
	rotated, err := s.client.Identity.RotateCA(s.context(), &fleetv1.RotateCARequest{Force: true})
	s.must(err)
	s.within("the agent hears of the new CA", func() bool { return len(agent.Trust().GetRoots()) == 2 })
	s.renewing(agent)
	s.within("the agent renews", func() bool { return s.certificate(fleetv1.RoleAgent, "n5").GetRoot() == rotated.GetRoots()[0] })

	s.must(os.Remove(path))
	s.stop()
	again := runSecure(t, secureConfig(dir))
	if line := again.log.line("can't sign certificates", path+" does not exist"); line == "" {
		t.Error("a missing key file isn't told")
	}
	if _, err := os.Stat(path); err == nil {
		t.Error("another key was made: it opens nothing")
	}
}

// A scheduler gets its certificate with a join file, and only with the cluster's key file.
func TestSchedulerJoins(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := runSecure(t, secureConfig(dir))
	var cfg scheduler.Config
	var file []byte
	start := func() error {
		cfg.JoinFile, cfg.Stdin = "-", bytes.NewReader(file)
		server, err := scheduler.New(cfg, slog.New(slog.DiscardHandler))
		if err == nil {
			ctx, cancel := context.WithCancel(context.Background())
			cancel()
			s.must(server.Run(ctx)) // gives everything back
		}
		return err
	}
	join := func(key string) error {
		cfg = secureConfig(t.TempDir())
		resp, err := s.client.Identity.CreateJoinToken(s.context(), &fleetv1.CreateJoinTokenRequest{Role: fleetv1.RoleScheduler})
		s.must(err)
		token, err := identity.ParseToken(resp.GetSecret())
		s.must(err)
		file, err = identity.JoinFile{Schedulers: resp.GetSchedulers(), Token: token}.Encode()
		s.must(err)
		if key != "" {
			s.must(os.WriteFile(filepath.Join(cfg.DataDir, "cluster.key"), []byte(key), 0o600))
		}
		return start()
	}
	if err := join(""); err == nil || !strings.Contains(err.Error(), "cluster.key does not exist: copy it") {
		t.Errorf("without a key file: %v", err)
	}
	err := join(base64.StdEncoding.EncodeToString(make([]byte, 32)))
	for range 2 { // a restart is none the wiser
		if err == nil || !strings.Contains(err.Error(), "copy the file from another scheduler") {
			t.Errorf("with a wrong key file: %v", err)
		}
		err = start()
	}
	key, err := os.ReadFile(filepath.Join(dir, "cluster.key"))
	s.must(err)
	s.must(os.WriteFile(filepath.Join(cfg.DataDir, "cluster.key"), key, 0o600))
	s.must(start()) // with the join file of before, which is used up
	k, err := identity.Open(filepath.Join(cfg.DataDir, "identity"), slog.New(slog.DiscardHandler))
	s.must(err)
	if self, ok := k.Self(); !ok || self.Role != fleetv1.RoleScheduler || s.certificate(fleetv1.RoleScheduler, self.Name) == nil {
		t.Errorf("it is %v", self)
	}
	// Started again without the file it keeps its certificate and founds no cluster of its own.
	cfg.JoinFile, cfg.Stdin = "", nil
	server, err := scheduler.New(cfg, slog.New(slog.DiscardHandler))
	s.must(err)
	if members := server.ClusterStatus().GetMembers(); len(members) != 0 {
		t.Errorf("it has founded a cluster: %v", members)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	s.must(server.Run(ctx))
}

// A stolen agent's certificate reaches nothing but the agents' service, by whatever method is served.
func TestAttackAgentOnEveryMethod(t *testing.T) {
	t.Parallel()
	s := runSecure(t, secureConfig(t.TempDir()))
	conn := s.dial(s.member(fleetv1.RoleAgent, "n1"))
	call := func(method string) error {
		stream, err := conn.NewStream(s.context(), &grpc.StreamDesc{ClientStreams: true, ServerStreams: true}, method)
		if err != nil {
			return err
		}
		if err := stream.SendMsg(&emptypb.Empty{}); err == nil {
			err = stream.CloseSend()
			s.must(err)
		}
		return stream.RecvMsg(&emptypb.Empty{})
	}
	// What these say to an empty message, past the question of who may call them.
	own := map[string]codes.Code{
		"/fleet.v1.AgentService/Session": codes.InvalidArgument, "/fleet.v1.AgentService/Relay": codes.NotFound,
		"/fleet.v1.JoinService/Join": codes.InvalidArgument, "/fleet.v1.JoinService/Renew": codes.InvalidArgument,
		fleetv1.TaskService_ExchangeTask_FullMethodName: codes.NotFound,
	}
	refused := 0
	protoregistry.GlobalFiles.RangeFilesByPackage("fleet.v1", func(f protoreflect.FileDescriptor) bool {
		for i := range f.Services().Len() {
			service := f.Services().Get(i)
			for j := range service.Methods().Len() {
				method := "/" + string(service.FullName()) + "/" + string(service.Methods().Get(j).Name())
				want, open := own[method]
				switch {
				case string(service.FullName()) == "fleet.v1.LocalService": // the agent's own socket
					want = codes.Unimplemented
				case !open:
					want = codes.PermissionDenied
					refused++
				}
				if err := call(method); status.Code(err) != want {
					t.Errorf("%s: %v, want %v", method, err, want)
				}
			}
		}
		return true
	})
	if err := call("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo"); status.Code(err) != codes.PermissionDenied {
		t.Errorf("reflection: %v", err)
	}
	if refused < 40 {
		t.Errorf("only %d methods are refused", refused)
	}
}

// Operators check the host name by which they reach a scheduler: one that was given another name certifies itself anew.
func TestAdvertisedHost(t *testing.T) {
	t.Parallel()
	cfg := secureConfig(t.TempDir())
	runSecure(t, cfg).stop()
	cfg.AdvertiseAddress = "s1.example.org"
	s := runSecure(t, cfg)
	pem, err := os.ReadFile(s.CAPath())
	s.must(err)
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(pem)
	as := func(host, addr string) error {
		conn, err := tls.Dial("tcp", addr, &tls.Config{MinVersion: tls.VersionTLS13, RootCAs: roots, ServerName: host})
		if err == nil {
			err = conn.Close()
		}
		return err
	}
	s.within("it is known as s1.example.org", func() bool { return as("s1.example.org", s.GRPCAddr()) == nil })
	if err := errors.Join(as("s1.example.org", s.HTTPAddr()), as("localhost", s.HTTPAddr()), as("127.0.0.1", s.GRPCAddr())); err != nil {
		t.Error(err)
	}
	if as("s2.example.org", s.GRPCAddr()) == nil {
		t.Error("it is known by any name")
	}
}
