package member

import (
	"context"
	"fmt"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
)

// Members is one scheduler's part in keeping them together. It implements fleetv1.PeerServiceServer. Its methods may
// be called from any goroutine.
type Members struct {
	fleetv1.UnimplementedPeerServiceServer
	cfg   Config
	id    string
	peers *Peers
	fresh fresh
	work  sync.WaitGroup // probes under way

	changing sync.Mutex // one change of the configuration at a time

	mu      sync.Mutex
	seen    map[string]*sighting // the other members, by ID
	barred  bool                 // a majority contradicts our clock
	held    bool                 // from standing for election
	timing  map[string]bool      // the leader's: whose clock was found out of line
	refusal string               // why the leader would not have us, as last logged
	lonely  bool                 // the jump of the clock was logged
	leading bool                 // lead has seen this leadership
}

// New makes Members that do nothing before Run.
func New(cfg Config) *Members {
	return &Members{cfg: cfg, id: cfg.Raft.ID(), peers: newPeers(cfg.Dial), seen: map[string]*sighting{}, timing: map[string]bool{}}
}

// Run does this scheduler's part until ctx ends. It is called once.
func (m *Members) Run(ctx context.Context) {
	ctx, cancel := context.WithCancel(ctx)
	defer m.peers.close()
	defer m.work.Wait()
	defer cancel()
	m.work.Go(func() { m.every(ctx, m.cfg.AnnounceInterval, m.announce) })
	m.work.Go(func() { m.every(ctx, m.cfg.ProbeInterval, m.lead) })
	m.every(ctx, m.cfg.ProbeInterval, func(ctx context.Context) {
		m.probeAll(ctx)
		m.compareClocks()
	})
}

func (m *Members) every(ctx context.Context, d time.Duration, do func(context.Context)) {
	tick := time.NewTicker(d)
	defer tick.Stop()
	for {
		do(ctx)
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

func (m *Members) gossip() Gossip {
	if m.cfg.Gossip == nil {
		return nil
	}
	return m.cfg.Gossip()
}

// peer is the scheduler that makes a call.
func (m *Members) peer(ctx context.Context) (string, error) {
	id, ok := m.cfg.Peer(ctx)
	if !ok {
		return "", status.Error(codes.PermissionDenied, "only a scheduler's certificate may call this")
	}
	return id, nil
}

// Leader is the leader's ID and gRPC address; both are empty when it isn't known, the address also when nobody has
// told it.
func (m *Members) Leader() (id, grpcAddr string) {
	id, _ = m.cfg.Raft.Leader()
	if id == "" {
		return "", ""
	}
	if id == m.id {
		return id, m.cfg.Self.GetGrpcAddress()
	}
	m.mu.Lock()
	s := m.seen[id]
	if s != nil && s.answer != nil && time.Since(s.last) < m.cfg.UnreachableAfter {
		grpcAddr = s.addr
	}
	m.mu.Unlock()
	if grpcAddr == "" {
		grpcAddr = m.cfg.State.View().Scheduler(id).GetGrpcAddress()
	}
	return id, grpcAddr
}

// Peers are the connections to the other schedulers.
func (m *Members) Peers() *Peers { return m.peers }

// name is what people call a scheduler.
func (m *Members) name(id string) string {
	if id == m.id {
		return label(m.cfg.Self)
	}
	if s := m.cfg.State.View().Scheduler(id); s != nil {
		return label(s)
	}
	return short(id)
}

func label(s *fleetv1.Scheduler) string {
	return fmt.Sprintf("%s (%s)", s.GetMeta().GetName(), short(s.GetMeta().GetId()))
}

func short(id string) string { return id[:min(len(id), 8)] }
