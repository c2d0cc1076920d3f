package reconcile

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
)

func gangOf(nodes int32) func(*fleetv1.Service) {
	return func(s *fleetv1.Service) {
		s.Spec.Versions[0].Flavor, s.Spec.Versions[0].Nodes, s.Spec.Versions[0].Env = "gpu", nodes, map[string]string{"A": "b"}
	}
}

// ranks are the instances of service s that are to run, by rank.
func (c *cluster) ranks() []*fleetv1.Instance {
	all := slices.DeleteFunc(c.instances(), func(i *fleetv1.Instance) bool { return i.GetDesired().GetState() != fleetv1.DesiredRunning })
	slices.SortFunc(all, func(a, b *fleetv1.Instance) int {
		return int(a.GetSpec().GetGang().GetRank() - b.GetSpec().GetGang().GetRank())
	})
	return all
}

func TestGangIsPlacedAsAWholeAndKnowsItsMembers(t *testing.T) {
	run(t, 3, func(c *cluster) {
		c.deploy(1, gangOf(3))
		c.expect(fleetv1.ServiceRunning, 3)
		if v := c.service().GetStatus().GetVersions()[0]; v.GetDesired() != 1 || v.GetPlaced() != 1 || v.GetReady() != 1 {
			t.Errorf("status %v", v)
		}
		id, used := c.ranks()[0].GetSpec().GetGang().GetId(), map[string]bool{}
		for rank, i := range c.ranks() {
			s := i.GetSpec()
			if g := s.GetGang(); g.GetId() != id || int(g.GetRank()) != rank || g.GetSize() != 3 || len(g.GetAddresses()) != 3 {
				t.Errorf("gang %v", g)
			}
			want := map[string]string{"A": "b", "DROVER_GANG_ID": id, "DROVER_GANG_RANK": fmt.Sprint(rank), "DROVER_GANG_SIZE": "3",
				"DROVER_GANG_ADDRESSES": "10.0.0.1,10.0.0.1,10.0.0.1"}
			if fmt.Sprint(s.GetEnv()) != fmt.Sprint(want) {
				t.Errorf("environment %v, want %v", s.GetEnv(), want)
			}
			used[s.GetNode()] = true
		}
		if len(used) != 3 {
			t.Errorf("on nodes %v", used)
		}
		c.quiet()
	})
}

func TestGangWaitsForAllItsNodes(t *testing.T) {
	run(t, 2, func(c *cluster) {
		c.deploy(1, gangOf(3))
		c.expect(fleetv1.ServiceDeploying, 0)
		if r := c.service().GetStatus().GetVersions()[0].GetWaitingReason(); r == "" {
			t.Error("no reason")
		}
		c.addNode("n3")
		c.settled()
		c.expect(fleetv1.ServiceRunning, 3)
	})
}

func TestGangServesOnlyAsAWhole(t *testing.T) {
	run(t, 2, func(c *cluster) {
		c.deploy(1, gangOf(2))
		c.report(c.ranks()[1], &fleetv1.InstanceObserved{State: fleetv1.InstanceExited, Attempt: 1, LastExit: &fleetv1.ExitStatus{Reason: "OOMKilled", Code: 137}})
		c.settled()
		c.expect(fleetv1.ServiceAlarm, 2)
		if v := c.service().GetStatus().GetVersions()[0]; v.GetReady() != 0 || v.GetPlaced() != 1 {
			t.Errorf("status %v", v)
		}
		c.report(c.ranks()[1], &fleetv1.InstanceObserved{State: fleetv1.InstanceRunning, Attempt: 2, Ready: true})
		c.settled()
		c.expect(fleetv1.ServiceRunning, 2)
	})
}

