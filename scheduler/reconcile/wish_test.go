package reconcile

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
	"github.com/drover-fleet/drover/scheduler/place"
)

// gpu has the version ask for a device, with a priority.
func gpu(priority int32) func(*fleetv1.Service) {
	return func(s *fleetv1.Service) {
		s.Spec.Versions[0].Flavor, s.Spec.Versions[0].Priority = "gpu", priority
	}
}

// ready is how many instances of a service are.
func (c *cluster) ready(name string) int32 {
	return c.store.View().ServiceByID(name + "id").GetStatus().GetVersions()[0].GetReady()
}

func (c *cluster) statusOf(name string) *fleetv1.ServiceVersionStatus {
	return c.store.View().ServiceByID(name + "id").GetStatus().GetVersions()[0]
}

// stopService asks a service to stop.
func (c *cluster) stopService(name string) {
	c.t.Helper()
	svc := proto.CloneOf(c.store.View().ServiceByID(name + "id"))
	svc.Desired.State = fleetv1.DesiredStopped
	if r := c.put(svc, svc.GetMeta().GetRevision()); len(r.Rejections) > 0 {
		c.t.Fatalf("stop: %v", r.Rejections)
	}
	c.settled()
}

// long is after when nothing that waits is looked at again soon: reasons are told and reservations made.
const long = 10 * time.Minute

func TestLineIsByPriorityThenByTime(t *testing.T) {
	run(t, 1, func(c *cluster) {
		for _, name := range []string{"full", "more"} {
			c.add(name, 1, gpu(0))
			c.settled()
		}
		for _, s := range []struct {
			name     string
			priority int32
		}{{"early", 10}, {"late", 10}, {"urgent", 20}, {"low", 0}} {
			c.add(s.name, 1, gpu(s.priority))
			c.after(time.Second)
		}
		if st := c.statusOf("early"); st.GetWaitingReason() == "" || st.GetWaitingSince() == nil {
			t.Errorf("status %v", st)
		}
		ready := func() (names []string) {
			for _, name := range []string{"early", "late", "urgent", "low"} {
				if c.ready(name) == 1 {
					names = append(names, name)
				}
			}
			return names
		}
		c.stopService("full")
		if got := ready(); !slices.Equal(got, []string{"urgent"}) {
			t.Errorf("first %v", got)
		}
		c.stopService("more")
		if got := ready(); !slices.Equal(got, []string{"early", "urgent"}) {
			t.Errorf("then %v", got)
		}
		if st := c.statusOf("early"); st.GetWaitingReason() != "" || st.GetWaitingSince() != nil {
			t.Errorf("status %v", st)
		}
		c.after(long)
		c.quiet()
	})
}

func TestPlaceInLineOutlivesALeader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 1)
		stop := c.lead()
		c.add("full", 2, gpu(0))
		c.settled()
		c.add("z", 1, gpu(0))
		c.after(time.Minute)
		since := c.statusOf("z").GetWaitingSince()
		c.add("a", 1, gpu(0))
		c.settled()
		stop()
		defer c.lead()()
		c.settled()
		if got := c.statusOf("z").GetWaitingSince(); !proto.Equal(got, since) || since == nil {
			t.Errorf("waits since %v, then since %v", since, got)
		}
		full := proto.CloneOf(c.store.View().ServiceByID("fullid"))
		full.Spec.Versions[0].Instances = 1
		full.Meta.Generation++
		c.put(full, full.GetMeta().GetRevision())
		c.settled()
		if c.ready("z") != 1 || c.ready("a") != 0 {
			t.Errorf("ready: z %d, a %d", c.ready("z"), c.ready("a"))
		}
	})
}

