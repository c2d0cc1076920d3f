package api

import (
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
	"github.com/drover-fleet/drover/scheduler/state"
)

func (w *world) nodes() fleetv1.NodeServiceClient { return fleetv1.NewNodeServiceClient(w.conn) }

func (w *world) mustDrain(req *fleetv1.DrainNodeRequest) []*fleetv1.DrainMove {
	w.t.Helper()
	resp, err := w.nodes().DrainNode(w.t.Context(), req)
	if err != nil {
		w.t.Fatal(err)
	}
	return resp.GetMoves()
}

func (w *world) lastEvent() *fleetv1.Event { return w.events[len(w.events)-1] }

func TestDrainDryRun(t *testing.T) {
	w := newWorld(t)
	w.fleet()
	pair := wide("pair", "gpu.2", 1, nil)
	pair.Meta = meta("pair")
	w.run(pair, "a1111111", "n2", nil, "n2-0", "n2-1")
	batch := w.mustDeploy(wide("batch", "gpu.2", 1, func(v *fleetv1.ServiceVersion) { v.Preemptible = true }))
	w.run(batch, "b1111111", "n3", nil, "n3-0", "n3-1")
	ending := wide("ending", "cpu.1u1g", 1, nil)
	ending.Meta = meta("ending")
	w.run(ending, "c1111111", "n3", func(i *fleetv1.Instance) {
		i.Desired = &fleetv1.InstanceDesired{State: fleetv1.DesiredStopped, Reason: "scaled to 0"}
	})
	small := w.mustDeploy(wide("small", "cpu.1u1g", 1, nil))
	w.run(small, "d1111111", "n3", nil)
	before := w.store.View().Index()

	moves := w.mustDrain(&fleetv1.DrainNodeRequest{Name: "n3", DryRun: true, DeadlineSeconds: 60})
	got := map[string]*fleetv1.DrainMove{}
	for _, m := range moves {
		got[m.GetService()] = m
	}
	if m := got["batch"]; m.GetState() != "waiting" || m.GetTarget() != "" || !m.GetPreemptible() || !strings.Contains(m.GetDetail(), "stopped at the deadline") {
		t.Errorf("there is no room for %v", m)
	}
	if m := got["ending"]; m.GetState() != "stopping" || m.GetDetail() != "scaled to 0" {
		t.Errorf("what stops anyway: %v", m)
	}
	if m := got["small"]; m.GetState() != "replacing" || m.GetTarget() == "" || m.GetTarget() == "n3" {
		t.Errorf("what fits elsewhere: %v", m)
	}
	if m := w.mustDrain(&fleetv1.DrainNodeRequest{Name: "n2", DryRun: true}); len(m) != 1 || m[0].GetState() != "stopping" || m[0].GetDetail() == "" {
		t.Errorf("an instance of no service: %v", m)
	}
	if now := w.store.View().Index(); now != before {
		t.Errorf("a dry run took the store from %d to %d", before, now)
	}
	// A device of a node that is not drained: what holds it may stay on the node.
	one := w.mustDeploy(wide("one", "gpu.1", 1, nil))
	w.run(one, "e1111111", "n1", nil, "GPU-0")
	moves = w.mustDrain(&fleetv1.DrainNodeRequest{DeviceId: "GPU-0", DryRun: true})
	if len(moves) != 1 || moves[0].GetInstanceName() != "one-e1111111" || moves[0].GetState() != "waiting" {
		t.Errorf("moves %v", moves)
	}
	if n := w.store.View().Node("n1"); len(n.GetSpec().GetDeviceCordons()) != 0 {
		t.Errorf("spec %v", n.GetSpec())
	}
}

