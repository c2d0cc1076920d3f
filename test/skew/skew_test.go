package skew

import (
	"bytes"
	"context"
	"encoding/json"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"github.com/drover-fleet/drover/agent"
	"github.com/drover-fleet/drover/agent/journal"
	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
	"github.com/drover-fleet/drover/runtime/fake"
	"github.com/drover-fleet/drover/scheduler"
	"github.com/drover-fleet/drover/scheduler/raftstore"
	"github.com/drover-fleet/drover/scheduler/state"
)

// versions runs a test for each version whose fixtures there are.
func versions(t *testing.T, test func(t *testing.T, dir string)) {
	all, err := filepath.Glob("testdata/*")
	if err != nil || len(all) == 0 {
		t.Fatalf("no fixtures: %v", err)
	}
	for _, dir := range all {
		t.Run(filepath.Base(dir), func(t *testing.T) { test(t, dir) })
	}
}

// copied is a copy of a directory of fixtures that may be written to.
func copied(t *testing.T, from string) string {
	t.Helper()
	to := filepath.Join(t.TempDir(), "copy")
	err := filepath.WalkDir(from, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(from, path)
		if err != nil || e.IsDir() {
			return os.MkdirAll(filepath.Join(to, rel), 0o700)
		}
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		return os.WriteFile(filepath.Join(to, rel), b, 0o600)
	})
	if err != nil {
		t.Fatal(err)
	}
	return to
}

