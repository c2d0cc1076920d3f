package cluster

import (
	"slices"
	"strings"
	"testing"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
)

// A drain replaces first: the service has an endpoint at any time, and the node is empty in the end and stays cordoned.
func TestDrainReplacesFirst(t *testing.T) {
	f := startFleet(t, 2, "2xH100-80GB")
	before := f.run("web", "gpu.1", 1, nil)[0]
	source := before.GetSpec().GetNode()
	f.within("it has an endpoint", func() bool { return len(f.endpoints("web")) == 1 })
	served := f.served("web", 1)
	moves := f.drain(&fleetv1.DrainNodeRequest{Name: source, Reason: "new disk"})
	if len(moves) != 1 || moves[0].GetInstanceId() != before.GetMeta().GetId() || moves[0].GetTarget() == "" {
		t.Errorf("moves %v", moves)
	}
	f.WaitNode(source, "to be drained", func(n *fleetv1.Node) bool { return n.GetSpec().GetDrain() == nil && n.GetSpec().GetCordoned() })
	f.told("NodeDrained", fleetv1.KindNode, source)
	served()
	if why := f.told("InstanceLeaving", fleetv1.KindService, "web"); !strings.Contains(why, "new disk") {
		t.Errorf("it left because %q", why)
	}
	if after := f.running("web"); len(after) != 1 || after[0].GetSpec().GetNode() == source {
		t.Errorf("after the drain: %v", after)
	}
	if left := f.node(source).Runtime.Containers(); len(left) != 0 {
		t.Errorf("left on the node: %v", left)
	}
}

// Without room elsewhere a drain waits: at the deadline it stops what is preemptible and nothing else, and when it
// is ended what is left stays.
func TestDrainWithoutRoom(t *testing.T) {
	f := startFleet(t, 1, "4xH100-80GB")
	node := f.Nodes[0].Name
	fixed := f.run("fixed", "gpu.1", 1, nil)[0]
	f.run("batch", "gpu.1", 1, func(v *fleetv1.ServiceVersion) { v.Preemptible = true })
	if moves := f.drain(&fleetv1.DrainNodeRequest{Name: node, DryRun: true}); len(moves) != 2 || slices.ContainsFunc(moves, func(m *fleetv1.DrainMove) bool { return m.GetTarget() != "" }) {
		t.Errorf("foreseen: %v", moves)
	}
	served := f.served("fixed", 1)
	f.drain(&fleetv1.DrainNodeRequest{Name: node, DeadlineSeconds: 1})
	f.WaitService("batch", "to be stopped at the deadline", func(r *fleetv1.WatchServiceResponse) bool { return len(r.Instances) == 0 })
	f.waiting("batch", "drained")
	f.told("DrainOverdue", fleetv1.KindNode, node)
	progress, err := f.Client.Nodes.GetDrain(f.ctx, &fleetv1.GetDrainRequest{Name: node})
	f.must(err)
	if moves := progress.GetMoves(); progress.GetDrain() == nil || len(moves) != 1 || moves[0].GetState() != "waiting" || moves[0].GetDetail() == "" {
		t.Errorf("progress %v", progress)
	}
	f.drain(&fleetv1.DrainNodeRequest{Name: node, Cancel: true})
	f.WaitService("fixed", "to stay", func(r *fleetv1.WatchServiceResponse) bool {
		return len(r.Instances) == 1 && r.Instances[0].GetDesired().GetLeave() == nil
	})
	f.told("NodeDrainCancelled", fleetv1.KindNode, node)
	served()
	if after := f.running("fixed"); len(after) != 1 || after[0].GetMeta().GetId() != fixed.GetMeta().GetId() {
		t.Errorf("after the drain: %v", after)
	}
	f.waiting("batch", "cordoned") // the end of a drain leaves the cordon
	f.cordon(node, false)
	f.running("batch")
}

// A drained device is left for another first, and is given to nobody afterwards.
func TestDeviceDrain(t *testing.T) {
	f := startFleet(t, 1, "2xH100-80GB")
	before := f.run("web", "gpu.1", 1, nil)[0]
	device := before.GetSpec().GetDeviceIds()[0]
	f.within("it has an endpoint", func() bool { return len(f.endpoints("web")) == 1 })
	served := f.served("web", 1)
	f.drain(&fleetv1.DrainNodeRequest{DeviceId: device})
	f.told("DeviceDrained", fleetv1.KindNode, f.Nodes[0].Name)
	served()
	after := f.running("web")
	if len(after) != 1 || slices.Contains(after[0].GetSpec().GetDeviceIds(), device) {
		t.Errorf("after the drain: %v", after)
	}
	f.deploy("next", "gpu.1", 1, nil)
	f.waiting("next", "1 device cordoned")
	_, err := f.Client.Devices.SetDeviceCordon(f.ctx, &fleetv1.SetDeviceCordonRequest{Id: device})
	f.must(err)
	if next := f.running("next"); !slices.Equal(next[0].GetSpec().GetDeviceIds(), []string{device}) {
		t.Errorf("next holds %v", next[0].GetSpec().GetDeviceIds())
	}
}