func TestDrainNodeStartsAndEnds(t *testing.T) {
	w := newWorld(t)
	w.fleet()
	s := w.mustDeploy(wide("small", "cpu.1u1g", 1, nil))
	w.run(s, "d1111111", "n3", nil)
	moves := w.mustDrain(&fleetv1.DrainNodeRequest{Name: "n3", Reason: "new disk", DeadlineSeconds: 90, RequestId: "r1"})
	if len(moves) != 1 || moves[0].GetState() != "replacing" {
		t.Errorf("moves %v", moves)
	}
	n := w.store.View().Node("n3")
	d := n.GetSpec().GetDrain()
	if !n.GetSpec().GetCordoned() || n.GetSpec().GetCordonReason() != "new disk" || d.GetReason() != "new disk" || d.GetCaller() != "root" ||
		!d.GetStartTime().AsTime().Equal(start) || !d.GetDeadline().AsTime().Equal(start.Add(90*time.Second)) {
		t.Errorf("spec %v", n.GetSpec())
	}
	if e := w.lastEvent(); e.GetReason() != "NodeDrainStarted" || !strings.Contains(e.GetMessage(), "root drains it, what is preemptible until 2030-01-02T03:05:35Z: new disk") ||
		e.GetObjects()[0].GetName() != "n3" {
		t.Errorf("event %v", e)
	}
	before := w.store.View().Index()
	for _, id := range []string{"r1", ""} { // the same again
		w.mustDrain(&fleetv1.DrainNodeRequest{Name: "n3", Reason: "new disk", DeadlineSeconds: 90, RequestId: id})
	}
	if now := w.store.View().Index(); now != before {
		t.Errorf("the same again took the store from %d to %d", before, now)
	}
	// Another deadline; the start stays.
	w.mustDrain(&fleetv1.DrainNodeRequest{Name: "n3", Reason: "new disk"})
	if d := w.store.View().Node("n3").GetSpec().GetDrain(); d.GetDeadline() != nil || !d.GetStartTime().AsTime().Equal(start) {
		t.Errorf("drain %v", d)
	}
	moves = w.mustDrain(&fleetv1.DrainNodeRequest{Name: "n3", Cancel: true})
	if spec := w.store.View().Node("n3").GetSpec(); spec.GetDrain() != nil || !spec.GetCordoned() || len(moves) != 1 {
		t.Errorf("after the end: %v, moves %v", spec, moves)
	}
	if e := w.lastEvent(); e.GetReason() != "NodeDrainCancelled" {
		t.Errorf("event %v", e)
	}
	// To open a node ends its drain.
	w.mustDrain(&fleetv1.DrainNodeRequest{Name: "n3"})
	if _, err := w.nodes().SetNodeCordon(t.Context(), &fleetv1.SetNodeCordonRequest{Name: "n3"}); err != nil {
		t.Fatal(err)
	}
	if spec := w.store.View().Node("n3").GetSpec(); spec.GetDrain() != nil || spec.GetCordoned() {
		t.Errorf("uncordoned: %v", spec)
	}
}

func TestDrainOfADevice(t *testing.T) {
	w := newWorld(t)
	w.fleet()
	s := w.mustDeploy(wide("two", "gpu.1", 2, nil))
	w.run(s, "d1111111", "n3", nil, "n3-0")
	w.run(s, "d2111111", "n3", nil, "n3-1")
	moves := w.mustDrain(&fleetv1.DrainNodeRequest{DeviceId: "n3-1", Reason: "hot"})
	if len(moves) != 1 || moves[0].GetInstanceName() != "two-d2111111" || moves[0].GetTarget() == "" {
		t.Errorf("moves %v", moves)
	}
	spec := w.store.View().Node("n3").GetSpec()
	if c := spec.GetDeviceCordons(); spec.GetCordoned() || len(c) != 1 || c[0].GetDeviceId() != "n3-1" || c[0].GetReason() != "hot" || c[0].GetDrain().GetCaller() != "root" {
		t.Errorf("spec %v", spec)
	}
	if e := w.lastEvent(); e.GetReason() != "DeviceDrainStarted" || !strings.Contains(e.GetMessage(), "n3-1") {
		t.Errorf("event %v", e)
	}
	resp, err := w.nodes().GetDrain(t.Context(), &fleetv1.GetDrainRequest{DeviceId: "n3-1"})
	if err != nil || resp.GetDrain().GetReason() != "hot" || len(resp.GetMoves()) != 1 {
		t.Errorf("drain %v, %v", resp, err)
	}
	// Another reason for its cordon doesn't end the drain.
	if _, err := fleetv1.NewDeviceServiceClient(w.conn).SetDeviceCordon(t.Context(), &fleetv1.SetDeviceCordonRequest{Id: "n3-1", Cordoned: true, Reason: "very hot"}); err != nil {
		t.Fatal(err)
	}
	if c := w.store.View().Node("n3").GetSpec().GetDeviceCordons()[0]; c.GetReason() != "very hot" || c.GetDrain().GetReason() != "hot" {
		t.Errorf("cordoned again: %v", c)
	}
	w.mustDrain(&fleetv1.DrainNodeRequest{DeviceId: "n3-1", Name: "n3", Cancel: true})
	if c := w.store.View().Node("n3").GetSpec().GetDeviceCordons(); len(c) != 1 || c[0].GetDrain() != nil {
		t.Errorf("after the end: %v", c)
	}
	if e := w.lastEvent(); e.GetReason() != "DeviceDrainCancelled" {
		t.Errorf("event %v", e)
	}
}

