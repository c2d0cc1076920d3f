package scheduler

import (
	"context"
	"errors"
	"os"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/status"

	"github.com/drover-fleet/drover/identity"
	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
	"github.com/drover-fleet/drover/scheduler/api"
	"github.com/drover-fleet/drover/scheduler/auth"
	"github.com/drover-fleet/drover/scheduler/authority"
	"github.com/drover-fleet/drover/scheduler/forward"
	"github.com/drover-fleet/drover/scheduler/lookup/rate"
	"github.com/drover-fleet/drover/scheduler/member"
)

const (
	staleAfter  = fleetv1.StaleAfterMillis * time.Millisecond
	healthEvery = 200 * time.Millisecond
	clockWait   = 3 * time.Second // for a verdict about this scheduler's clock, before it leads without one
)

// wireMembers makes what this scheduler shares with the others.
func (s *Server) wireMembers() {
	wall := s.cfg.Wall
	if wall == nil {
		wall = time.Now
	}
	s.clock = member.NewClock(wall)
	settings := s.cfg.Membership
	settings.DeadAfter, settings.MinVoters = s.cfg.DeadAfter, s.cfg.MinSchedulers
	cfg := member.Config{
		Settings: settings, Self: s.self(), Raft: s.raft, State: s.state, Proposer: s.proposals, Clock: s.clock, Logger: s.log,
		Dial: s.dialPeer, Peer: peerID, Gossip: s.hearsay, Seeds: s.seeds,
	}
	if s.keeper != nil {
		cfg.Revoke, cfg.NewGossipKey = s.revokeScheduler, s.newGossipKey
	}
	s.members = member.New(cfg)
	s.proposals.gate = s.members.Gate
	s.forward = forward.New(forward.Config{
		Leads: s.raft.IsLeader, ReadIndex: s.proposals.ReadIndex, Leader: s.leaderElsewhere, Conn: s.members.Peers().Conn,
		As: auth.Forward, Staleness: s.members.Staleness,
	})
	s.wireLimiter()
}

// wireLimiter makes what counts look-ups together with the other schedulers.
func (s *Server) wireLimiter() {
	s.limiter = rate.New(rate.Config{
		Limits: rate.Limits{Account: s.cfg.LookupsPerAccount, User: s.cfg.LookupsPerUser}, Self: s.raft.ID(), Now: time.Now,
		Members: func() (all, alive []string) {
			for _, m := range s.members.List() {
				all = append(all, m.GetId())
				if m.GetState() == member.StateAlive || m.GetState() == member.StateCatchingUp {
					alive = append(alive, m.GetId())
				}
			}
			return all, alive
		},
		Call: func(ctx context.Context, id string, req *fleetv1.CountLookupsRequest) (*fleetv1.CountLookupsResponse, error) {
			conn, err := s.members.Peers().Conn(s.state.View().Scheduler(id).GetGrpcAddress())
			if err != nil {
				return nil, err
			}
			return fleetv1.NewPeerServiceClient(conn).CountLookups(ctx, req)
		},
	})
}

// peerService is what other schedulers call.
type peerService struct {
	*member.Members
	s *Server
}

// CountLookups implements fleetv1.PeerServiceServer.
func (p peerService) CountLookups(ctx context.Context, req *fleetv1.CountLookupsRequest) (*fleetv1.CountLookupsResponse, error) {
	if _, ok := peerID(ctx); !ok {
		return nil, status.Error(codes.PermissionDenied, "only a scheduler's certificate may call this")
	}
	return p.s.limiter.Count(req), nil
}

// self is this scheduler as it tells of itself.
func (s *Server) self() *fleetv1.Scheduler {
	name := s.cfg.Name
	if host, err := os.Hostname(); name == "" && err == nil && identity.CheckName(host) == nil {
		name = host
	}
	if name == "" {
		name = "scheduler-" + s.raft.ID()[:8]
	}
	self := &fleetv1.Scheduler{
		Meta: &fleetv1.Meta{Id: s.raft.ID(), Name: name}, RaftAddress: s.raft.Addr(), GrpcAddress: s.cfg.advertised(s.GRPCAddr()),
		HttpAddress: s.cfg.advertised(s.HTTPAddr()), Version: s.version(), CommandVersion: s.cfg.CommandVersion,
	}
	if s.keeper != nil {
		self.GossipAddress = s.cfg.advertised(s.cfg.GossipAddr)
	}
	return self
}

// peerID is the scheduler whose certificate a call shows.
func peerID(ctx context.Context) (string, bool) {
	p, ok := identity.PeerOf(ctx)
	return p.Name, ok && p.Role == fleetv1.RoleScheduler
}

// dialPeer prepares a connection to another scheduler's gRPC.
func (s *Server) dialPeer(addr string) (*grpc.ClientConn, error) {
	if s.keeper == nil {
		return nil, errors.New("a cluster without TLS (insecure) has one scheduler")
	}
	return grpc.NewClient("passthrough:///"+addr, grpc.WithTransportCredentials(s.keeper.ClientCredentials()), grpc.WithStatsHandler(forward.Sent{}),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: keepaliveTime, Timeout: keepaliveAnswer}),
		grpc.WithConnectParams(grpc.ConnectParams{Backoff: backoff.Config{BaseDelay: 100 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: 2 * time.Second}, MinConnectTimeout: 2 * time.Second}),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxMessage), grpc.MaxCallSendMsgSize(maxMessage)))
}

// seeds are where schedulers were, as the last trust that was kept says.
func (s *Server) seeds() []string {
	if s.keeper == nil {
		return nil
	}
	return s.keeper.Trust().GetSchedulers()
}

// leaderElsewhere is the gRPC address of a leader that isn't this scheduler.
func (s *Server) leaderElsewhere() string {
	id, addr := s.members.Leader()
	if id == s.raft.ID() {
		return ""
	}
	return addr
}

// revokeScheduler refuses the certificates that a scheduler has been given.
func (s *Server) revokeScheduler(ctx context.Context, id string) error {
	caller := "scheduler"
	if c, ok := auth.FromContext(ctx); ok {
		caller = c.Name
	}
	return s.write(ctx, "revoke the scheduler's certificates", &fleetv1.Write{
		Mutations: authority.Revoke(s.state.View(), fleetv1.RoleScheduler, id, caller, s.clock.Now())})
}

// clusterMembers is what the API knows of the schedulers.
type clusterMembers struct {
	*member.Members
	s *Server
}

var _ api.Members = clusterMembers{}

func (c clusterMembers) ClusterStatus() *fleetv1.GetClusterStatusResponse { return c.s.ClusterStatus() }

// awaitClock waits until this scheduler's clock isn't known to be wrong; false when ctx has ended before.
func (s *Server) awaitClock(ctx context.Context) bool {
	for !s.members.ClockInLine(ctx, clockWait) && ctx.Err() == nil {
		s.log.Error("this scheduler was elected and does not lead: its clock is out of line with the majority's")
	}
	return ctx.Err() == nil
}

// serves says whether calls are answered as they should be.
func (s *Server) serves(yes bool) {
	status := healthpb.HealthCheckResponse_NOT_SERVING
	if yes {
		status = healthpb.HealthCheckResponse_SERVING
		s.isReady.Do(func() { close(s.ready) })
	}
	s.health.SetServingStatus("", status)
}

// followHealth keeps up what the health service says.
func (s *Server) followHealth(ctx context.Context) {
	tick := time.NewTicker(healthEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			age, known := s.members.Staleness()
			s.serves(s.leading.Load() || !s.raft.IsLeader() && known && age <= staleAfter && s.leaderElsewhere() != "")
		}
	}
}