func read(t *testing.T, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func compact(t *testing.T, b []byte) string {
	t.Helper()
	var out bytes.Buffer
	if err := json.Compact(&out, b); err != nil {
		t.Fatal(err)
	}
	return out.String()
}

// message reads a recorded message into m.
func message[M proto.Message](t *testing.T, dir, name string, m M) M {
	t.Helper()
	if err := proto.Unmarshal(read(t, filepath.Join(dir, "messages", name+".binpb")), m); err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return m
}

func TestTheLogAndItsSnapshotAreRead(t *testing.T) {
	versions(t, func(t *testing.T, dir string) {
		want, data := string(read(t, filepath.Join(dir, "state.json"))), copied(t, filepath.Join(dir, "scheduler"))
		for _, what := range []string{"as it was left", "as this version left it"} {
			st := state.New()
			cfg := raftstore.DefaultConfig()
			cfg.DataDir, cfg.Addr, cfg.Logger = data, "127.0.0.1:0", slog.New(slog.DiscardHandler)
			store, err := raftstore.Open(cfg, st, nil)
			if err != nil {
				t.Fatalf("%s: %v", what, err)
			}
			ctx, cancel := context.WithTimeout(t.Context(), limit)
			for !store.IsLeader() {
				select {
				case <-store.LeaderChanges():
				case <-ctx.Done():
					t.Fatalf("%s: it doesn't lead", what)
				}
			}
			if have := describe(t, st.View()); have != want {
				t.Errorf("%s: the state is\n%s\nwant\n%s", what, have, want)
			}
			if r := st.View().Request("default/default", "request-2"); r == nil {
				t.Errorf("%s: a request ID is forgotten", what)
			}
			if err := store.Snapshot(ctx); err != nil {
				t.Errorf("%s: %v", what, err)
			}
			cancel()
			if err := store.Close(); err != nil {
				t.Fatal(err)
			}
		}
	})
}

func TestTheSnapshotIsLookedAt(t *testing.T) {
	versions(t, func(t *testing.T, dir string) {
		files, err := filepath.Glob(filepath.Join(dir, "scheduler/raft/snapshots/*/state.bin"))
		if err != nil || len(files) != 1 {
			t.Fatalf("snapshots: %v, %v", files, err)
		}
		data := copied(t, filepath.Join(dir, "scheduler"))
		if err := os.WriteFile(filepath.Join(data, strings.TrimPrefix(files[0], filepath.Join(dir, "scheduler"))), read(t, files[0])[1:], 0o600); err != nil {
			t.Fatal(err)
		}
		cfg := raftstore.DefaultConfig()
		cfg.DataDir, cfg.Addr, cfg.Logger = data, "127.0.0.1:0", slog.New(slog.DiscardHandler)
		if store, err := raftstore.Open(cfg, state.New(), nil); err == nil {
			t.Errorf("it is not looked at: a damaged one is taken; %v", store.Close())
		}
	})
}

func TestTheJournalIsRead(t *testing.T) {
	versions(t, func(t *testing.T, dir string) {
		cluster := &fleetv1.Cluster{}
		first, _, _ := bytes.Cut(read(t, filepath.Join(dir, "state.json")), []byte("\n"))
		if err := protojson.Unmarshal(first, cluster); err != nil {
			t.Fatal(err)
		}
		j, err := journal.Open(copied(t, filepath.Join(dir, "agent")))
		if err != nil {
			t.Fatal(err)
		}
		defer j.Close()
		if h := j.Header(); h.ClusterID != cluster.GetMeta().GetId() || h.Generation == 0 || h.HoldRemovals {
			t.Errorf("header %+v", h)
		}
		records := j.Records()
		if len(records) != 2 {
			t.Errorf("%d records", len(records))
		}
		for id, r := range records {
			o := r.Instance.GetObserved()
			if r.ID() != id || o.GetState() != fleetv1.InstanceRunning || o.GetPort() == 0 || r.SequenceLimit <= o.GetSequence() || r.Absent || r.StoppedHere {
				t.Errorf("record %v", r)
			}
		}
	})
}

func TestMessagesAreRead(t *testing.T) {
	kinds := map[string]func() proto.Message{
		"session-request":         func() proto.Message { return &fleetv1.SessionRequest{} },
		"session-response":        func() proto.Message { return &fleetv1.SessionResponse{} },
		"deploy-request":          func() proto.Message { return &fleetv1.DeployServiceRequest{} },
		"deploy-response":         func() proto.Message { return &fleetv1.DeployServiceResponse{} },
		"get-service-response":    func() proto.Message { return &fleetv1.GetServiceResponse{} },
		"list-nodes-response":     func() proto.Message { return &fleetv1.ListNodesResponse{} },
		"list-instances-response": func() proto.Message { return &fleetv1.ListInstancesResponse{} },
		"list-events-response":    func() proto.Message { return &fleetv1.ListEventsResponse{} },
		"cluster-status-response": func() proto.Message { return &fleetv1.GetClusterStatusResponse{} },
	}
	versions(t, func(t *testing.T, dir string) {
		files, err := filepath.Glob(filepath.Join(dir, "messages", "*.binpb"))
		if err != nil || len(files) < len(kinds) {
			t.Fatalf("messages: %v, %v", files, err)
		}
		for _, file := range files {
			name := strings.TrimSuffix(filepath.Base(file), ".binpb")
			var wire, text proto.Message
			for prefix, make := range kinds {
				if strings.HasPrefix(name, prefix) {
					wire, text = make(), make()
				}
			}
			if wire == nil {
				t.Errorf("%s: a message of an unknown kind", name)
				continue
			}
			if err := proto.Unmarshal(read(t, file), wire); err != nil {
				t.Errorf("%s: %v", name, err)
			}
			if err := protojson.Unmarshal(read(t, strings.TrimSuffix(file, ".binpb")+".json"), text); err != nil {
				t.Errorf("%s: %v", name, err)
			}
			if !proto.Equal(wire, text) {
				t.Errorf("%s says %s; it said %s", name, asJSON(t, wire), asJSON(t, text))
			}
		}
	})
}

// An agent of then, before a scheduler of now that runs on the files of then.
func TestAnOlderAgentIsServed(t *testing.T) {
	versions(t, func(t *testing.T, dir string) {
		cfg := scheduler.DefaultConfig()
		cfg.Insecure = true
		cfg.DataDir, cfg.GRPCAddr, cfg.HTTPAddr, cfg.RaftAddr = copied(t, filepath.Join(dir, "scheduler")), "127.0.0.1:0", "127.0.0.1:0", "127.0.0.1:0"
		s, err := scheduler.New(cfg, slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), limit)
		ended := make(chan error, 1)
		go func() { ended <- s.Run(ctx) }()
		defer func() {
			cancel()
			if err := <-ended; err != nil {
				t.Error(err)
			}
		}()
		select {
		case <-s.Ready():
		case <-ctx.Done():
			t.Fatal("the scheduler isn't ready")
		}
		conn, err := grpc.NewClient("passthrough:///"+s.GRPCAddr(), grpc.WithTransportCredentials(insecure.NewCredentials()))
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		token := strings.TrimSpace(string(read(t, filepath.Join(dir, "scheduler", scheduler.AgentTokenFile))))
		stream, err := fleetv1.NewAgentServiceClient(conn).Session(metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+token))
		if err != nil {
			t.Fatal(err)
		}
		var welcome *fleetv1.Welcome
		var set *fleetv1.AssignmentSet
		acked := false
		for _, name := range []string{"hello", "heartbeat", "facts", "report"} {
			if err := stream.Send(message(t, dir, "session-request-"+name, &fleetv1.SessionRequest{})); err != nil {
				t.Fatalf("send %s: %v", name, err)
			}
		}
		for welcome == nil || set == nil || !acked {
			m, err := stream.Recv()
			if err != nil {
				t.Fatalf("welcome %v, assignments %v, acknowledged %t: %v", welcome, set, acked, err)
			}
			acked = acked || m.GetAck().GetId() == 1
			if m.GetWelcome() != nil {
				welcome = m.GetWelcome()
			}
			if m.GetAssignments() != nil {
				set = m.GetAssignments()
			}
		}
		old := message(t, dir, "session-response-assignments", &fleetv1.SessionResponse{}).GetAssignments()
		if set.GetClusterId() != old.GetClusterId() || len(set.GetInstances()) != 1 || !proto.Equal(set.GetInstances()[0].GetSpec(), old.GetInstances()[0].GetSpec()) {
			t.Errorf("the node is assigned %v, then %v", set, old)
		}
	})
}

