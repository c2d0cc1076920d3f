package member

import (
	"context"
	"log/slog"
	"time"

	"google.golang.org/grpc"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
	"github.com/drover-fleet/drover/scheduler/raftstore"
	"github.com/drover-fleet/drover/scheduler/state"
)

// Raft is the schedulers' log: who is in it, and who leads.
type Raft interface {
	ID() string
	Addr() string
	IsLeader() bool
	// Leader is the ID and Raft address of the leader, empty when unknown.
	Leader() (id, addr string)
	Term() uint64
	Members() []raftstore.Member
	AddVoter(ctx context.Context, id, addr string) error
	AddNonvoter(ctx context.Context, id, addr string) error
	RemoveServer(ctx context.Context, id string) error
	TransferLeadership(ctx context.Context, id string) error
	BarFromStanding(bar bool) error
}

// Store is the scheduler's picture of the cluster.
type Store interface {
	View() state.ReadView
	Subscribe() state.Feed
}

// Proposer commits commands.
type Proposer interface {
	Propose(ctx context.Context, cmd *fleetv1.Command) (state.Result, error)
}

// Gossip is what the schedulers hear of each other. It only hints.
type Gossip interface {
	// Keys are the IDs of the keys in use, that of our own messages first.
	Keys() []string
	// Heard is what a scheduler last said of itself, nil when it was not heard, and whether it is taken to be alive.
	Heard(id string) (s *fleetv1.Scheduler, alive bool)
	// All is what every scheduler last said of itself.
	All() []*fleetv1.Scheduler
}

// Settings of the schedulers' cluster. Every scheduler should have the same.
type Settings struct {
	// ProbeInterval is how often the others are asked how they are; an answer that takes as long as ProbeTimeout is none.
	ProbeInterval, ProbeTimeout time.Duration
	// AnnounceInterval is how often a scheduler that the store doesn't show as it is tells the leader.
	AnnounceInterval time.Duration
	// A scheduler that has not answered for UnreachableAfter counts as unreachable, for DeadAfter as dead.
	UnreachableAfter, DeadAfter time.Duration
	// StableFor is how long a scheduler must be well before it gets a vote; MaxLag, how many entries it may be behind.
	StableFor time.Duration
	MaxLag    uint64
	// MinVoters is how many voters must be alive for a dead one to be removed without being asked for.
	MinVoters int
	// MaxClockOffset is how far a wall clock may be from the majority's.
	MaxClockOffset time.Duration
}

// DefaultSettings are what runs in production.
func DefaultSettings() Settings {
	return Settings{
		ProbeInterval: 500 * time.Millisecond, ProbeTimeout: 2 * time.Second, AnnounceInterval: 2 * time.Second,
		UnreachableAfter: 3 * time.Second, DeadAfter: 10 * time.Minute,
		StableFor: 5 * time.Second, MaxLag: 250, MinVoters: 3, MaxClockOffset: time.Second,
	}
}

// Config is what Members are made of. All but Revoke, NewGossipKey and Gossip is needed.
type Config struct {
	Settings
	// Self is this scheduler: ID, name, addresses, version, command version.
	Self     *fleetv1.Scheduler
	Raft     Raft
	State    Store
	Proposer Proposer
	// Dial prepares a connection to another scheduler's gRPC, which is checked to be one.
	Dial func(addr string) (*grpc.ClientConn, error)
	// Peer is the ID of the scheduler that made a call; ok is false when nobody proved to be one.
	Peer func(ctx context.Context) (id string, ok bool)
	// Revoke refuses a scheduler's certificates from now on.
	Revoke func(ctx context.Context, id string) error
	// NewGossipKey makes a gossip key, encrypted; nil while there is no gossip.
	NewGossipKey func() (*fleetv1.GossipKey, error)
	// Gossip may answer nil.
	Gossip func() Gossip
	Clock  *Clock
	// Seeds are gRPC addresses where schedulers may be: a store that has just been opened knows of none.
	Seeds  func() []string
	Logger *slog.Logger
}
