package api

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
)

func TestFlavors(t *testing.T) {
	w := newWorld(t)
	c := fleetv1.NewFlavorServiceClient(w.conn)
	create := func(f *fleetv1.Flavor) error {
		_, err := c.CreateFlavor(t.Context(), &fleetv1.CreateFlavorRequest{Flavor: f})
		return err
	}
	fresh := func(edit func(*fleetv1.Flavor)) *fleetv1.Flavor {
		f := flavor("gpu.h100.2", nil)
		f.Meta = &fleetv1.Meta{Name: "gpu.h100.2"}
		if edit != nil {
			edit(f)
		}
		return f
	}
	spec := func(edit func(*fleetv1.FlavorSpec)) func(*fleetv1.Flavor) {
		return func(f *fleetv1.Flavor) { edit(f.Spec) }
	}
	accelerator := func(a *fleetv1.Accelerator) func(*fleetv1.Flavor) {
		return spec(func(s *fleetv1.FlavorSpec) { s.Accelerator = a })
	}
	for _, c := range []struct {
		name, field, words string
		edit               func(*fleetv1.Flavor)
	}{
		{"name", "flavor.meta.name", "'/'", func(f *fleetv1.Flavor) { f.Meta.Name = "a/b" }},
		{"dots alone", "flavor.meta.name", "dots", func(f *fleetv1.Flavor) { f.Meta.Name = ".." }},
		{"no CPU", "flavor.spec.cpu_millis", "0 is out of range 10–1024000", spec(func(s *fleetv1.FlavorSpec) { s.CpuMillis = 0 })},
		{"memory", "flavor.spec.memory_bytes", "out of range", spec(func(s *fleetv1.FlavorSpec) { s.MemoryBytes = 1 << 20 })},
		{"disk", "flavor.spec.disk_bytes", "-1", spec(func(s *fleetv1.FlavorSpec) { s.DiskBytes = -1 })},
		{"arch", "flavor.spec.arch", "arm64", spec(func(s *fleetv1.FlavorSpec) { s.Arch = "mips" })},
		{"vendor", "flavor.spec.accelerator.vendor", "ascend", accelerator(&fleetv1.Accelerator{Vendor: "x", Count: 1})},
		{"pattern", "flavor.spec.accelerator.model", "pattern", accelerator(&fleetv1.Accelerator{Model: "[", Count: 1})},
		{"no devices", "flavor.spec.accelerator.count", "1–64", accelerator(&fleetv1.Accelerator{Vendor: "nvidia"})},
		{"limits", "flavor.spec.limits.memlock_bytes", "-2", spec(func(s *fleetv1.FlavorSpec) { s.Limits = &fleetv1.Limits{MemlockBytes: -2} })},
	} {
		w.refused(c.name, create(fresh(c.edit)), codes.InvalidArgument, c.field, c.words, 0)
	}
	if err := create(fresh(nil)); err != nil {
		t.Fatal(err)
	}
	index := w.store.View().Index()
	if err := create(fresh(nil)); err != nil || w.store.View().Index() != index {
		t.Errorf("the same again: %v", err)
	}
	w.refused("another under its name", create(fresh(spec(func(s *fleetv1.FlavorSpec) { s.CpuMillis = 2000 }))),
		codes.AlreadyExists, "", "spec.cpu_millis (1000 → 2000)", index)
	_, err := c.GetFlavor(t.Context(), &fleetv1.GetFlavorRequest{Name: "gpu.h100.1"})
	w.refused("absent", err, codes.NotFound, "", `did you mean "gpu.h100.2"`, index)
	if _, err := c.DeleteFlavor(t.Context(), &fleetv1.DeleteFlavorRequest{Name: "gpu.h100.2"}); err != nil {
		t.Error(err)
	}
	w.furnish()
	w.mustDeploy(iris(nil))
	_, err = c.DeleteFlavor(t.Context(), &fleetv1.DeleteFlavorRequest{Name: "cpu.1u1g"})
	w.refused("in use", err, codes.FailedPrecondition, "", "service default/iris uses it", w.store.View().Index())
}

