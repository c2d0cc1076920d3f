package reconcile

import (
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
)

// node changes a node as its agent or the API would.
func (c *cluster) node(name string, f func(*fleetv1.Node)) {
	c.t.Helper()
	n := proto.CloneOf(c.store.View().Node(name))
	f(n)
	if r := c.put(n, n.GetMeta().GetRevision()); len(r.Rejections) > 0 {
		c.t.Fatalf("node: %v", r.Rejections)
	}
	c.settled()
}

func (c *cluster) deployOnDevice(instances int32) {
	c.t.Helper()
	c.deploy(instances, func(s *fleetv1.Service) { s.Spec.Versions[0].Flavor = "gpu" })
}

func (c *cluster) waiting() string {
	return c.service().GetStatus().GetVersions()[0].GetWaitingReason()
}

func TestCordonedDevicesAreNotGivenOut(t *testing.T) {
	run(t, 1, func(c *cluster) {
		c.node("n1", func(n *fleetv1.Node) {
			n.Spec.DeviceCordons = []*fleetv1.DeviceCordon{{DeviceId: "n1-d0", Reason: "new fan"}}
			n.Facts.Devices[1].Quarantined = true
		})
		c.deployOnDevice(1)
		c.expect(fleetv1.ServiceDeploying, 0)
		if got := c.waiting(); !strings.Contains(got, "1 lacks free devices") || !strings.Contains(got, "cordoned") || !strings.Contains(got, "quarantined") {
			t.Errorf("waiting reason %q", got)
		}
		c.quiet()
		c.node("n1", func(n *fleetv1.Node) { n.Spec.DeviceCordons = nil })
		c.expect(fleetv1.ServiceRunning, 1)
		// Who holds a device stays on it, and a replacement goes elsewhere.
		first := c.instances()[0]
		c.node("n1", func(n *fleetv1.Node) { n.Spec.DeviceCordons = []*fleetv1.DeviceCordon{{DeviceId: "n1-d0"}} })
		c.expect(fleetv1.ServiceRunning, 1)
		c.scale(2)
		if got := c.waiting(); !strings.Contains(got, "most free 0 on n1") || !strings.Contains(got, "quarantined") || c.instances()[0].GetMeta().GetId() != first.GetMeta().GetId() {
			t.Errorf("waiting reason %q", got)
		}
		c.node("n1", func(n *fleetv1.Node) { n.Facts.Devices[1].Quarantined = false })
		c.expect(fleetv1.ServiceRunning, 2)
		c.quiet()
	})
}

// A plan that the store refuses because a device was closed meanwhile is made anew.
func TestPlanThatMeetsACordonIsMadeAnew(t *testing.T) {
	run(t, 2, func(c *cluster) {
		refused := false
		c.mu.Lock()
		c.refuse = func(cmd *fleetv1.Command) error {
			parts := cmd.GetPlan().GetParts()
			if len(parts) == 0 || refused {
				return nil
			}
			refused = true
			device := parts[0].GetInstances()[0].GetSpec().GetDeviceIds()[0]
			n := proto.CloneOf(c.store.View().Node(parts[0].GetInstances()[0].GetSpec().GetNode()))
			n.Spec.DeviceCordons = []*fleetv1.DeviceCordon{{DeviceId: device}}
			c.applyLocked(putCommand(n, n.GetMeta().GetRevision()))
			return nil
		}
		c.mu.Unlock()
		c.deployOnDevice(1)
		c.after(10 * time.Second)
		c.expect(fleetv1.ServiceRunning, 1)
		inst := c.instances()[0]
		for _, cordon := range c.store.View().Node(inst.GetSpec().GetNode()).GetSpec().GetDeviceCordons() {
			if cordon.GetDeviceId() == inst.GetSpec().GetDeviceIds()[0] {
				t.Errorf("it was given the cordoned device %s", cordon.GetDeviceId())
			}
		}
		if !refused {
			t.Error("no plan was made")
		}
	})
}

// What a node says of a device is enough: the instance's own report may be late.
func TestFailedDeviceIsLeft(t *testing.T) {
	for _, device := range []*fleetv1.Device{
		{Health: fleetv1.Lost, HealthReason: "fell off the bus"},
		{Health: fleetv1.Unhealthy, Action: fleetv1.ActionEvict, HealthReason: "fell off the bus"},
	} {
		run(t, 2, func(c *cluster) {
			c.deployOnDevice(1)
			first := c.instances()[0]
			c.agentsDo(func(inst *fleetv1.Instance, next *fleetv1.InstanceObserved) *fleetv1.InstanceObserved {
				if inst.GetMeta().GetId() == first.GetMeta().GetId() {
					return nil // its agent says nothing of it any more
				}
				return next
			})
			c.node(first.GetSpec().GetNode(), func(n *fleetv1.Node) {
				n.Facts.Devices[0].Health, n.Facts.Devices[0].Action, n.Facts.Devices[0].HealthReason = device.Health, device.Action, device.HealthReason
			})
			c.expect(fleetv1.ServiceRunning, 2)
			if got := c.nodesUsed(); len(got) != 1 || got[0] == first.GetSpec().GetNode() {
				t.Errorf("runs on %v, was on %s", got, first.GetSpec().GetNode())
			}
			left := c.store.View().Instance(first.GetMeta().GetId())
			if want := "device " + first.GetSpec().GetDeviceIds()[0] + " is " + device.Health + ": fell off the bus"; left.GetDesired().GetReason() != want {
				t.Errorf("reason %q, want %q", left.GetDesired().GetReason(), want)
			}
			if c.store.View().DeviceHolder(first.GetSpec().GetNode(), first.GetSpec().GetDeviceIds()[0]).GetMeta().GetId() != first.GetMeta().GetId() {
				t.Error("its device counts as free before it is reaped")
			}
			c.quiet()
		})
	}
}

