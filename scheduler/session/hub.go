package session

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/timestamppb"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
	"github.com/drover-fleet/drover/scheduler/state"
)

// Store is what the hub reads.
type Store interface {
	View() state.ReadView
	Subscribe() state.Feed
}

// Proposer commits commands. It answers when the command has been applied here.
type Proposer interface {
	Propose(ctx context.Context, cmd *fleetv1.Command) (state.Result, error)
}

// Config is what a Hub is made from.
type Config struct {
	State    Store
	Proposer Proposer
	// Leader answers the gRPC address that agents should dial instead of this scheduler; empty when unknown.
	// May be nil.
	Leader func() string
	// Trust is what agents are told to believe; nil in a cluster without TLS. It must not be written to.
	Trust func() *fleetv1.Trust
	// HeartbeatInterval (default 1 s) is how often agents send at most; a node that is silent for LeaseDuration
	// (default 4 s), or longer where there are many nodes, has lost its lease.
	HeartbeatInterval, LeaseDuration time.Duration
	// ProposeTimeout bounds each commit; default 10 s.
	ProposeTimeout time.Duration
	// Now is the wall clock that commands carry; default time.Now.
	Now func() time.Time
	// MaxRelays bounds the relays that are open or ordered; default 256.
	MaxRelays int
	Logger    *slog.Logger
}

// Hub implements fleetv1.AgentServiceServer. Its methods may be called from any goroutine.
type Hub struct {
	fleetv1.UnimplementedAgentServiceServer
	cfg    Config
	least  pace // as it is configured
	pace   atomic.Pointer[pace]
	leases leases
	pulls  pulls
	// samples are the leader's alone, as pulls are.
	samples samples
	relays  relays
	gather  gather

	lead sync.Mutex // one Lead or Resign at a time

	mu       sync.Mutex
	term     *term // nil while not leading
	sessions map[string]*session
}

// term is one leadership; ctx ends with it.
type term struct {
	ctx    context.Context
	cancel context.CancelFunc
	work   sync.WaitGroup
}