func TestPools(t *testing.T) {
	w := newWorld(t)
	w.furnish()
	c := fleetv1.NewPoolServiceClient(w.conn)
	index := w.store.View().Index()
	for _, p := range []struct {
		name, field, words string
		spec               *fleetv1.PoolSpec
	}{
		{"type", "pool.spec.type", "dedicated", &fleetv1.PoolSpec{Nodes: []string{"n1"}}},
		{"neither", "pool.spec", "exactly one", &fleetv1.PoolSpec{Type: "public"}},
		{"both", "pool.spec", "exactly one", &fleetv1.PoolSpec{Type: "public", Nodes: []string{"n1"}, Selector: map[string]string{"a": "b"}}},
		{"twice", "pool.spec.nodes[1]", "twice", &fleetv1.PoolSpec{Type: "public", Nodes: []string{"n1", "n1"}}},
		{"account", "pool.spec.account", "dedicated", &fleetv1.PoolSpec{Type: "public", Account: "a", Nodes: []string{"n1"}}},
	} {
		_, err := c.CreatePool(t.Context(), &fleetv1.CreatePoolRequest{Pool: &fleetv1.Pool{Meta: &fleetv1.Meta{Name: "p"}, Spec: p.spec}})
		w.refused(p.name, err, codes.InvalidArgument, p.field, p.words, index)
	}
	ask := &fleetv1.CreatePoolRequest{Pool: &fleetv1.Pool{Meta: &fleetv1.Meta{Name: "p"},
		Spec: &fleetv1.PoolSpec{Type: "dedicated", Selector: map[string]string{"zone": "a"}}}}
	for range 2 {
		resp, err := c.CreatePool(t.Context(), ask)
		if err != nil || resp.GetPool().GetSpec().GetAccount() != fleetv1.Default || len(resp.GetPool().GetNodes()) != 1 {
			t.Fatalf("%v, %v", resp, err)
		}
	}
	if stored := w.store.View().Pool("p"); len(stored.GetNodes()) != 0 {
		t.Errorf("computed fields were stored: %v", stored)
	}
	w.mustDeploy(iris(nil))
	_, err := c.DeletePool(t.Context(), &fleetv1.DeletePoolRequest{Name: "own"})
	w.refused("in use", err, codes.FailedPrecondition, "", "service default/iris uses it", w.store.View().Index())
	if _, err := c.DeletePool(t.Context(), &fleetv1.DeletePoolRequest{Name: "p"}); err != nil {
		t.Error(err)
	}
	if list, err := c.ListPools(t.Context(), &fleetv1.ListPoolsRequest{}); err != nil || len(list.GetPools()) != 3 {
		t.Errorf("%v, %v", list, err)
	}
}

// place puts an instance of a service onto n1.
func (w *world) place(service *fleetv1.Service, observed string, devices ...string) {
	w.t.Helper()
	w.put(&fleetv1.Instance{
		Meta: &fleetv1.Meta{Id: "i1", Name: "iris-i1", Project: fleetv1.Default},
		Spec: &fleetv1.InstanceSpec{ServiceId: service.GetMeta().GetId(), ServiceName: "iris", Node: "n1", CpuMillis: 1000,
			MemoryBytes: 1 << 30, DeviceIds: devices},
		Desired:  &fleetv1.InstanceDesired{State: fleetv1.DesiredRunning},
		Observed: &fleetv1.InstanceObserved{State: observed},
	})
}

