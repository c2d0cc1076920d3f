package skew

import (
	"context"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/drover-fleet/drover/agent"
	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
	"github.com/drover-fleet/drover/scheduler"
	"github.com/drover-fleet/drover/scheduler/raftstore"
	"github.com/drover-fleet/drover/scheduler/state"
	"github.com/drover-fleet/drover/test/cluster"
)

var record = flag.String("record", "", "record the fixtures of this version into this `directory`")

const limit = time.Minute

// TestRecord makes the fixtures; see the package's doc.
func TestRecord(t *testing.T) {
	if *record == "" {
		t.Skip("records only with -record")
	}
	if _, err := os.Stat(*record); err == nil {
		t.Fatalf("%s is there: fixtures are recorded once", *record)
	}
	r := recorder{t: t, dir: *record}
	var addr string
	c := cluster.Start(t, cluster.Options{Devices: "2xH100-80GB",
		Scheduler: func(cfg *scheduler.Config) { r.scheduler = cfg.DataDir },
		Agent:     func(_ int, cfg *agent.Config) { r.agent, addr = cfg.DataDir, cfg.Schedulers[0] },
	})
	c.Declare()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	r.session(ctx, c, addr)
	r.messages(ctx, c)
	c.Nodes[0].Stop()
	c.StopScheduler()
	r.finish(ctx)
}

type recorder struct {
	t                *testing.T
	dir              string
	scheduler, agent string // data directories
}

func (r recorder) must(err error) {
	r.t.Helper()
	if err != nil {
		r.t.Fatal(err)
	}
}

// session is an agent's, recorded from its own end.
func (r recorder) session(ctx context.Context, c *cluster.Cluster, addr string) {
	token, err := os.ReadFile(filepath.Join(r.scheduler, scheduler.AgentTokenFile))
	r.must(err)
	conn, err := grpc.NewClient("passthrough:///"+addr, grpc.WithTransportCredentials(insecure.NewCredentials()))
	r.must(err)
	defer conn.Close()
	stream, err := fleetv1.NewAgentServiceClient(conn).Session(metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+strings.TrimSpace(string(token))))
	r.must(err)
	send := func(name string, m *fleetv1.SessionRequest) {
		r.message("session-request-"+name, m)
		r.must(stream.Send(m))
	}
	receive := func(name string, wanted func(*fleetv1.SessionResponse) bool) *fleetv1.SessionResponse {
		for {
			m, err := stream.Recv()
			r.must(err)
			if wanted(m) {
				r.message("session-response-"+name, m)
				return m
			}
		}
	}
	facts := &fleetv1.NodeFacts{
		BootId: "boot", Hostname: "recorded", Arch: "amd64", Os: "linux", CpuMillis: 8000, MemoryBytes: 16 << 30, DiskBytes: 100 << 30,
		AdvertiseAddress: "127.0.0.1", Labels: map[string]string{"cluster": "test"}, AgentVersion: "recorded",
		Devices: []*fleetv1.Device{{Id: "GPU-recorded", Vendor: "nvidia", Model: "H100-80GB", MemoryBytes: 80 << 30, Health: fleetv1.Healthy}},
	}
	send("hello", &fleetv1.SessionRequest{Message: &fleetv1.SessionRequest_Hello{Hello: &fleetv1.Hello{NodeName: "recorded", Facts: facts}}})
	receive("welcome", func(m *fleetv1.SessionResponse) bool { return m.GetWelcome() != nil })
	_, err = c.Client.Services.DeployService(ctx, &fleetv1.DeployServiceRequest{Service: &fleetv1.Service{
		Meta: &fleetv1.Meta{Name: "iris", Project: "default"},
		Spec: &fleetv1.ServiceSpec{Pool: cluster.Pool, RescheduleAfterSeconds: proto.Int32(90), Versions: []*fleetv1.ServiceVersion{{
			Model: cluster.Model, Flavor: cluster.Flavor, Instances: 2, Placement: &fleetv1.PlacementRules{AntiAffinity: true}}}},
	}})
	r.must(err)
	set := receive("assignments", func(m *fleetv1.SessionResponse) bool { return len(m.GetAssignments().GetInstances()) > 0 }).GetAssignments()
	send("report", &fleetv1.SessionRequest{Message: &fleetv1.SessionRequest_Report{Report: &fleetv1.StatusReport{Id: 1, Instances: []*fleetv1.InstanceReport{{
		InstanceId: set.GetInstances()[0].GetMeta().GetId(),
		Observed: &fleetv1.InstanceObserved{State: fleetv1.InstanceRunning, Attempt: 1, Sequence: 1, Ready: true, Health: fleetv1.Healthy,
			Ip: "127.0.0.1", Port: 30001, StartTime: timestamppb.Now(), Pid: 4711},
		Events: []*fleetv1.ReportedEvent{{Sequence: 1, TimeUnixNano: time.Now().UnixNano(), Type: fleetv1.EventNormal, Reason: "InstanceHealthy", Message: "recorded"}},
	}}}}})
	receive("ack", func(m *fleetv1.SessionResponse) bool { return m.GetAck() != nil })
	send("heartbeat", &fleetv1.SessionRequest{Message: &fleetv1.SessionRequest_Heartbeat{Heartbeat: &fleetv1.Heartbeat{Generation: set.GetGeneration()}}})
	send("facts", &fleetv1.SessionRequest{Message: &fleetv1.SessionRequest_Facts{Facts: facts}})
	c.WaitState("iris", fleetv1.ServiceRunning)
}