// olderScheduler says to every agent what one of then said.
type olderScheduler struct {
	fleetv1.UnimplementedAgentServiceServer
	answers []*fleetv1.SessionResponse
	reports chan *fleetv1.InstanceReport
}

func (s *olderScheduler) Session(stream grpc.BidiStreamingServer[fleetv1.SessionRequest, fleetv1.SessionResponse]) error {
	if _, err := stream.Recv(); err != nil {
		return err
	}
	for _, m := range s.answers {
		if err := stream.Send(m); err != nil {
			return err
		}
	}
	for {
		m, err := stream.Recv()
		if err != nil {
			return err
		}
		if m.GetReport() == nil {
			continue
		}
		for _, r := range m.GetReport().GetInstances() {
			select {
			case s.reports <- r:
			case <-stream.Context().Done():
				return nil
			}
		}
		if err := stream.Send(&fleetv1.SessionResponse{Message: &fleetv1.SessionResponse_Ack{Ack: &fleetv1.ReportAck{Id: m.GetReport().GetId()}}}); err != nil {
			return err
		}
	}
}

func TestAnOlderSchedulerIsFollowed(t *testing.T) {
	versions(t, func(t *testing.T, dir string) {
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		older := &olderScheduler{reports: make(chan *fleetv1.InstanceReport)}
		for _, name := range []string{"welcome", "assignments"} {
			older.answers = append(older.answers, message(t, dir, "session-response-"+name, &fleetv1.SessionResponse{}))
		}
		server := grpc.NewServer()
		fleetv1.RegisterAgentServiceServer(server, older)
		go server.Serve(listener) // ends with Stop
		defer server.Stop()
		containers := fake.New(fake.Options{Listen: true})
		defer containers.Close()
		cfg := agent.DefaultConfig()
		cfg.NodeName, cfg.Schedulers, cfg.DataDir, cfg.HTTPAddr = "recorded", []string{listener.Addr().String()}, t.TempDir(), "127.0.0.1:0"
		cfg.Insecure, cfg.TokenFile = true, filepath.Join(dir, "scheduler", scheduler.AgentTokenFile)
		a, err := agent.New(cfg, agent.Deps{Runtime: containers, Logger: slog.New(slog.DiscardHandler)})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), limit)
		ended := make(chan error, 1)
		go func() { ended <- a.Run(ctx) }()
		defer func() {
			cancel()
			if err := <-ended; err != nil {
				t.Error(err)
			}
		}()
		want := older.answers[1].GetAssignments().GetInstances()[0].GetMeta().GetId()
		for {
			select {
			case r := <-older.reports:
				if r.GetInstanceId() == want && r.GetObserved().GetReady() {
					return
				}
			case <-ctx.Done():
				t.Fatalf("instance %s isn't reported as ready", want)
			}
		}
	})
}