func TestQuotaMakesInstancesWait(t *testing.T) {
	limits := map[string]*fleetv1.QuotaSpec{
		"instances": {Instances: proto.Int64(2)},
		"devices":   {Devices: []*fleetv1.DeviceQuota{{Model: "X*", Count: 2}}},
		"exact":     {Devices: []*fleetv1.DeviceQuota{{Model: "X1", Count: 2}}}, // the flavor names no model
	}
	for name, limit := range limits {
		t.Run(name, func(t *testing.T) {
			run(t, 3, func(c *cluster) {
				quota := &fleetv1.Quota{Meta: &fleetv1.Meta{Name: "default", Id: "q"}, Spec: limit}
				c.must(quota)
				c.deploy(3, gpu(0))
				c.expect(fleetv1.ServiceDeploying, 2)
				if r := c.statusOf("s").GetWaitingReason(); !strings.Contains(r, "quota of project default") || !strings.Contains(r, "2 of 2 ") {
					t.Errorf("reason %q", r)
				}
				c.quiet()
				c.after(long)
				c.quiet()
				stored := c.store.View().Quota("default")
				quota.Spec = &fleetv1.QuotaSpec{Instances: proto.Int64(3)}
				if r := c.put(quota, stored.GetMeta().GetRevision()); len(r.Rejections) > 0 {
					t.Fatal(r)
				}
				c.settled()
				c.expect(fleetv1.ServiceRunning, 3)
				c.after(long)
				c.quiet()
			})
		})
	}
}

// Who finds no node leaves its share of the quota to those behind it.
func TestQuotaIsNotHeldByThoseWhoWait(t *testing.T) {
	run(t, 1, func(c *cluster) {
		c.must(&fleetv1.Quota{Meta: &fleetv1.Meta{Name: "default", Id: "q"}, Spec: &fleetv1.QuotaSpec{Instances: proto.Int64(3)}})
		c.add("wide", 1, gangOf(3), gpu(50)) // there is one node
		c.add("s", 2, gpu(0))
		c.settled()
		c.expect(fleetv1.ServiceRunning, 2)
		c.after(long)
		c.quiet()
	})
}

// stopOne preempts the preemptible instance of the least priority below the request's.
type stopOne struct{ c *cluster }

func (p stopOne) Preempt(r *place.Request) (nodes, victims []string, ok bool) {
	var victim *fleetv1.Instance
	for _, i := range p.c.store.View().Instances() {
		if s := i.GetSpec(); s.GetPreemptible() && s.GetPriority() < r.Priority {
			if i.GetDesired().GetState() == fleetv1.DesiredStopped {
				return []string{s.GetNode()}, nil, true
			}
			if victim == nil || s.GetPriority() < victim.GetSpec().GetPriority() {
				victim = i
			}
		}
	}
	if victim == nil {
		return nil, nil, false
	}
	return []string{victim.GetSpec().GetNode()}, []string{victim.GetMeta().GetId()}, true
}

func TestPreemptionStopsThenPlaces(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 1)
		defer c.leadWith(func(l *serviceLoop) { l.preempter = func(*place.Index) preempter { return stopOne{c} } })()
		preemptible := func(s *fleetv1.Service) { s.Spec.Versions[0].Preemptible = true }
		c.add("low", 1, gpu(0), preemptible)
		c.add("mid", 1, gpu(5), preemptible)
		c.settled()
		c.agentsDo(func(_ *fleetv1.Instance, next *fleetv1.InstanceObserved) *fleetv1.InstanceObserved {
			if next.GetState() == fleetv1.InstanceReaped {
				return nil // still stopping
			}
			return next
		})
		c.add("high", 1, gpu(50))
		c.after(time.Minute)
		if n := c.count("InstancePreempted"); n != 1 || c.ready("high") != 0 {
			t.Fatalf("%d preempted; events %v", n, c.reasons())
		}
		if m := c.messages("InstancePreempted"); m != "preempted by service high, which has priority 50" {
			t.Errorf("told the victim %q", m)
		}
		if m := c.messages("Preempting"); !strings.HasPrefix(m, "1 instance of less priority is stopped to make room on n1: low-") {
			t.Errorf("told the other %q", m)
		}
		c.agentsDo(nil)
		c.act()
		c.settled()
		if c.ready("high") != 1 || c.ready("mid") != 1 || c.ready("low") != 0 {
			t.Errorf("ready: high %d, mid %d, low %d", c.ready("high"), c.ready("mid"), c.ready("low"))
		}
		if r := c.statusOf("low").GetWaitingReason(); r == "" {
			t.Error("the victim's service does not say why it waits")
		}
		c.after(long)
		c.quiet()
	})
}