// A defragmentation that is ordered opens the node that it was planned to open, and replaces first.
func TestDefragmentation(t *testing.T) {
	f := startFleet(t, 2, "4xH100-80GB")
	for i, name := range []string{"a", "b"} { // one on each node
		f.cordon(f.Nodes[1-i].Name, true)
		f.run(name, "gpu.1", 1, nil)
		f.cordon(f.Nodes[1-i].Name, false)
	}
	f.deploy("large", "gpu.4", 1, nil)
	f.waiting("large", "free devices")
	ask := &fleetv1.DefragRequest{Pool: Pool, Flavor: "gpu.4"}
	plan, err := f.Client.Cluster.Defrag(f.ctx, ask)
	f.must(err)
	if len(plan.GetSteps()) != 1 || len(plan.GetSteps()[0].GetMoves()) != 1 || plan.GetRoomBefore() != 0 || plan.GetRoomAfter() != 1 || plan.GetApplied() != 0 {
		t.Fatalf("plan %v", plan)
	}
	if a, b := f.running("a"), f.running("b"); a[0].GetSpec().GetNode() == b[0].GetSpec().GetNode() {
		t.Fatal("a plan moved something")
	}
	move := plan.GetSteps()[0].GetMoves()[0]
	served := f.served(move.GetService(), 1)
	ask.Apply = true
	ordered, err := f.Client.Cluster.Defrag(f.ctx, ask)
	f.must(err)
	if ordered.GetApplied() != 1 || ordered.GetSteps()[0].GetNode() != plan.GetSteps()[0].GetNode() {
		t.Errorf("ordered %v", ordered)
	}
	large := f.running("large")
	served()
	if large[0].GetSpec().GetNode() != move.GetSource() {
		t.Errorf("large is on %s, opened was %s", large[0].GetSpec().GetNode(), move.GetSource())
	}
	if moved := f.running(move.GetService()); moved[0].GetSpec().GetNode() != move.GetTarget() {
		t.Errorf("%s is on %s, planned was %s", move.GetService(), moved[0].GetSpec().GetNode(), move.GetTarget())
	}
}

// A member of a gang can't leave alone: the whole gang is replaced, first.
func TestDrainOfAGangsMember(t *testing.T) {
	f := startFleet(t, 4, "2xH100-80GB")
	before := f.run("train", "gpu.2", 1, func(v *fleetv1.ServiceVersion) { v.Nodes = 2 })
	f.within("it has an endpoint", func() bool { return len(f.endpoints("train")) == 1 })
	served := f.served("train", 1)
	source := before[1].GetSpec().GetNode()
	f.drain(&fleetv1.DrainNodeRequest{Name: source})
	f.told("NodeDrained", fleetv1.KindNode, source)
	f.WaitService("train", "to be moved", func(r *fleetv1.WatchServiceResponse) bool {
		return len(r.Instances) == 2 && r.Service.GetStatus().GetState() == fleetv1.ServiceRunning
	})
	served()
	for _, m := range f.running("train") {
		if m.GetSpec().GetGang().GetId() == before[0].GetSpec().GetGang().GetId() || m.GetSpec().GetNode() == source {
			t.Errorf("after the drain: %v", m)
		}
	}
}

// A drain goes on under the next leader, when there is room.
func TestDrainOutlivesTheScheduler(t *testing.T) {
	f := startFleet(t, 2, "2xH100-80GB")
	source, target := f.Nodes[0].Name, f.Nodes[1].Name
	f.cordon(target, true)
	f.run("web", "gpu.1", 2, nil)
	f.drain(&fleetv1.DrainNodeRequest{Name: source})
	f.waiting("web", "drained")
	f.StopScheduler()
	f.StartScheduler()
	f.WaitNodeState(source, fleetv1.NodeReady)
	f.WaitNodeState(target, fleetv1.NodeReady)
	f.within("it has its endpoints again", func() bool { return len(f.endpoints("web")) == 2 })
	served := f.served("web", 2)
	f.cordon(target, false)
	f.told("NodeDrained", fleetv1.KindNode, source)
	served()
	for _, i := range f.running("web") {
		if i.GetSpec().GetNode() != target {
			t.Errorf("after the drain: %v", i)
		}
	}
}
