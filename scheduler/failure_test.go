package scheduler

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/protobuf/types/known/timestamppb"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
	"github.com/drover-fleet/drover/scheduler/events"
	"github.com/drover-fleet/drover/scheduler/state"
)

func TestMain(m *testing.M) {
	code := m.Run()
	http.DefaultClient.CloseIdleConnections()
	if err := goleak.Find(); err != nil && code == 0 {
		fmt.Fprintln(os.Stderr, "goroutines are left:", err)
		code = 1
	}
	os.Exit(code)
}

// startable is a server that has not been run.
func startable(t *testing.T) *Server {
	t.Helper()
	cfg := DefaultConfig()
	cfg.DataDir, cfg.Version = t.TempDir(), "v9"
	cfg.GRPCAddr, cfg.HTTPAddr, cfg.RaftAddr = "127.0.0.1:0", "127.0.0.1:0", "127.0.0.1:0"
	cfg.HeartbeatInterval, cfg.LeaseDuration = 50*time.Millisecond, 300*time.Millisecond
	s, err := New(cfg, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// Leadership that comes and goes, or is announced twice, leaves one set of loops that work.
func TestLeadershipFlaps(t *testing.T) {
	s := startable(t)
	actual, flaps := s.leads, make(chan bool)
	s.leads = flaps
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	if !<-actual {
		t.Fatal("the only voter does not lead")
	}
	for _, leads := range []bool{true, true, false, true, false, false, true, true} {
		flaps <- leads
	}
	select {
	case <-s.Ready():
	case <-ctx.Done():
		t.Fatal("not ready")
	}
	// The loops work: a node that is never heard of becomes unreachable, once.
	feed := s.state.Subscribe()
	defer feed.Close()
	node := &fleetv1.Node{Meta: &fleetv1.Meta{Name: "n1", Id: "n1"}, Status: &fleetv1.NodeStatus{State: fleetv1.NodeReady}}
	cmd := &fleetv1.Command{Time: timestamppb.Now(), Op: &fleetv1.Command_Write{Write: &fleetv1.Write{
		Mutations: []*fleetv1.Mutation{state.Put(0, node)}}}}
	cmd.Introduced = state.Introduced(cmd)
	if _, err := s.proposals.Propose(ctx, cmd); err != nil {
		t.Fatal(err)
	}
	flaps <- false
	flaps <- true
	for s.state.View().Node("n1").GetStatus().GetState() != fleetv1.NodeUnreachable {
		if _, _, err := feed.Next(ctx); err != nil {
			t.Fatal(err)
		}
	}
	// The store shows a change before its events are appended.
	told, err := s.events.List(ctx, events.Query{Kind: fleetv1.KindNode, Name: "n1"})
	for err == nil && len(told) == 0 {
		told, err = s.events.List(ctx, events.Query{Kind: fleetv1.KindNode, Name: "n1"})
	}
	if err != nil || len(told) != 1 || told[0].GetReason() != "NodeUnreachable" {
		t.Errorf("events %v, %v", told, err)
	}
	cancel()
	if err := <-ended; err != nil {
		t.Errorf("Run: %v", err)
	}
}

// A scheduler whose Raft store has failed ends with the reason, without waiting for what may hang.
func TestFailureOfTheRaftStoreEndsTheServer(t *testing.T) {
	s := startable(t)
	failed := make(chan error, 1)
	s.failed = failed
	ended := make(chan error, 1)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	go func() { ended <- s.Run(ctx) }()
	select {
	case <-s.Ready():
	case <-ctx.Done():
		t.Fatal("not ready")
	}
	if v := s.ClusterStatus().GetVersion(); v != "v9" {
		t.Errorf("version %q", v)
	}
	disk := errors.New("a write hangs")
	failed <- disk
	select {
	case err := <-ended:
		if !errors.Is(err, disk) || !strings.Contains(err.Error(), "the Raft log has failed") {
			t.Errorf("Run: %v", err)
		}
	case <-ctx.Done():
		t.Fatal("Run goes on")
	}
	if err := s.Healthy(); !errors.Is(err, disk) {
		t.Errorf("Healthy: %v", err)
	}
	// The process would end here; the test cleans up in its place.
	s.stopServing()
	if err := s.release(); err != nil {
		t.Error(err)
	}
}
