package cluster

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/drover-fleet/drover/agent"
	"github.com/drover-fleet/drover/client"
	"github.com/drover-fleet/drover/identity"
	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
	"github.com/drover-fleet/drover/scheduler"
)

// Schedulers is a cluster of schedulers with TLS, and its nodes. The embedded Cluster's client asks the first scheduler;
// its own scheduler methods (StartScheduler, StopScheduler, HTTPAddr) are not for it.
type Schedulers struct {
	*Cluster
	All []*Scheduler
}

// Scheduler is one of them. It may be stopped and started again, on the same ports unless Move was called.
type Scheduler struct {
	Name string
	// Client asks this scheduler with the administrator's token, Server is the process of the last start.
	Client *client.Client
	Server *scheduler.Server
	// Tune changes the configuration of the next start.
	Tune func(cfg *scheduler.Config)

	s          *Schedulers
	dir        string
	clockShift atomic.Int64
	ports      [3]string // gRPC, HTTP, Raft; empty before the first start
	daemon     daemon
}

// Three starts a cluster of three schedulers, as an operator does: the first bootstraps, the others join by a join file
// and are promoted. It waits for that, and for the nodes (Options.Nodes, none by default).
func Three(t testing.TB, opts Options) *Schedulers {
	t.Helper()
	s := &Schedulers{Cluster: &Cluster{t: t, opts: opts, dir: t.TempDir(), Image: serveImage(t)}}
	s.logger = testLogger(t, s.dir)
	first := s.Add(nil)
	token, err := os.ReadFile(filepath.Join(first.dir, scheduler.AdminTokenFile))
	if err != nil {
		t.Fatalf("read the administrator's token: %v", err)
	}
	s.Token = strings.TrimSpace(string(token))
	first.dial()
	s.Cluster.Client = first.Client
	for range 2 {
		s.Add(nil)
	}
	s.WaitVoters(3)
	for i := range max(opts.Nodes, 0) {
		node := newNode(s.Cluster, i)
		node.secure = func(cfg *agent.Config) {
			cfg.Insecure, cfg.Schedulers, cfg.TokenFile = false, nil, ""
			cfg.JoinFile = s.JoinFile(&fleetv1.CreateJoinTokenRequest{Node: node.Name})
		}
		s.Nodes = append(s.Nodes, node)
		node.Start()
		t.Cleanup(func() { node.close() })
	}
	for _, node := range s.Nodes {
		s.WaitNodeState(node.Name, fleetv1.NodeReady)
	}
	return s
}

// Add starts one more scheduler, which joins when there are others. tune is kept for its later starts; it may be nil.
func (s *Schedulers) Add(tune func(cfg *scheduler.Config)) *Scheduler {
	s.t.Helper()
	n := len(s.All) + 1
	one := &Scheduler{Name: fmt.Sprintf("s%d", n), Tune: tune, s: s}
	one.dir = filepath.Join(s.dir, one.Name)
	s.All = append(s.All, one)
	s.t.Cleanup(func() {
		one.Stop()
		if one.Client != nil {
			if err := one.Client.Close(); err != nil {
				s.t.Errorf("close the client of %s: %v", one.Name, err)
			}
		}
	})
	one.Start()
	if n > 1 {
		one.dial()
	}
	return one
}

// JoinFile makes a join token and answers the path of its file.
func (s *Schedulers) JoinFile(req *fleetv1.CreateJoinTokenRequest) string {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), limit)
	defer cancel()
	resp, err := s.Leader().Client.Identity.CreateJoinToken(ctx, req)
	if err != nil {
		s.t.Fatalf("make a join token: %v", err)
	}
	token, err := identity.ParseToken(resp.GetSecret())
	if err != nil {
		s.t.Fatal(err)
	}
	data, err := identity.JoinFile{Schedulers: resp.GetSchedulers(), Token: token}.Encode()
	if err != nil {
		s.t.Fatal(err)
	}
	path := filepath.Join(s.t.TempDir(), "join")
	if err := os.WriteFile(path, data, 0o600); err != nil {
		s.t.Fatal(err)
	}
	return path
}

// config is that of the next start.
func (one *Scheduler) config() scheduler.Config {
	one.s.t.Helper()
	cfg := scheduler.DefaultConfig()
	cfg.Name, cfg.DataDir, cfg.KeyFile = one.Name, one.dir, filepath.Join(one.s.dir, "cluster.key")
	cfg.GRPCAddr, cfg.HTTPAddr, cfg.RaftAddr, cfg.GossipAddr = "127.0.0.1:0", "127.0.0.1:0", "127.0.0.1:0", "127.0.0.1:0"
	if one.ports[0] != "" {
		cfg.GRPCAddr, cfg.HTTPAddr, cfg.RaftAddr = one.ports[0], one.ports[1], one.ports[2]
	}
	cfg.LookupMaxAge, cfg.LookupsPerUser = time.Second, 0
	cfg.Membership.StableFor, cfg.Membership.ProbeInterval, cfg.Membership.AnnounceInterval = time.Second, 100*time.Millisecond, 200*time.Millisecond
	cfg.Wall = func() time.Time { return time.Now().Add(time.Duration(one.clockShift.Load())) }
	if len(one.s.All) > 1 && !identity.Exists(filepath.Join(one.dir, "identity")) {
		cfg.JoinFile = one.s.JoinFile(&fleetv1.CreateJoinTokenRequest{Role: fleetv1.RoleScheduler})
	}
	if one.s.opts.Scheduler != nil {
		one.s.opts.Scheduler(&cfg)
	}
	if one.Tune != nil {
		one.Tune(&cfg)
	}
	return cfg
}