func TestNodesAndDevices(t *testing.T) {
	w := newWorld(t)
	w.furnish()
	nodes, devices := fleetv1.NewNodeServiceClient(w.conn), fleetv1.NewDeviceServiceClient(w.conn)
	w.place(w.mustDeploy(iris(nil)), fleetv1.InstanceRunning, "GPU-0")
	resp, err := nodes.GetNode(t.Context(), &fleetv1.GetNodeRequest{Name: "n1"})
	if s := resp.GetNode().GetStatus(); err != nil || s.GetAllocatedCpuMillis() != 1000 || s.GetAllocatedDevices() != 1 || s.GetInstances() != 1 ||
		!s.GetHeartbeatTime().AsTime().Equal(start) {
		t.Errorf("%v, %v", resp, err)
	}
	d, err := devices.GetDevice(t.Context(), &fleetv1.GetDeviceRequest{Id: "GPU-0"})
	if err != nil || d.GetDevice().GetState() != "allocated" || d.GetDevice().GetInstanceName() != "iris-i1" || d.GetDevice().GetNode() != "n1" ||
		d.GetDevice().GetSample().GetDeviceId() != "n1 GPU-0" {
		t.Errorf("%v, %v", d, err)
	}
	for free, want := range map[bool]int{true: 0, false: 1} {
		if list, err := devices.ListDevices(t.Context(), &fleetv1.ListDevicesRequest{Node: "n1", Free: free}); err != nil || len(list.GetDevices()) != want {
			t.Errorf("free %v: %v, %v", free, list, err)
		}
	}
	index := w.store.View().Index()
	_, err = devices.GetDevice(t.Context(), &fleetv1.GetDeviceRequest{Id: "GPU-1"})
	w.refused("absent device", err, codes.NotFound, "", `did you mean "GPU-0"`, index)
	_, err = nodes.GetNode(t.Context(), &fleetv1.GetNodeRequest{Name: "zzzzzz"})
	w.refused("absent node", err, codes.NotFound, "", "there are: n1", index)
	_, err = nodes.ListNodes(t.Context(), &fleetv1.ListNodesRequest{Pool: "nowhere"})
	w.refused("absent pool", err, codes.NotFound, "pool", "no pool", index)
	_, err = nodes.SetNodeCordon(t.Context(), &fleetv1.SetNodeCordonRequest{Name: "n1", Reason: "x"})
	w.refused("reason to uncordon", err, codes.InvalidArgument, "reason", "only for cordoning", index)

	for i, cordoned := range []bool{true, true, false} {
		reason := ""
		if cordoned {
			reason = "new fan"
		}
		resp, err := nodes.SetNodeCordon(t.Context(), &fleetv1.SetNodeCordonRequest{Name: "n1", Cordoned: cordoned, Reason: reason})
		if err != nil || resp.GetNode().GetSpec().GetCordoned() != cordoned {
			t.Errorf("%d: %v, %v", i, resp, err)
		}
	}
	if n := len(w.events); n != 2 || w.events[0].GetMessage() != "root closed it for placement: new fan" || w.events[1].GetReason() != "NodeUncordoned" {
		t.Errorf("events %v", w.events)
	}
	if stored := w.store.View().Node("n1"); stored.GetStatus().GetAllocatedCpuMillis() != 0 {
		t.Errorf("computed fields were stored: %v", stored)
	}
}

func (w *world) instances() fleetv1.InstanceServiceClient {
	return fleetv1.NewInstanceServiceClient(w.conn)
}

func TestInstances(t *testing.T) {
	w := newWorld(t)
	w.furnish()
	w.place(w.mustDeploy(iris(nil)), fleetv1.InstanceRunning)
	for _, c := range []struct {
		req  *fleetv1.ListInstancesRequest
		want int
	}{
		{&fleetv1.ListInstancesRequest{}, 1}, {&fleetv1.ListInstancesRequest{Service: "iris"}, 1}, {&fleetv1.ListInstancesRequest{Node: "n1-id"}, 1},
		{&fleetv1.ListInstancesRequest{Service: "iris", Node: "n1"}, 1}, {&fleetv1.ListInstancesRequest{Project: "other"}, 0},
	} {
		if resp, err := w.instances().ListInstances(t.Context(), c.req); err != nil || len(resp.GetInstances()) != c.want {
			t.Errorf("%v: %v, %v", c.req, resp, err)
		}
	}
	for _, name := range []string{"i1", "iris-i1"} {
		if resp, err := w.instances().GetInstance(t.Context(), &fleetv1.GetInstanceRequest{Name: name}); err != nil || resp.GetInstance().GetMeta().GetId() != "i1" {
			t.Errorf("%s: %v, %v", name, resp, err)
		}
	}
	_, err := w.instances().GetInstance(t.Context(), &fleetv1.GetInstanceRequest{Project: "other", Name: "i1"})
	w.refused("another project's", err, codes.NotFound, "", "none exists", w.store.View().Index())
}

