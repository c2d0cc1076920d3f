//go:build bench

package bench

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/drover-fleet/drover/identity"
	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
	"github.com/drover-fleet/drover/test/machine"
)

// tokenUses is how many nodes one join token lets in, one after the other: each use is kept in the token, and so those at
// the same time wait for each other.
const tokenUses = 100

// secured is schedulers with TLS, and simulated agents that have joined them.
type secured struct {
	*machine.Schedulers
	b      *bench
	agents *agents
	roots  *x509.CertPool

	mu           sync.Mutex
	certificates map[string]tls.Certificate // by node
}

// newSecured founds a cluster with the default cadence.
func (b *bench) newSecured(schedulers int) *secured {
	b.t.Helper()
	s := &secured{b: b, certificates: map[string]tls.Certificate{}, roots: x509.NewCertPool(),
		Schedulers: machine.StartSchedulers(b.t, schedulers, machine.SchedulersOptions{Config: map[string]any{"lookup_max_age": "3s"}})}
	raw, err := os.ReadFile(s.All[0].CAFile())
	b.must(err)
	if !s.roots.AppendCertsFromPEM(raw) {
		b.t.Fatalf("%s has no certificate", s.All[0].CAFile())
	}
	s.reset()
	return s
}

// reset ends all sessions, and begins anew with the same certificates.
func (s *secured) reset() {
	if s.agents != nil {
		s.agents.stop()
	} else {
		s.b.t.Cleanup(func() { s.agents.stop() })
	}
	leader := s.Leader()
	addrs := []string{leader.GRPC}
	for _, p := range s.Others(leader) {
		addrs = append(addrs, p.GRPC)
	}
	s.agents = newAgents(addrs, "")
	s.agents.credentials = func(node string) credentials.TransportCredentials {
		s.mu.Lock()
		defer s.mu.Unlock()
		return s.transport(s.certificates[node])
	}
}

func (s *secured) transport(certificates ...tls.Certificate) credentials.TransportCredentials {
	return credentials.NewTLS(&tls.Config{MinVersion: tls.VersionTLS13, RootCAs: s.roots, Certificates: certificates})
}

// term of the leader.
func (s *secured) term() uint64 {
	s.b.t.Helper()
	status, err := s.Leader().Status(s.b.t.Context())
	s.b.must(err)
	return status.GetTerm()
}

// join gets certificates for the nodes from..to-1.
func (s *secured) join(from, to int) {
	s.b.t.Helper()
	ctx, cancel := context.WithTimeout(s.b.t.Context(), 5*patience)
	defer cancel()
	leader := s.Leader()
	conn, err := grpc.NewClient("passthrough:///"+leader.GRPC, grpc.WithTransportCredentials(s.transport()))
	s.b.must(err)
	defer conn.Close()
	b, c := s.b, fleetv1.NewJoinServiceClient(conn)
	b.must(each(0, (to-from+tokenUses-1)/tokenUses, func(part int) error {
		made, err := leader.Client.Identity.CreateJoinToken(ctx, &fleetv1.CreateJoinTokenRequest{MaxUses: tokenUses})
		if err != nil {
			return err
		}
		token, err := identity.ParseToken(made.GetSecret())
		for n := from + part*tokenUses; n < min(from+(part+1)*tokenUses, to) && err == nil; n++ {
			err = s.joinOne(ctx, c, token.Secret, nodeName(n))
		}
		return err
	}))
}