func TestNobodyIsPreemptedWithoutPriority(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 1)
		defer c.leadWith(func(l *serviceLoop) { l.preempter = func(*place.Index) preempter { return stopOne{c} } })()
		c.add("full", 2, gpu(0), func(s *fleetv1.Service) { s.Spec.Versions[0].Preemptible = true })
		c.settled()
		c.add("same", 1, gpu(0))
		c.add("fixed", 1, gpu(0), func(s *fleetv1.Service) { s.Spec.Versions[0].Preemptible = true })
		c.settled()
		if n := c.count("InstancePreempted"); n != 0 || c.ready("full") != 2 {
			t.Errorf("%d preempted", n)
		}
		c.after(long)
		c.quiet()
	})
}

func TestWaitingIsExplainedAgainNotTooOften(t *testing.T) {
	run(t, 1, func(c *cluster) {
		c.add("full", 2, gpu(0))
		c.settled()
		c.deploy(1, gpu(0))
		told := map[string]bool{}
		for range 20 { // nodes of no use come by
			c.must(&fleetv1.Node{Meta: &fleetv1.Meta{Name: "x" + time.Now().Format("150405"), Id: "x" + time.Now().Format("150405")}, Spec: &fleetv1.NodeSpec{},
				Facts:  &fleetv1.NodeFacts{Arch: "amd64", CpuMillis: 4000, MemoryBytes: 8 * gib, Labels: map[string]string{"pool": "p"}},
				Status: &fleetv1.NodeStatus{State: fleetv1.NodeReady, StateTime: timestamppb.Now()}})
			c.after(time.Second)
			told[c.statusOf("s").GetWaitingReason()] = true
		}
		if n := len(told); n < 2 || n > 6 {
			t.Errorf("%d reasons in 20 s: %v", n, told)
		}
		c.after(time.Minute)
		if got := c.statusOf("s").GetWaitingReason(); !strings.Contains(got, "21 nodes") {
			t.Errorf("reason %q", got)
		}
		if n := c.count("WaitingForResources"); n != 1 {
			t.Errorf("told %d times", n)
		}
		c.after(long)
		c.quiet()
	})
}

// A request that has waited for long gets what becomes free, though small ones come by all the time.
func TestReservationKeepsSmallOnesAway(t *testing.T) {
	run(t, 2, func(c *cluster) {
		c.must(&fleetv1.Flavor{Meta: &fleetv1.Meta{Name: "pair", Id: "pair"}, Spec: &fleetv1.FlavorSpec{CpuMillis: 1000, MemoryBytes: gib, Accelerator: &fleetv1.Accelerator{Vendor: "fake", Count: 2}}})
		for _, name := range []string{"a", "b", "c", "d"} {
			c.add(name, 1, gpu(0))
			c.settled()
		}
		c.deploy(1, func(s *fleetv1.Service) { s.Spec.Versions[0].Flavor = "pair" })
		c.after(reserveAfter + time.Second)
		kept := c.statusOf("s").GetReservation()
		if len(kept.GetNodes()) != 1 || kept.GetDetail() == "" || kept.GetSince() == nil {
			t.Fatalf("reservation %v", kept)
		}
		var there []string
		for _, name := range []string{"a", "b", "c", "d"} {
			if c.store.View().InstancesOfService(name + "id")[0].GetSpec().GetNode() == kept.GetNodes()[0] {
				there = append(there, name)
			}
		}
		c.stopService(there[0])
		c.add("small", 1, gpu(0))
		c.after(30 * time.Second)
		if now := c.statusOf("s").GetReservation(); !slices.Equal(now.GetNodes(), kept.GetNodes()) || !proto.Equal(now.GetSince(), kept.GetSince()) {
			t.Errorf("reservation %v, then %v", kept, now)
		}
		if c.ready("small") != 0 || c.statusOf("small").GetWaitingReason() == "" {
			t.Errorf("a small one took what is reserved: %v", c.statusOf("small"))
		}
		c.stopService(there[1])
		c.expect(fleetv1.ServiceRunning, 1)
		if r := c.statusOf("s").GetReservation(); r != nil {
			t.Errorf("reservation %v after it was placed", r)
		}
		c.after(long)
		c.quiet()
	})
}