// messages are those of the API.
func (r recorder) messages(ctx context.Context, c *cluster.Cluster) {
	deploy := &fleetv1.DeployServiceRequest{RequestId: "recorded", Service: &fleetv1.Service{
		Meta: &fleetv1.Meta{Name: "again", Project: "default", Tags: map[string]string{"team": "a"}},
		Spec: &fleetv1.ServiceSpec{Pool: cluster.Pool, RescheduleAfterSeconds: proto.Int32(30), GracePeriodSeconds: proto.Int32(5),
			Versions: []*fleetv1.ServiceVersion{{Model: cluster.Model, Flavor: cluster.Flavor, Instances: 1, Env: map[string]string{"A": "b"}, Placement: &fleetv1.PlacementRules{Nodes: []string{"node-1"}}}}},
	}}
	deployed, err := c.Client.Services.DeployService(ctx, deploy)
	r.must(err)
	r.message("deploy-request", deploy)
	r.message("deploy-response", deployed)
	c.WaitState("again", fleetv1.ServiceRunning)
	got, err := c.Client.Services.GetService(ctx, &fleetv1.GetServiceRequest{Name: "iris"})
	r.must(err)
	r.message("get-service-response", got)
	nodes, err := c.Client.Nodes.ListNodes(ctx, &fleetv1.ListNodesRequest{})
	r.must(err)
	r.message("list-nodes-response", nodes)
	instances, err := c.Client.Instances.ListInstances(ctx, &fleetv1.ListInstancesRequest{})
	r.must(err)
	r.message("list-instances-response", instances)
	events, err := c.Client.Events.ListEvents(ctx, &fleetv1.ListEventsRequest{Filter: &fleetv1.EventFilter{}})
	r.must(err)
	r.message("list-events-response", events)
	cluster, err := c.Client.Cluster.GetClusterStatus(ctx, &fleetv1.GetClusterStatusRequest{})
	r.must(err)
	r.message("cluster-status-response", cluster)
}

func (r recorder) message(name string, m proto.Message) {
	r.t.Helper()
	b, err := proto.Marshal(m)
	r.must(err)
	r.write(filepath.Join("messages", name+".binpb"), b)
	r.write(filepath.Join("messages", name+".json"), []byte(asJSON(r.t, m)))
}

func (r recorder) write(name string, b []byte) {
	r.t.Helper()
	path := filepath.Join(r.dir, name)
	r.must(os.MkdirAll(filepath.Dir(path), 0o755))
	r.must(os.WriteFile(path, b, 0o644))
}

// finish has the scheduler make a snapshot and write to its log after it, and keeps what is on the disks.
func (r recorder) finish(ctx context.Context) {
	st := state.New()
	cfg := raftstore.DefaultConfig()
	cfg.DataDir, cfg.Addr = r.scheduler, "127.0.0.1:0"
	store, err := raftstore.Open(cfg, st, nil)
	r.must(err)
	for !<-store.LeaderChanges() {
	}
	r.must(store.Snapshot(ctx))
	for i := range 3 {
		write := &fleetv1.Write{Mutations: []*fleetv1.Mutation{state.Put(0, &fleetv1.Flavor{
			Meta: &fleetv1.Meta{Name: fmt.Sprintf("after-the-snapshot-%d", i), Id: fmt.Sprint(i)}, Spec: &fleetv1.FlavorSpec{CpuMillis: 1000, MemoryBytes: 1 << 30}})}}
		cmd := &fleetv1.Command{Time: timestamppb.Now(), Caller: "recorder", RequestId: fmt.Sprint("request-", i), Op: &fleetv1.Command_Write{Write: write}}
		cmd.Introduced = state.Introduced(cmd)
		_, err := store.Propose(ctx, cmd)
		r.must(err)
	}
	r.write("state.json", []byte(describe(r.t, st.View())))
	r.must(store.Close())
	r.keep(filepath.Join(r.scheduler, "raft"), "scheduler/raft")
	for _, name := range []string{scheduler.AdminTokenFile, scheduler.AgentTokenFile} {
		b, err := os.ReadFile(filepath.Join(r.scheduler, name))
		r.must(err)
		r.write(filepath.Join("scheduler", name), b)
	}
	r.keep(r.agent, "agent")
}

// keep copies a directory without what means nothing to another process.
func (r recorder) keep(from, to string) {
	r.must(filepath.WalkDir(from, func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() && e.Name() == "logs" {
			return filepath.SkipDir
		}
		if !e.Type().IsRegular() || strings.HasSuffix(e.Name(), "lock") {
			return nil
		}
		rel, err := filepath.Rel(from, path)
		r.must(err)
		b, err := os.ReadFile(path)
		r.must(err)
		r.write(filepath.Join(to, rel), b)
		return nil
	}))
}

// describe lists the objects of a store.
func describe(t *testing.T, view state.ReadView) string {
	t.Helper()
	var b strings.Builder
	add := func(m proto.Message) { b.WriteString(asJSON(t, m)) }
	add(view.Cluster())
	for _, o := range view.Nodes() {
		add(o)
	}
	for _, o := range view.Flavors() {
		add(o)
	}
	for _, o := range view.Pools() {
		add(o)
	}
	for _, o := range view.Models("", "") {
		add(o)
	}
	for _, o := range view.Services("") {
		add(o)
	}
	for _, o := range view.Instances() {
		add(o)
	}
	return b.String()
}

// asJSON is one line that is the same for equal messages: protojson's own white space isn't.
func asJSON(t *testing.T, m proto.Message) string {
	t.Helper()
	b, err := protojson.MarshalOptions{UseProtoNames: true}.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	return compact(t, b) + "\n"
}