func TestDrainedDeviceKeepsItsInstance(t *testing.T) {
	run(t, 2, func(c *cluster) {
		c.deployOnDevice(1)
		first := c.instances()[0]
		for _, device := range []*fleetv1.Device{{Health: fleetv1.Unhealthy, Action: fleetv1.ActionDrain}, {Health: fleetv1.Unresponsive, Action: fleetv1.ActionDrain}} {
			c.node(first.GetSpec().GetNode(), func(n *fleetv1.Node) {
				n.Facts.Devices[0].Health, n.Facts.Devices[0].Action = device.Health, device.Action
			})
			c.expect(fleetv1.ServiceRunning, 1)
		}
		if got := c.instances()[0]; got.GetMeta().GetId() != first.GetMeta().GetId() || got.GetDesired().GetState() != fleetv1.DesiredRunning {
			t.Errorf("instance %v", got)
		}
		c.quiet()
	})
}

// An instance whose devices are being checked still holds them, is waited for, and is not late.
func TestReclaiming(t *testing.T) {
	run(t, 1, func(c *cluster) {
		c.deployOnDevice(2)
		c.expect(fleetv1.ServiceRunning, 2)
		c.agentsDo(func(inst *fleetv1.Instance, next *fleetv1.InstanceObserved) *fleetv1.InstanceObserved {
			switch {
			case inst.GetObserved().GetState() == fleetv1.InstanceReclaiming:
				return nil
			case next.GetState() == fleetv1.InstanceReaped:
				next.State = fleetv1.InstanceReclaiming
			}
			return next
		})
		c.change(func(s *fleetv1.Service) { s.Desired.State = fleetv1.DesiredStopped })
		c.after(10 * time.Minute)
		c.expect(fleetv1.ServiceStopping, 2)
		if r := c.service().GetStatus().GetReason(); !strings.Contains(r, "waiting for devices to be free again: s-") || c.count("StopFailed") != 0 {
			t.Errorf("reason %q, events %v", r, c.reasons())
		}
		if n := c.store.View().Allocated("n1").Devices; n != 2 {
			t.Errorf("%d devices are held", n)
		}
		c.quiet()
		c.agentsDo(nil)
		c.act()
		c.settled()
		c.expect(fleetv1.ServiceStopped, 0)
	})
}

// A replacement of a failed instance gets its device when that was found free, and not before.
func TestReplacementWaitsForReclaiming(t *testing.T) {
	run(t, 1, func(c *cluster) {
		c.deployOnDevice(2)
		first := c.instances()[0]
		c.agentsDo(func(inst *fleetv1.Instance, next *fleetv1.InstanceObserved) *fleetv1.InstanceObserved {
			if inst.GetMeta().GetId() != first.GetMeta().GetId() {
				return next
			}
			if inst.GetObserved().GetState() == fleetv1.InstanceFailed && inst.GetDesired().GetState() == fleetv1.DesiredStopped {
				return &fleetv1.InstanceObserved{State: fleetv1.InstanceReclaiming, Attempt: 1}
			}
			return nil
		})
		c.report(first, &fleetv1.InstanceObserved{State: fleetv1.InstanceFailed, Attempt: 1, Reason: "gave up"})
		c.after(time.Minute)
		c.expect(fleetv1.ServiceAlarm, 2)
		if got := c.waiting(); !strings.Contains(got, "most free 0 on n1") {
			t.Errorf("waiting reason %q", got)
		}
		c.report(first, &fleetv1.InstanceObserved{State: fleetv1.InstanceReaped, Attempt: 1})
		c.settled()
		c.expect(fleetv1.ServiceRunning, 2)
	})
}

// An instance that was stopped on its node never serves again: its replacement doesn't wait for its devices.
func TestReclaimingAfterALocalStop(t *testing.T) {
	run(t, 1, func(c *cluster) {
		c.deployOnDevice(1)
		first := c.instances()[0]
		c.agentsDo(func(inst *fleetv1.Instance, next *fleetv1.InstanceObserved) *fleetv1.InstanceObserved {
			if inst.GetMeta().GetId() == first.GetMeta().GetId() {
				return nil
			}
			return next
		})
		c.report(first, &fleetv1.InstanceObserved{State: fleetv1.InstanceReclaiming, Attempt: 1})
		c.settled()
		c.expect(fleetv1.ServiceRunning, 2)
		if got := c.store.View().Instance(first.GetMeta().GetId()); got.GetDesired().GetState() != fleetv1.DesiredStopped {
			t.Errorf("left as %v", got.GetDesired())
		}
		c.report(first, &fleetv1.InstanceObserved{State: fleetv1.InstanceReaped, Attempt: 1})
		c.settled()
		c.expect(fleetv1.ServiceRunning, 1)
		c.quiet()
	})
}
