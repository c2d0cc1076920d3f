package member

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/types/known/timestamppb"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
	"github.com/drover-fleet/drover/scheduler/raftstore"
	"github.com/drover-fleet/drover/scheduler/state"
)

// limit is how long anything may take before a test fails.
const limit = 30 * time.Second

// one is a scheduler made of a Raft store, a gRPC server that believes who its callers say they are, and Members.
type one struct {
	t     *testing.T
	dir   string
	name  string
	seeds []string
	tune  func(*Config)

	shift atomic.Int64 // of the wall clock
	*Members
	raft   *raftstore.Store
	st     *state.Store
	server *grpc.Server
	cancel context.CancelFunc
	ended  sync.WaitGroup
}

const idKey = "test-scheduler"

func callerID(ctx context.Context) (string, bool) {
	v := metadata.ValueFromIncomingContext(ctx, idKey)
	return append(v, "")[0], len(v) == 1
}

func newOne(t *testing.T, name string, seeds ...string) *one {
	return &one{t: t, dir: t.TempDir(), name: name, seeds: seeds}
}

// start starts the scheduler, at other ports each time.
func (o *one) start(bootstrap bool) *one {
	o.t.Helper()
	log := slog.New(slog.NewTextHandler(testWriter{o.t, o.name}, &slog.HandlerOptions{Level: slog.LevelWarn}))
	o.st = state.New()
	raft, err := raftstore.Open(raftstore.Config{
		DataDir: o.dir, Addr: "127.0.0.1:0", Bootstrap: bootstrap, Logger: log,
		HeartbeatTimeout: 300 * time.Millisecond, ElectionTimeout: 300 * time.Millisecond, LeaderLease: 200 * time.Millisecond,
	}, o.st, nil)
	if err != nil {
		o.t.Fatal(err)
	}
	o.raft = raft
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		o.t.Fatal(err)
	}
	addr := l.Addr().String()
	settings := DefaultSettings()
	settings.ProbeInterval, settings.ProbeTimeout, settings.AnnounceInterval = 20*time.Millisecond, time.Second, 50*time.Millisecond
	settings.UnreachableAfter, settings.StableFor, settings.DeadAfter = 500*time.Millisecond, 200*time.Millisecond, time.Hour
	cfg := Config{
		Settings: settings, Raft: raft, State: o.st, Proposer: raft, Logger: log, Seeds: func() []string { return o.seeds },
		Self: &fleetv1.Scheduler{
			Meta: &fleetv1.Meta{Id: raft.ID(), Name: o.name}, RaftAddress: raft.Addr(), GrpcAddress: addr, HttpAddress: addr,
			Version: "v1", CommandVersion: state.CommandVersion,
		},
		Dial: func(addr string) (*grpc.ClientConn, error) {
			return grpc.NewClient("passthrough:///"+addr, grpc.WithTransportCredentials(insecure.NewCredentials()),
				grpc.WithUnaryInterceptor(func(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, next grpc.UnaryInvoker, opts ...grpc.CallOption) error {
					return next(metadata.AppendToOutgoingContext(ctx, idKey, raft.ID()), method, req, reply, cc, opts...)
				}))
		},
		Peer:  callerID,
		Clock: NewClock(func() time.Time { return time.Now().Add(time.Duration(o.shift.Load())) }),
	}
	if o.tune != nil {
		o.tune(&cfg)
	}
	o.Members = New(cfg)
	o.server = grpc.NewServer()
	fleetv1.RegisterPeerServiceServer(o.server, o.Members)
	ctx, cancel := context.WithCancel(context.Background())
	o.cancel = cancel
	o.ended.Go(func() { o.Run(ctx) })
	o.ended.Go(func() {
		if err := o.server.Serve(l); err != nil {
			o.t.Error(err)
		}
	})
	o.t.Cleanup(o.stop)
	if bootstrap {
		o.await("a leader", o.raft.IsLeader)
		o.propose(&fleetv1.Cluster{Meta: &fleetv1.Meta{Name: "cluster", Id: "c1"}})
	}
	return o
}

func (o *one) stop() {
	if o.cancel == nil {
		return
	}
	o.cancel()
	o.cancel = nil
	o.server.Stop()
	o.ended.Wait()
	if err := o.raft.Close(); err != nil {
		o.t.Error(err)
	}
}

func (o *one) addr() string { return o.cfg.Self.GetGrpcAddress() }

func (o *one) propose(m interface {
	GetMeta() *fleetv1.Meta
}) {
	o.t.Helper()
	var mutation *fleetv1.Mutation
	switch m := m.(type) {
	case *fleetv1.Cluster:
		mutation = state.Put(0, m)
	case *fleetv1.Flavor:
		mutation = state.Put(0, m)
	case *fleetv1.Scheduler:
		mutation = state.Put(0, m)
	}
	cmd := &fleetv1.Command{Time: timestamppb.Now(), Caller: "test", Op: &fleetv1.Command_Write{Write: &fleetv1.Write{Mutations: []*fleetv1.Mutation{mutation}}}}
	cmd.Introduced = state.Introduced(cmd)
	ctx, cancel := context.WithTimeout(o.t.Context(), limit)
	defer cancel()
	if r, err := o.raft.Propose(ctx, cmd); err != nil || len(r.Rejections) > 0 {
		o.t.Fatalf("propose: %+v, %v", r, err)
	}
}

// await polls until ok.
func (o *one) await(what string, ok func() bool) {
	o.t.Helper()
	poll(o.t, o.name+": "+what, ok)
}

func poll(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(limit); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within %v: %s", limit, what)
		}
	}
}

func (o *one) voters() (n int) {
	for _, r := range o.raft.Members() {
		if r.Voter {
			n++
		}
	}
	return n
}

// three makes a cluster as an operator does: the first bootstraps, the others are told where it is.
func three(t *testing.T, tune func(i int, c *Config)) []*one {
	t.Helper()
	var all []*one
	for i := range 3 {
		o := newOne(t, fmt.Sprint("s", i+1))
		if tune != nil {
			o.tune = func(c *Config) { tune(i, c) }
		}
		if i > 0 {
			o.seeds = []string{all[0].addr()}
		}
		all = append(all, o.start(i == 0))
	}
	all[0].await("three voters", func() bool { return all[0].voters() == 3 })
	return all
}

// leader waits until one leads and nobody else still thinks so.
func leader(t *testing.T, all []*one) *one {
	t.Helper()
	var found *one
	poll(t, "a leader", func() bool {
		leads := slices.DeleteFunc(slices.Clone(all), func(o *one) bool { return o.cancel == nil || !o.raft.IsLeader() })
		if len(leads) == 1 {
			found = leads[0]
		}
		return len(leads) == 1
	})
	return found
}

type testWriter struct {
	t    *testing.T
	name string
}

func (w testWriter) Write(b []byte) (int, error) {
	if w.t.Context().Err() == nil {
		w.t.Logf("%s: %s", w.name, b)
	}
	return len(b), nil
}

func byAdmin() *fleetv1.Command { return &fleetv1.Command{Caller: "admin"} }