func (s *secured) joinOne(ctx context.Context, c fleetv1.JoinServiceClient, secret, node string) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	csr, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: pkix.Name{CommonName: node}}, key)
	if err != nil {
		return err
	}
	resp, err := c.Join(ctx, &fleetv1.JoinRequest{Secret: secret, Csr: csr, Role: fleetv1.RoleAgent})
	if err != nil {
		return fmt.Errorf("join %s: %w", node, err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.certificates[node] = tls.Certificate{Certificate: resp.GetCertificate().GetChain(), PrivateKey: key}
	return nil
}

// deploy has a service run whose instances take a whole node each, and waits until every scheduler's look-up has them.
func (s *secured) deploy(name string, instances int) {
	s.b.t.Helper()
	ctx, cancel := context.WithTimeout(s.b.t.Context(), patience)
	defer cancel()
	c := &cluster{b: s.b, client: s.Leader().Client}
	c.prepare()
	_, err := c.client.Flavors.CreateFlavor(ctx, &fleetv1.CreateFlavorRequest{Flavor: &fleetv1.Flavor{Meta: &fleetv1.Meta{Name: "node"},
		Spec: &fleetv1.FlavorSpec{CpuMillis: 1000, MemoryBytes: 1 << 30, Accelerator: &fleetv1.Accelerator{Vendor: "nvidia", Model: "H100*", Count: devicesPerNode}}}})
	s.b.must(err)
	_, err = c.client.Services.DeployService(ctx, &fleetv1.DeployServiceRequest{Service: &fleetv1.Service{
		Meta: &fleetv1.Meta{Name: name},
		Spec: &fleetv1.ServiceSpec{Pool: "bench", GracePeriodSeconds: proto.Int32(5), Versions: []*fleetv1.ServiceVersion{
			{Model: "app", Flavor: "node", Instances: int32(instances)}}},
	}})
	s.b.must(err)
	for _, p := range s.All {
		s.serves(p, name, instances)
	}
}

// serves waits until a scheduler's look-up has so many endpoints.
func (s *secured) serves(p *machine.SchedulerProcess, name string, want int) {
	s.b.t.Helper()
	s.Within(patience, fmt.Sprintf("%s has %d endpoints of %s", p.Name, want, name), func() error {
		found, err := p.Endpoints(name)
		if err == nil && len(found) != want {
			err = fmt.Errorf("it has %d", len(found))
		}
		return err
	})
}

// streams measures the memory of an idle agent's stream, which is the difference that connecting makes to a scheduler
// that was started without them.
func (b *bench) streams() {
	s := b.newSecured(1)
	p := s.All[0]
	s.join(0, streamNodes)
	b.must(s.agents.add(0, streamNodes)) // registers them
	s.agents.stop()
	p.Stop()
	p.Start()
	s.reset()
	time.Sleep(settleTime)
	without, _, err := memory(p.Pid())
	b.must(err)
	b.must(s.agents.add(0, streamNodes))
	time.Sleep(settleTime)
	with, _, err := memory(p.Pid())
	b.must(err)
	if n := s.agents.connected.Load(); n != streamNodes {
		b.t.Fatalf("%d of %d agents are connected", n, streamNodes)
	}
	b.report.add(figure{Name: fmt.Sprintf("%d idle agents with TLS: resident memory of a stream", streamNodes), Unit: "KiB",
		Measured: one(float64(with-without) / 1024 / streamNodes), Goal: &goal{AtMost: 60}, N: streamNodes})
}

// storm kills the leader of a fleet that is connected, and times until all agents are back.
func (s *secured) storm() {
	b := s.b
	nodes := s.agents.connected.Load()
	leader := s.Leader()
	time.Sleep(settleTime)
	for _, p := range s.Others(leader) {
		b.must(os.WriteFile(fmt.Sprintf("/proc/%d/clear_refs", p.Pid()), []byte("5"), 0)) // VmHWM begins anew (proc_pid_clear_refs(5))
	}
	lost := s.agents.lost.Load() + nodes
	ctx, cancel := context.WithTimeout(b.t.Context(), patience)
	defer cancel()
	killed := time.Now()
	leader.Kill()
	b.must(errors.Join(await(ctx, "lost", lost, time.Millisecond, s.agents.lost.Load), await(ctx, "back", nodes, 5*time.Millisecond, s.agents.connected.Load)))
	took := time.Since(killed)
	what := fmt.Sprintf("storm: leader of %d agents killed: ", nodes)
	b.report.add(figure{Name: what + "all are back", Unit: "s", Measured: one(took.Seconds()), N: 1})
	next := s.Leader()
	time.Sleep(settleTime)
	peak, err := kilobytes(fmt.Sprintf("/proc/%d/status", next.Pid()), "VmHWM:")
	b.must(err)
	after, _, err := memory(next.Pid())
	b.must(err)
	b.report.add(figure{Name: what + "the next leader's peak memory", Unit: "MiB", Measured: one(mib(peak)), N: 1})
	b.report.add(figure{Name: what + fmt.Sprintf("its resident memory %v later", settleTime), Unit: "MiB", Measured: one(mib(after)), N: 1})
	leader.Start()
	events, err := next.Client.Events.ListEvents(ctx, &fleetv1.ListEventsRequest{Filter: &fleetv1.EventFilter{Problems: true, Since: timestamppb.New(killed)}})
	b.must(err)
	unreachable := 0
	for _, e := range events.GetEvents() {
		if e.GetReason() == "NodeUnreachable" {
			unreachable++
		}
	}
	b.report.add(figure{Name: what + "nodes that lost their lease (1000 at most are counted)", Unit: "", Measured: one(float64(unreachable)), Goal: &goal{None: true}, N: 1})
}