// However many wait, everybody gets a turn, and room for many is filled at once.
func TestManyWaitAndAllGetTheirTurn(t *testing.T) {
	run(t, 1, func(c *cluster) {
		c.add("full", 2, gpu(0))
		c.settled()
		for i := range 300 {
			c.add(fmt.Sprintf("w%03d", i), 100, gpu(0))
		}
		c.settled()
		for i := range 300 {
			if c.statusOf(fmt.Sprintf("w%03d", i)).GetWaitingReason() == "" {
				t.Fatalf("w%03d does not say why it waits", i)
			}
		}
		c.must(&fleetv1.Node{Meta: &fleetv1.Meta{Name: "big", Id: "big"}, Spec: &fleetv1.NodeSpec{}, Status: &fleetv1.NodeStatus{State: fleetv1.NodeReady},
			Facts: &fleetv1.NodeFacts{Arch: "amd64", CpuMillis: 400000, MemoryBytes: 800 * gib, Labels: map[string]string{"pool": "p"}, Devices: func() (all []*fleetv1.Device) {
				for i := range 64 {
					all = append(all, &fleetv1.Device{Id: fmt.Sprintf("big-d%03d", i), Vendor: "fake", Model: "X1", Health: fleetv1.Healthy})
				}
				return all
			}()}})
		c.after(time.Second)
		if a, b := c.ready("w000"), c.ready("w001"); a+b < 2 || len(c.store.View().InstancesOnNode("big")) != 64 {
			t.Errorf("ready: w000 %d, w001 %d; %d instances on the new node", a, b, len(c.store.View().InstancesOnNode("big")))
		}
		c.after(long)
		c.quiet()
	})
}

// The planner's own choice: whole nodes for pairs of devices, and their room isn't nibbled away while it is made.
func TestPreemptionMakesRoomForBigOnes(t *testing.T) {
	run(t, 2, func(c *cluster) {
		c.must(&fleetv1.Flavor{Meta: &fleetv1.Meta{Name: "pair", Id: "pair"}, Spec: &fleetv1.FlavorSpec{CpuMillis: 1000, MemoryBytes: gib, Accelerator: &fleetv1.Accelerator{Vendor: "fake", Count: 2}}})
		preemptible := func(s *fleetv1.Service) { s.Spec.Versions[0].Preemptible = true }
		c.add("low", 4, gpu(0), preemptible)
		c.settled()
		half := map[string]bool{}
		c.agentsDo(func(inst *fleetv1.Instance, next *fleetv1.InstanceObserved) *fleetv1.InstanceObserved {
			if node := inst.GetSpec().GetNode(); next.GetState() == fleetv1.InstanceReaped && inst.GetSpec().GetServiceName() == "low" {
				if half[node] {
					return nil // one of the two is slow to stop
				}
				half[node] = true
			}
			return next
		})
		c.add("high", 2, gpu(50), func(s *fleetv1.Service) { s.Spec.Versions[0].Flavor = "pair" })
		c.add("small", 1, gpu(10))
		c.after(10 * time.Second)
		if c.ready("small") != 0 || c.ready("high") != 0 || c.count("InstancePreempted") != 4 {
			t.Errorf("small %d, high %d: %v, %v", c.ready("small"), c.ready("high"), c.reasons(), c.messages("Preempting"))
		}
		c.agentsDo(nil)
		c.act()
		c.after(time.Minute)
		if c.ready("high") != 2 || c.count("InstancePreempted") != 4 {
			t.Errorf("high %d: %v", c.ready("high"), c.statusOf("high"))
		}
		c.after(5 * time.Minute)
		c.quiet()
	})
}