// New makes a hub that does not lead.
func New(cfg Config) *Hub {
	if cfg.HeartbeatInterval <= 0 {
		cfg.HeartbeatInterval = time.Second
	}
	if cfg.LeaseDuration <= 0 {
		cfg.LeaseDuration = 4 * time.Second
	}
	if cfg.ProposeTimeout <= 0 {
		cfg.ProposeTimeout = 10 * time.Second
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.MaxRelays <= 0 {
		cfg.MaxRelays = 256
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.Trust == nil {
		cfg.Trust = func() *fleetv1.Trust { return nil }
	}
	h := &Hub{cfg: cfg, sessions: map[string]*session{}, least: pace{heartbeat: cfg.HeartbeatInterval, lease: cfg.LeaseDuration}}
	h.leases.init()
	h.leases.hooks.add(h.endLost)
	h.pulls.init()
	h.relays.init(cfg.MaxRelays)
	h.gather.init()
	return h
}

// Lead starts leadership, which lasts until Resign or until ctx ends: every node that is not Unreachable
// gets a full lease, and sessions are accepted. It does not block. While leading it does nothing.
func (h *Hub) Lead(ctx context.Context) {
	h.lead.Lock()
	defer h.lead.Unlock()
	if t := h.current(); t != nil && t.ctx.Err() == nil {
		return
	}
	h.resign()
	t := &term{}
	t.ctx, t.cancel = context.WithCancel(ctx)
	feed := h.cfg.State.Subscribe()
	var nodes []string
	for _, n := range h.cfg.State.View().Nodes() {
		if n.GetStatus().GetState() != fleetv1.NodeUnreachable {
			nodes = append(nodes, n.GetMeta().GetName())
		}
	}
	first := paceOf(len(nodes), h.least)
	h.pace.Store(&first)
	h.leases.start(nodes, first.inherited())
	t.work.Go(func() { h.follow(t.ctx, feed) })
	t.work.Go(func() { h.keepPace(t.ctx) })
	t.work.Go(func() { h.leases.run(t.ctx) })
	h.mu.Lock()
	h.term = t
	h.mu.Unlock()
}

// Resign ends leadership: every session ends with Unavailable, leases and pull progress are forgotten. It
// returns when the hub's own goroutines have stopped.
func (h *Hub) Resign() {
	h.lead.Lock()
	defer h.lead.Unlock()
	h.resign()
}

func (h *Hub) resign() {
	h.mu.Lock()
	t, sessions := h.term, h.sessions
	h.term, h.sessions = nil, map[string]*session{}
	h.mu.Unlock()
	if t == nil {
		return
	}
	t.cancel()
	for _, s := range sessions {
		s.end(h.notLeader())
	}
	t.work.Wait()
	h.leases.stop()
	h.pulls.clear()
	h.samples.clear()
}

func (h *Hub) current() *term {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.term
}

// notLeader is the answer of a scheduler that does not lead.
func (h *Hub) notLeader() error {
	leader := ""
	if h.cfg.Leader != nil {
		leader = h.cfg.Leader()
	}
	if leader == "" {
		return status.Error(codes.Unavailable, "this scheduler is not the leader")
	}
	return status.Errorf(codes.Unavailable, "not the leader; the leader is at %s", leader)
}

// follow marks the sessions whose node's assignments, or whose trust, change, until ctx ends.
func (h *Hub) follow(ctx context.Context, feed state.Feed) {
	defer feed.Close()
	for {
		sets, resync, err := feed.Next(ctx)
		if err != nil {
			return // ctx has ended: Next has no other error
		}
		h.mu.Lock()
		if resync {
			for _, s := range h.sessions {
				s.assignmentsChanged()
				s.trustChanged()
			}
		}
		for _, set := range sets {
			for _, c := range set.Changes {
				if c.Key.Kind == fleetv1.KindCluster || c.Key.Kind == fleetv1.KindScheduler {
					for _, s := range h.sessions {
						s.trustChanged()
					}
				}
				if c.Key.Kind != fleetv1.KindNode {
					continue
				}
				if s := h.sessions[c.Key.Key]; s != nil {
					s.assignmentsChanged()
				}
			}
		}
		h.mu.Unlock()
	}
}

// LeaseValid says whether the node counts as alive: the leader goes by its leases, others by the node's
// replicated status.
func (h *Hub) LeaseValid(node string) bool {
	if valid, leading := h.leases.valid(node); leading {
		return valid
	}
	return h.cfg.State.View().Node(node).GetStatus().GetState() == fleetv1.NodeReady
}

// LastHeartbeat is when the node last sent anything in this leadership; zero when it has not.
func (h *Hub) LastHeartbeat(node string) time.Time { return h.leases.lastHeard(node) }

// OnLease calls f whenever a node's lease is lost or returns, until cancel is called. Calls may come late
// or twice: f asks LeaseValid what holds now. f must not block.
func (h *Hub) OnLease(f func(node string)) (cancel func()) { return h.leases.hooks.add(f) }

// Pull is how far the instance's node has got with its image, or nil when none is being pulled.
func (h *Hub) Pull(instanceID string) *fleetv1.PullProgress { return h.pulls.get(instanceID) }

// DeviceSample is what a device of the node measured last, or nil when it isn't known or the node is
// silent.
func (h *Hub) DeviceSample(node, device string) *fleetv1.DeviceSample {
	if !h.LeaseValid(node) {
		return nil
	}
	return h.samples.get(node, device)
}

// OnPull calls f whenever an instance's pull has moved on or has ended, until cancel is called. f must not
// block.
func (h *Hub) OnPull(f func(instanceID string)) (cancel func()) { return h.pulls.hooks.add(f) }

// Connected says whether the node has a session here.
func (h *Hub) Connected(node string) bool { return h.session(node) != nil }

// endLost ends the session of a node that has lost its lease, so that its agent learns that it is cut off: it may have
// to stop instances.
func (h *Hub) endLost(node string) {
	if valid, leading := h.leases.valid(node); valid || !leading {
		return
	}
	if s := h.session(node); s != nil {
		s.end(status.Errorf(codes.Unavailable, "nothing was heard of node %q for longer than its lease", node))
	}
}

func (h *Hub) session(node string) *session {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.sessions[node]
}

// propose commits an operation in the name of an agent.
func (h *Hub) propose(ctx context.Context, caller string, cmd *fleetv1.Command) (state.Result, error) {
	ctx, cancel := context.WithTimeout(ctx, h.cfg.ProposeTimeout)
	defer cancel()
	cmd.Time = timestamppb.New(h.cfg.Now())
	cmd.Caller = caller
	cmd.Introduced = state.Introduced(cmd)
	return h.cfg.Proposer.Propose(ctx, cmd)
}

// adopt makes s the session of its node and ends an older one. It answers the term that it belongs to.
func (h *Hub) adopt(s *session) (*term, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	t := h.term
	if t == nil || t.ctx.Err() != nil {
		return nil, h.notLeader()
	}
	if old := h.sessions[s.node]; old != nil {
		old.end(status.Errorf(codes.Aborted, "another session of node %q has taken over", s.node))
	}
	h.sessions[s.node] = s
	return t, nil
}

// drop forgets s unless a newer session has replaced it.
func (h *Hub) drop(s *session) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.sessions[s.node] == s {
		delete(h.sessions, s.node)
	}
}

// newID makes an unguessable, unique ID.
func newID() string { return uuid.NewString() }

// unavailable wraps a failed commit for the agent.
func unavailable(what string, err error) error {
	return status.Error(codes.Unavailable, fmt.Sprintf("%s: %v", what, err))
}