func TestLogs(t *testing.T) {
	w := newWorld(t)
	w.furnish()
	w.place(w.mustDeploy(iris(nil)), fleetv1.InstanceRunning)
	index := w.store.View().Index()
	logs := func(q *fleetv1.LogQuery) (lines []string, err error) {
		stream, err := w.instances().GetInstanceLogs(t.Context(), &fleetv1.GetInstanceLogsRequest{Name: "i1", Query: q})
		for err == nil {
			var resp *fleetv1.GetInstanceLogsResponse
			if resp, err = stream.Recv(); err == nil {
				for _, l := range resp.GetLines() {
					lines = append(lines, string(l.GetText()))
				}
			}
		}
		return lines, err
	}
	_, err := logs(nil)
	w.refused("not connected", err, codes.Unavailable, "", `node "n1" is not connected`, index)
	for field, q := range map[string]*fleetv1.LogQuery{
		"query.tail": {Tail: -1}, "query.search": {Search: "a=b"}, "query.until": {Follow: true, Until: w.store.View().Services("")[0].GetMeta().GetCreateTime()},
	} {
		_, err := logs(q)
		w.refused(field, err, codes.InvalidArgument, field, "", index)
	}
	relay := newRelay()
	w.relays["n1"] = relay
	relay.out <- &fleetv1.RelayRequest{RelayId: "r"}
	relay.out <- &fleetv1.RelayRequest{Lines: []*fleetv1.LogLine{{Text: []byte("one")}, {Text: []byte("two")}}}
	close(relay.out)
	lines, err := logs(&fleetv1.LogQuery{Tail: 2})
	if strings.Join(lines, " ") != "one two" || err.Error() != "EOF" || relay.order.GetLogs().GetTail() != 2 || relay.order.GetInstanceId() != "i1" {
		t.Errorf("%v, %v, order %v", lines, err, relay.order)
	}
	<-relay.closed

	w.relays["n1"] = newRelay()
	w.relays["n1"].out <- &fleetv1.RelayRequest{Error: "the logs are gone"}
	_, err = logs(nil)
	w.refused("the node's error", err, codes.FailedPrecondition, "", "node n1: the logs are gone", index)
	<-w.relays["n1"].closed
}

func TestExec(t *testing.T) {
	w := newWorld(t)
	w.furnish()
	w.place(w.mustDeploy(iris(nil)), fleetv1.InstanceRunning)
	relay := newRelay()
	w.relays["n1"] = relay
	stream, err := w.instances().ExecInstance(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	send := func(m *fleetv1.ExecInstanceRequest) {
		t.Helper()
		if err := stream.Send(m); err != nil {
			t.Fatal(err)
		}
	}
	send(&fleetv1.ExecInstanceRequest{Name: "iris-i1", Start: &fleetv1.ExecStart{Command: []string{"cat"}}})
	send(&fleetv1.ExecInstanceRequest{Input: &fleetv1.ExecInput{Stdin: []byte("hello")}})
	if in := <-relay.in; string(in.GetInput().GetStdin()) != "hello" || relay.order.GetExec().GetCommand()[0] != "cat" {
		t.Errorf("input %v, order %v", in, relay.order)
	}
	if err := stream.CloseSend(); err != nil { // the caller sends no more, but still reads
		t.Fatal(err)
	}
	relay.out <- &fleetv1.RelayRequest{Output: &fleetv1.ExecOutput{Stdout: []byte("hello")}}
	relay.out <- &fleetv1.RelayRequest{Output: &fleetv1.ExecOutput{ExitCode: proto.Uint32(7)}}
	close(relay.out)
	if out, err := stream.Recv(); err != nil || string(out.GetOutput().GetStdout()) != "hello" {
		t.Errorf("%v, %v", out, err)
	}
	if out, err := stream.Recv(); err != nil || out.GetOutput().GetExitCode() != 7 {
		t.Errorf("%v, %v", out, err)
	}
	if _, err := stream.Recv(); err == nil || err.Error() != "EOF" {
		t.Errorf("the end: %v", err)
	}
	<-relay.closed
}

func TestExecIdle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.furnish()
		w.place(w.mustDeploy(iris(nil)), fleetv1.InstanceRunning)
		relay := newRelay()
		w.relays["n1"] = relay
		stream, err := w.instances().ExecInstance(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if err := stream.Send(&fleetv1.ExecInstanceRequest{Name: "i1", Start: &fleetv1.ExecStart{Command: []string{"sh"}}}); err != nil {
			t.Fatal(err)
		}
		begun := time.Now()
		time.Sleep(9 * time.Minute)
		relay.out <- &fleetv1.RelayRequest{Output: &fleetv1.ExecOutput{Stdout: []byte("$ ")}}
		if _, err := stream.Recv(); err != nil {
			t.Fatal(err)
		}
		_, err = stream.Recv()
		w.refused("idle", err, codes.DeadlineExceeded, "", "after 10m0s without input or output", w.store.View().Index())
		if open := time.Since(begun); open != 19*time.Minute {
			t.Errorf("it was open for %v, want 10 minutes after the output", open)
		}
		<-relay.closed
	})
}