func TestDrainRefusals(t *testing.T) {
	w := newWorld(t)
	w.fleet()
	before := w.store.View().Index()
	for _, c := range []struct {
		name, field, words string
		code               codes.Code
		req                *fleetv1.DrainNodeRequest
	}{
		{"nothing", "name", "missing", codes.InvalidArgument, &fleetv1.DrainNodeRequest{}},
		{"unknown node", "", `did you mean "n1"`, codes.NotFound, &fleetv1.DrainNodeRequest{Name: "n9"}},
		{"unknown device", "", `did you mean "GPU-0"`, codes.NotFound, &fleetv1.DrainNodeRequest{DeviceId: "GPU-9"}},
		{"device of another node", "", "there is no device", codes.NotFound, &fleetv1.DrainNodeRequest{Name: "n2", DeviceId: "GPU-0"}},
		{"deadline", "deadline_seconds", "-1", codes.InvalidArgument, &fleetv1.DrainNodeRequest{Name: "n1", DeadlineSeconds: -1}},
		{"long deadline", "deadline_seconds", "0–2592000", codes.InvalidArgument, &fleetv1.DrainNodeRequest{Name: "n1", DeadlineSeconds: 1 << 40}},
		{"cancel dry", "dry_run", "not for ending", codes.InvalidArgument, &fleetv1.DrainNodeRequest{Name: "n1", Cancel: true, DryRun: true}},
		{"cancel with a reason", "reason", "not for ending", codes.InvalidArgument, &fleetv1.DrainNodeRequest{Name: "n1", Cancel: true, Reason: "x"}},
		{"cancel nothing", "", `node "n1" is not being drained`, codes.FailedPrecondition, &fleetv1.DrainNodeRequest{Name: "n1", Cancel: true}},
		{"cancel nothing of a device", "", `device "GPU-0" is not being drained`, codes.FailedPrecondition, &fleetv1.DrainNodeRequest{DeviceId: "GPU-0", Cancel: true}},
	} {
		_, err := w.nodes().DrainNode(t.Context(), c.req)
		w.refused(c.name, err, c.code, c.field, c.words, before)
	}
	_, err := w.nodes().GetDrain(t.Context(), &fleetv1.GetDrainRequest{})
	w.refused("drain of nothing", err, codes.InvalidArgument, "name", "missing", before)
	if resp, err := w.nodes().GetDrain(t.Context(), &fleetv1.GetDrainRequest{Name: "n1"}); err != nil || resp.GetDrain() != nil || len(resp.GetMoves()) != 0 {
		t.Errorf("no drain: %v, %v", resp, err)
	}
}

func TestGetDrainTellsProgress(t *testing.T) {
	w := newWorld(t)
	w.fleet()
	s := w.mustDeploy(wide("three", "cpu.1u1g", 3, nil))
	leaving := func(i *fleetv1.Instance) { i.Desired.Leave = &fleetv1.Leave{Cause: fleetv1.LeaveDrain} }
	w.run(s, "a1111111", "n3", leaving)
	w.run(s, "b1111111", "n3", leaving)
	w.run(s, "c1111111", "n3", func(i *fleetv1.Instance) {
		i.Desired = &fleetv1.InstanceDesired{State: fleetv1.DesiredStopped, Reason: "it has been replaced: drain"}
	})
	w.run(s, "d1111111", "n1", nil) // ready: somebody's replacement it was
	w.run(s, "e1111111", "n2", func(i *fleetv1.Instance) { i.Observed.Ready = false })
	w.waits(s, 2)
	w.mustDrain(&fleetv1.DrainNodeRequest{Name: "n3"})
	resp, err := w.nodes().GetDrain(t.Context(), &fleetv1.GetDrainRequest{Name: "n3"})
	if err != nil || resp.GetDrain() == nil {
		t.Fatalf("%v, %v", resp, err)
	}
	var got []string
	for _, m := range resp.GetMoves() {
		got = append(got, strings.TrimSpace(m.GetInstanceName()+" "+m.GetState()+" "+m.GetTarget()+" "+m.GetDetail()))
	}
	want := "three-a1111111 replacing n2; three-b1111111 waiting  no room; three-c1111111 stopping  it has been replaced: drain"
	if strings.Join(got, "; ") != want {
		t.Errorf("got  %s\nwant %s", strings.Join(got, "; "), want)
	}
}

func TestDrainOfAGang(t *testing.T) {
	w := newWorld(t)
	w.fleet()
	w.put(&fleetv1.Node{Meta: meta("n4"), Facts: proto.CloneOf(w.store.View().Node("n3").GetFacts()), Status: &fleetv1.NodeStatus{State: fleetv1.NodeReady}})
	pool := w.store.View().Pool("wide")
	pool = proto.CloneOf(pool)
	pool.Spec.Nodes = append(pool.Spec.Nodes, "n4")
	w.write(state.Put(pool.GetMeta().GetRevision(), pool))
	s := w.mustDeploy(wide("gang", "cpu.1u1g", 1, func(v *fleetv1.ServiceVersion) { v.Nodes = 2 }))
	for rank, node := range []string{"n1", "n3"} {
		w.run(s, string(rune('a'+rank))+"1111111", node, func(i *fleetv1.Instance) {
			i.Spec.Gang = &fleetv1.Gang{Id: "g", Rank: int32(rank), Size: 2, Addresses: []string{"a", "b"}}
		})
	}
	moves := w.mustDrain(&fleetv1.DrainNodeRequest{Name: "n3", DryRun: true})
	if len(moves) != 1 || moves[0].GetInstanceName() != "gang-b1111111" || strings.Count(moves[0].GetTarget(), ",") != 1 || strings.Contains(moves[0].GetTarget(), "n3") {
		t.Errorf("moves %v", moves)
	}
}