func TestGangIsReplacedAsAWhole(t *testing.T) {
	lose := map[string]func(*cluster, *fleetv1.Instance){
		"a member fails": func(c *cluster, i *fleetv1.Instance) {
			c.report(i, &fleetv1.InstanceObserved{State: fleetv1.InstanceFailed, Attempt: 6, Reason: "gave up"})
		},
		"a member is reaped": func(c *cluster, i *fleetv1.Instance) {
			c.report(i, &fleetv1.InstanceObserved{State: fleetv1.InstanceReaped, Attempt: 1})
		},
		"a member's node is lost": func(c *cluster, i *fleetv1.Instance) {
			c.sessions.set(i.GetSpec().GetNode(), true)
			c.after(time.Minute)
		},
	}
	for name, lost := range lose {
		t.Run(name, func(t *testing.T) {
			run(t, 4, func(c *cluster) {
				c.deploy(1, gangOf(3))
				before := c.ranks()
				lost(c, before[1])
				c.settled()
				c.act()
				c.settled()
				after := c.ranks()
				if len(after) != 3 || c.service().GetStatus().GetState() != fleetv1.ServiceRunning {
					t.Fatalf("%d members, %v", len(after), c.service().GetStatus())
				}
				for rank, i := range after {
					if i.GetSpec().GetGang().GetId() == before[0].GetSpec().GetGang().GetId() || int(i.GetSpec().GetGang().GetRank()) != rank {
						t.Errorf("member %v is of the old gang", i.GetSpec().GetGang())
					}
				}
				c.quiet()
			})
		})
	}
}

func TestGangsAreScaledAndRestartedAsWholes(t *testing.T) {
	run(t, 4, func(c *cluster) {
		c.deploy(2, gangOf(2))
		c.expect(fleetv1.ServiceRunning, 4)
		c.after(time.Second)
		worst := 0
		c.agentsDo(func(_ *fleetv1.Instance, next *fleetv1.InstanceObserved) *fleetv1.InstanceObserved {
			down := map[string]bool{}
			for _, i := range c.instances() {
				if i.GetDesired().GetRestart() > i.GetObserved().GetRestarted() {
					down[i.GetSpec().GetGang().GetId()] = true
				}
			}
			worst = max(worst, len(down))
			return next
		})
		c.change(func(s *fleetv1.Service) { s.Desired.Restart++ })
		c.expect(fleetv1.ServiceRunning, 4)
		if worst != 1 {
			t.Errorf("%d gangs were restarted at once", worst)
		}
		for _, i := range c.instances() {
			if i.GetObserved().GetAttempt() != 2 {
				t.Errorf("attempt %d", i.GetObserved().GetAttempt())
			}
		}
		c.scale(1)
		c.expect(fleetv1.ServiceRunning, 2)
		if all := c.ranks(); all[0].GetSpec().GetGang().GetId() != all[1].GetSpec().GetGang().GetId() {
			t.Error("two halves are left")
		}
		c.quiet()
	})
}

func TestDrainMovesAGangAsAWhole(t *testing.T) {
	run(t, 4, func(c *cluster) {
		c.deploy(1, gangOf(2))
		before := c.ranks()
		c.drain(before[0].GetSpec().GetNode(), &fleetv1.Drain{})
		c.expect(fleetv1.ServiceRunning, 2)
		for _, i := range c.ranks() {
			if i.GetSpec().GetNode() == before[0].GetSpec().GetNode() || i.GetSpec().GetGang().GetId() == before[0].GetSpec().GetGang().GetId() {
				t.Errorf("member on %s", i.GetSpec().GetNode())
			}
		}
		if n := c.count("ServiceAlarm"); n != 0 {
			t.Errorf("%d alarms", n)
		}
		c.told("InstanceLeaving", "InstancePlaced", "NodeDrained")
		c.quiet()
	})
}

// drain drains a node as the API does; nil ends a drain.
func (c *cluster) drain(node string, d *fleetv1.Drain) {
	c.t.Helper()
	c.node(node, func(n *fleetv1.Node) { n.Spec.Cordoned, n.Spec.Drain = true, d })
}

// messages are those of the events with this reason.
func (c *cluster) messages(reason string) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	var out []string
	for _, e := range c.events {
		if e.GetReason() == reason {
			out = append(out, e.GetMessage())
		}
	}
	return strings.Join(out, "\n")
}