func TestExecRefusals(t *testing.T) {
	w := newWorld(t)
	w.furnish()
	w.place(w.mustDeploy(iris(func(s *fleetv1.Service) { s.Spec.Pool = "shared" })), fleetv1.InstanceRunning)
	own := w.mustDeploy(iris(func(s *fleetv1.Service) { s.Meta.Name = "own" }))
	w.put(&fleetv1.Instance{Meta: &fleetv1.Meta{Id: "i2", Name: "own-i2", Project: fleetv1.Default},
		Spec: &fleetv1.InstanceSpec{ServiceId: own.GetMeta().GetId(), Node: "n1"}, Observed: &fleetv1.InstanceObserved{State: fleetv1.InstancePulling}})
	index := w.store.View().Index()
	exec := func(name string, command ...string) error {
		stream, err := w.instances().ExecInstance(t.Context())
		if err == nil {
			err = stream.Send(&fleetv1.ExecInstanceRequest{Name: name, Start: &fleetv1.ExecStart{Command: command}})
		}
		if err == nil {
			_, err = stream.Recv()
		}
		return err
	}
	w.refused("public pool", exec("i1", "sh"), codes.FailedPrecondition, "", `pool "shared", which is public`, index)
	w.refused("not running", exec("i2", "sh"), codes.FailedPrecondition, "", "is Pulling: only a running one", index)
	w.refused("no command", exec("i2"), codes.InvalidArgument, "start.command", "missing", index)
	w.refused("absent", exec("i3", "sh"), codes.NotFound, "", "no instance", index)
}

func TestEventFilters(t *testing.T) {
	w := newWorld(t)
	c := fleetv1.NewEventServiceClient(w.conn)
	for _, e := range []struct{ ask, want *fleetv1.EventFilter }{
		{nil, &fleetv1.EventFilter{Limit: 1000}},
		{&fleetv1.EventFilter{Kind: "service", Name: "iris", Limit: 5}, &fleetv1.EventFilter{Kind: "service", Name: "iris", Project: "default", Limit: 5}},
		{&fleetv1.EventFilter{Kind: "node", Project: "x"}, &fleetv1.EventFilter{Kind: "node", Limit: 1000}},
		{&fleetv1.EventFilter{Project: "x"}, &fleetv1.EventFilter{Project: "x", Limit: 1000}},
	} {
		if _, err := c.ListEvents(t.Context(), &fleetv1.ListEventsRequest{Filter: e.ask}); err != nil || !proto.Equal(w.filter, e.want) {
			t.Errorf("%v became %v, %v; want %v", e.ask, w.filter, err, e.want)
		}
	}
	for field, f := range map[string]*fleetv1.EventFilter{
		"filter.kind": {Kind: "pod"}, "filter.limit": {Limit: 1001},
	} {
		_, err := c.ListEvents(t.Context(), &fleetv1.ListEventsRequest{Filter: f})
		w.refused(field, err, codes.InvalidArgument, field, "", 0)
	}
	w.events = []*fleetv1.Event{{Id: "1-1"}}
	stream, err := c.WatchEvents(t.Context(), &fleetv1.WatchEventsRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if resp, err := stream.Recv(); err != nil || len(resp.GetEvents()) != 1 {
		t.Errorf("%v, %v", resp, err)
	}
}

func TestClusterStatus(t *testing.T) {
	w := newWorld(t)
	w.furnish()
	w.put(&fleetv1.Cluster{Meta: &fleetv1.Meta{Name: "cluster", Id: "c1"}, RestoreEpoch: 2})
	w.mustDeploy(iris(nil))
	got, err := fleetv1.NewClusterServiceClient(w.conn).GetClusterStatus(t.Context(), &fleetv1.GetClusterStatusRequest{})
	want := &fleetv1.GetClusterStatusResponse{ClusterId: "c1", RestoreEpoch: 2, RemovalsHeld: true, LeaderId: "me", Version: "v", NodesReady: 1, NodesTotal: 1, Services: 1}
	if err != nil || !proto.Equal(got, want) {
		t.Errorf("%v, %v", got, err)
	}
}
