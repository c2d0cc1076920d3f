package reconcile

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/protobuf/proto"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
)

func preemptible(s *fleetv1.Service) { s.Spec.Versions[0].Preemptible = true }

func (c *cluster) addPairs() {
	c.must(&fleetv1.Flavor{Meta: &fleetv1.Meta{Name: "pair", Id: "pair"}, Spec: &fleetv1.FlavorSpec{CpuMillis: 1000, MemoryBytes: gib, Accelerator: &fleetv1.Accelerator{Vendor: "fake", Count: 2}}})
}

func pair(priority int32) func(*fleetv1.Service) {
	return func(s *fleetv1.Service) {
		s.Spec.Versions[0].Flavor, s.Spec.Versions[0].Priority = "pair", priority
	}
}

// slow has one instance of service low on each node be slow to stop.
func (c *cluster) slow() {
	half := map[string]bool{}
	c.agentsDo(func(inst *fleetv1.Instance, next *fleetv1.InstanceObserved) *fleetv1.InstanceObserved {
		if node := inst.GetSpec().GetNode(); next.GetState() == fleetv1.InstanceReaped && inst.GetSpec().GetServiceName() == "low" {
			if half[node] {
				return nil
			}
			half[node] = true
		}
		return next
	})
}

// Room that is made for one is not taken by others, victims among them, though the pool has a reservation for somebody
// else already; nor when another leads.
func TestRoomIsKept(t *testing.T) {
	for _, newLeader := range []bool{false, true} {
		t.Run(fmt.Sprint("new leader ", newLeader), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := newCluster(t, 3)
				stop := c.lead()
				c.addPairs()
				on := func(s *fleetv1.Service) {
					s.Spec.Versions[0].Placement = &fleetv1.PlacementRules{Nodes: []string{"n1"}}
				}
				c.add("fixed", 2, gpu(60), on)
				c.settled()
				c.add("low", 4, gpu(0), preemptible)
				c.settled()
				c.add("first", 1, pair(60), on) // waits for ever, with the reservation
				c.after(reserveAfter + time.Second)
				c.slow()
				c.add("high", 1, pair(50))
				c.after(time.Second)
				if newLeader {
					stop()
					stop = c.lead()
				}
				c.after(20 * time.Second)
				if n := c.count("InstancePreempted"); n != 2 || c.ready("low") != 2 || c.ready("high") != 0 {
					t.Errorf("%d preempted, %d of low ready, %d of high: %v", n, c.ready("low"), c.ready("high"), c.statusOf("high"))
				}
				c.agentsDo(nil)
				c.act()
				c.after(time.Minute)
				if n := c.count("InstancePreempted"); n != 2 || c.ready("low") != 2 || c.ready("high") != 1 {
					t.Errorf("in the end %d preempted, %d of low ready, %d of high", n, c.ready("low"), c.ready("high"))
				}
				c.after(long)
				c.quiet()
				stop()
			})
		})
	}
}

// A node that is cordoned while it is being cleared is given up, for what else there is.
func TestRoomIsGivenUp(t *testing.T) {
	run(t, 2, func(c *cluster) {
		c.addPairs()
		c.add("low", 4, gpu(0), preemptible)
		c.settled()
		c.slow()
		c.add("high", 1, pair(50))
		c.after(5 * time.Second)
		kept := c.statusOf("high").GetReservation().GetNodes()
		if len(kept) != 1 || c.count("InstancePreempted") != 2 {
			t.Fatalf("%v kept, %d preempted", kept, c.count("InstancePreempted"))
		}
		c.agentsDo(nil)
		node := proto.CloneOf(c.store.View().Node(kept[0]))
		node.Spec.Cordoned = true
		c.put(node, node.GetMeta().GetRevision())
		c.act()
		c.after(time.Minute)
		if c.ready("high") != 1 || c.count("InstancePreempted") != 4 {
			t.Errorf("%d of high ready, %d preempted", c.ready("high"), c.count("InstancePreempted"))
		}
		c.after(long)
		c.quiet()
	})
}

// A reservation that keeps others out for long and gains nothing lets them pass, and has its turn again.
func TestReservationTakesTurns(t *testing.T) {
	run(t, 1, func(c *cluster) {
		c.addPairs()
		for _, name := range []string{"a", "b"} {
			c.add(name, 1, gpu(0))
			c.settled()
		}
		c.deploy(1, pair(0))
		c.after(reserveAfter + time.Second)
		c.stopService("a")
		c.add("small", 1, gpu(0))
		c.after(30 * time.Second)
		if c.ready("small") != 0 {
			t.Error("a small one took at once what is reserved")
		}
		c.after(time.Minute)
		if c.ready("small") != 1 || c.statusOf("s").GetReservation() == nil {
			t.Errorf("%d of small ready; reservation %v", c.ready("small"), c.statusOf("s").GetReservation())
		}
		c.after(time.Hour)
		c.stopService("small")
		c.add("next", 1, gpu(0))
		c.after(90 * time.Second)
		if c.ready("next") != 0 {
			t.Error("the second turn is no longer than the first")
		}
		c.stopService("b")
		c.expect(fleetv1.ServiceRunning, 1)
		c.after(long)
		c.quiet()
	})
}
