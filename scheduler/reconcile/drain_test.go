package reconcile

import (
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
)

// startHeld keeps new instances from becoming ready until release is called.
func startHeld(c *cluster) (release func()) {
	c.agentsDo(func(_ *fleetv1.Instance, next *fleetv1.InstanceObserved) *fleetv1.InstanceObserved {
		if next.GetReady() {
			return nil // still starting
		}
		return next
	})
	return func() {
		c.agentsDo(nil)
		c.act()
		c.settled()
	}
}

func TestDrainStartsTheReplacementFirst(t *testing.T) {
	run(t, 2, func(c *cluster) {
		c.deploy(1)
		first := c.instances()[0]
		release := startHeld(c)
		c.drain(first.GetSpec().GetNode(), &fleetv1.Drain{Reason: "new disks", StartTime: timestamppb.Now()})
		c.expect(fleetv1.ServiceRunning, 2)
		if got := c.store.View().Instance(first.GetMeta().GetId()); got.GetDesired().GetState() != fleetv1.DesiredRunning || got.GetDesired().GetLeave().GetCause() != fleetv1.LeaveDrain {
			t.Errorf("before its replacement is ready: %v", got.GetDesired())
		}
		if v := c.service().GetStatus().GetVersions()[0]; v.GetPlaced() != 1 || v.GetReady() != 1 {
			t.Errorf("status %v", v)
		}
		if c.count("NodeDrained") != 0 {
			t.Error("drained already")
		}
		c.after(20 * time.Second)
		release()
		c.expect(fleetv1.ServiceRunning, 1)
		if c.instances()[0].GetSpec().GetNode() == first.GetSpec().GetNode() {
			t.Error("not moved")
		}
		c.told("ServiceRunning", "InstanceLeaving", "InstancePlaced", "NodeDrained")
		if m := c.messages("InstanceLeaving"); !strings.Contains(m, "(new disks)") {
			t.Errorf("told %q", m)
		}
		if m := c.messages("NodeDrained"); !strings.Contains(m, "after 20s") {
			t.Errorf("told %q", m)
		}
		if n := c.store.View().Node(first.GetSpec().GetNode()); n.GetSpec().GetDrain() != nil || !n.GetSpec().GetCordoned() {
			t.Errorf("node %v", n.GetSpec())
		}
		if c.count("ServiceAlarm") != 0 {
			t.Errorf("events %v", c.reasons())
		}
		c.quiet()
	})
}

func TestDrainOfAnEmptyNodeIsDoneAtOnce(t *testing.T) {
	run(t, 1, func(c *cluster) {
		c.drain("n1", &fleetv1.Drain{})
		if c.count("NodeDrained") != 1 || c.store.View().Node("n1").GetSpec().GetDrain() != nil {
			t.Errorf("events %v", c.reasons())
		}
		c.quiet()
	})
}

func TestDrainWithoutRoom(t *testing.T) {
	for _, preemptible := range []bool{false, true} {
		run(t, 1, func(c *cluster) {
			c.deploy(1, func(s *fleetv1.Service) { s.Spec.Versions[0].Preemptible = preemptible })
			c.drain("n1", &fleetv1.Drain{StartTime: timestamppb.Now(), Deadline: timestamppb.New(time.Now().Add(10 * time.Minute))})
			c.after(9 * time.Minute)
			c.expect(fleetv1.ServiceRunning, 1)
			if c.service().GetStatus().GetVersions()[0].GetWaitingReason() == "" {
				t.Error("nothing says why it does not leave")
			}
			c.after(2 * time.Minute)
			if preemptible {
				c.expect(fleetv1.ServiceAbnormal, 0)
				c.told("InstanceLeaving", "NodeDrained")
			} else {
				c.expect(fleetv1.ServiceRunning, 1)
				c.after(time.Hour)
				if n := c.count("DrainOverdue"); n != 1 || c.count("NodeDrained") != 0 {
					t.Errorf("told %d times that it is overdue: %v", n, c.reasons())
				}
			}
			c.addNode("n2")
			c.settled()
			c.expect(fleetv1.ServiceRunning, 1)
			c.told("NodeDrained")
			if got := c.nodesUsed(); !slices.Equal(got, []string{"n2"}) {
				t.Errorf("on %v", got)
			}
		})
	}
}

func TestCancelledDrainLeavesWhatHasNotLeft(t *testing.T) {
	run(t, 2, func(c *cluster) {
		c.deploy(2, func(s *fleetv1.Service) { s.Spec.Versions[0].Flavor = "gpu" })
		release := startHeld(c)
		c.drain("n1", &fleetv1.Drain{})
		was := len(c.instances())
		c.drain("n1", nil)
		for _, i := range c.instances() {
			if i.GetDesired().GetLeave() != nil {
				t.Errorf("%s still leaves", i.GetSpec().GetNode())
			}
		}
		release()
		c.expect(fleetv1.ServiceRunning, 2)
		if was != 4 {
			t.Errorf("%d instances during the drain", was)
		}
		if got := c.nodesUsed(); !slices.Equal(got, []string{"n1", "n1"}) {
			t.Errorf("on %v", got)
		}
		c.quiet()
	})
}

func TestDrainOfADevice(t *testing.T) {
	run(t, 1, func(c *cluster) {
		c.deploy(1, func(s *fleetv1.Service) { s.Spec.Versions[0].Flavor = "gpu" })
		held := c.instances()[0].GetSpec().GetDeviceIds()[0]
		c.node("n1", func(n *fleetv1.Node) {
			n.Spec.DeviceCordons = []*fleetv1.DeviceCordon{{DeviceId: held, Drain: &fleetv1.Drain{StartTime: timestamppb.Now()}}}
		})
		c.expect(fleetv1.ServiceRunning, 1)
		if now := c.instances()[0].GetSpec().GetDeviceIds()[0]; now == held {
			t.Errorf("still on %s", held)
		}
		if got := c.store.View().Node("n1").GetSpec().GetDeviceCordons(); len(got) != 1 || got[0].GetDrain() != nil {
			t.Errorf("cordons %v", got)
		}
		c.told("InstanceLeaving", "InstancePlaced", "DeviceDrained")
		c.quiet()
	})
}

func TestNewLeaderCarriesADrainOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 2)
		stop := c.lead()
		c.deploy(1)
		node := c.instances()[0].GetSpec().GetNode()
		release := startHeld(c)
		c.drain(node, &fleetv1.Drain{})
		stop()
		defer c.lead()()
		release()
		c.expect(fleetv1.ServiceRunning, 1)
		if got := c.instances()[0].GetSpec().GetNode(); got == node {
			t.Error("not moved")
		}
		c.told("NodeDrained")
		c.quiet()
	})
}

// A move that defragmentation ordered: the target is preferred, and the old node is not taken again.
func TestLeaverGoesToItsTarget(t *testing.T) {
	run(t, 3, func(c *cluster) {
		c.deploy(1)
		inst := c.instances()[0]
		if r := c.put(order(inst, &fleetv1.InstanceDesired{State: fleetv1.DesiredRunning, Leave: &fleetv1.Leave{Cause: fleetv1.LeaveDefrag, Target: "n3"}}).GetPut().GetInstance(), inst.GetMeta().GetRevision()); len(r.Rejections) > 0 {
			t.Fatal(r)
		}
		c.settled()
		c.expect(fleetv1.ServiceRunning, 1)
		if got := c.instances()[0]; got.GetMeta().GetId() == inst.GetMeta().GetId() || got.GetSpec().GetNode() == inst.GetSpec().GetNode() {
			t.Errorf("is on %s", got.GetSpec().GetNode())
		}
		c.quiet()
	})
}