// Start starts the scheduler and waits until it serves.
func (one *Scheduler) Start() {
	t := one.s.t
	t.Helper()
	cfg := one.config()
	server, err := scheduler.New(cfg, one.s.logger.With("daemon", one.Name))
	if err != nil {
		t.Fatalf("make scheduler %s: %v", one.Name, err)
	}
	one.Server = server
	one.daemon.start("scheduler "+one.Name, server.Run)
	timeout := time.NewTimer(limit)
	defer timeout.Stop()
	select {
	case <-server.Ready():
	case <-one.daemon.done:
		t.Fatalf("scheduler %s ended before it was ready: %v", one.Name, one.daemon.err)
	case <-timeout.C:
		t.Fatalf("scheduler %s isn't ready after %v", one.Name, limit)
	}
	one.ports = [3]string{server.GRPCAddr(), server.HTTPAddr(), server.RaftAddr()}
}

// Stop stops the scheduler in order: a leader hands over.
func (one *Scheduler) Stop() {
	one.s.t.Helper()
	one.daemon.stop(one.s.t)
}

// Move makes the next Start take other ports.
func (one *Scheduler) Move() {
	one.s.t.Helper()
	one.ports = [3]string{}
}

// Running says whether it was started and not stopped.
func (one *Scheduler) Running() bool { return one.daemon.cancel != nil }

// ShiftClock makes its wall clock show another time than the others'.
func (one *Scheduler) ShiftClock(by time.Duration) { one.clockShift.Store(int64(by)) }

// dial makes the client, which a moved scheduler needs anew.
func (one *Scheduler) dial() {
	t := one.s.t
	t.Helper()
	if one.Client != nil {
		if err := one.Client.Close(); err != nil {
			t.Errorf("close the client of %s: %v", one.Name, err)
		}
	}
	var err error
	one.Client, err = client.Dial(client.Config{Addr: one.Server.GRPCAddr(), Token: one.s.Token, CAFile: one.Server.CAPath()})
	if err != nil {
		t.Fatal(err)
	}
}

// Leader waits for a scheduler that leads.
func (s *Schedulers) Leader() *Scheduler {
	s.t.Helper()
	var found *Scheduler
	s.Poll("a scheduler leads", func() error {
		i := slices.IndexFunc(s.All, func(one *Scheduler) bool { return one.Running() && one.Server.Leads() })
		if i < 0 {
			return fmt.Errorf("none does")
		}
		found = s.All[i]
		return nil
	})
	return found
}

// Follower answers a scheduler that runs and doesn't lead, one that isn't among others.
func (s *Schedulers) Follower(others ...*Scheduler) *Scheduler {
	s.t.Helper()
	leader := s.Leader()
	for _, one := range s.All {
		if one != leader && one.Running() && !slices.Contains(others, one) {
			return one
		}
	}
	s.t.Fatal("no other scheduler runs")
	return nil
}

// Members asks the leader how the schedulers are.
func (s *Schedulers) Members() ([]*fleetv1.Member, error) {
	ctx, cancel := context.WithTimeout(s.t.Context(), limit)
	defer cancel()
	resp, err := s.Leader().Client.Cluster.ListMembers(ctx, &fleetv1.ListMembersRequest{})
	return resp.GetMembers(), err
}

// WaitVoters waits until so many schedulers have a vote and are alive.
func (s *Schedulers) WaitVoters(n int) {
	s.t.Helper()
	s.Poll(fmt.Sprintf("%d voters are alive", n), func() error {
		all, err := s.Members()
		if err != nil {
			return err
		}
		voters := 0
		for _, m := range all {
			if m.GetRole() == "voter" && m.GetState() == "alive" {
				voters++
			}
		}
		if voters != n {
			return fmt.Errorf("%d are: %v", voters, all)
		}
		return nil
	})
}

// Poll fails the test unless fn answers nil before the limit.
func (s *Schedulers) Poll(what string, fn func() error) {
	s.t.Helper()
	deadline := time.Now().Add(limit)
	for {
		err := fn()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			s.t.Fatalf("not within %v: %s: %v", limit, what, err)
		}
		time.Sleep(10 * time.Millisecond)
	}
}
