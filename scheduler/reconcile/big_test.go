package reconcile

import (
	"errors"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
)

// roomy adds a node for so many instances of flavor one.
func (c *cluster) roomy(name string, instances int64) {
	c.must(&fleetv1.Node{Meta: &fleetv1.Meta{Name: name, Id: name}, Spec: &fleetv1.NodeSpec{}, Status: &fleetv1.NodeStatus{State: fleetv1.NodeReady},
		Facts: &fleetv1.NodeFacts{Arch: "amd64", CpuMillis: 1000 * instances, MemoryBytes: gib * instances, Labels: map[string]string{"pool": "p"}}})
}

// The entries of a plan stand by themselves: what is in one that fails is placed later, and nothing twice.
func TestBigServiceIsPlacedThoughEntriesFail(t *testing.T) {
	run(t, 0, func(c *cluster) {
		c.roomy("x", 2500)
		c.roomy("y", 2500)
		var plans atomic.Int32 // entries are on their way beside each other
		c.refuse = func(cmd *fleetv1.Command) error {
			if cmd.GetPlan() == nil {
				return nil
			}
			if plans.Add(1) == 2 {
				return errors.New("outcome unknown")
			}
			return nil
		}
		c.agentsDo(func(*fleetv1.Instance, *fleetv1.InstanceObserved) *fleetv1.InstanceObserved { return nil })
		c.deploy(5000)
		if n := len(c.instances()); plans.Load() < 2 || n == 0 || n >= 5000 {
			t.Fatalf("%d instances after %d entries", n, plans.Load())
		}
		c.after(10 * time.Second)
		c.expect(fleetv1.ServiceDeploying, 5000)
		if v := c.statusOf("s"); v.GetPlaced() != 5000 || v.GetWaitingReason() != "" {
			t.Errorf("status %v", v)
		}
		c.quiet()
	})
}

// Reports of a big service's instances are taken in together.
func TestBigServiceIsNotCountedAtEveryReport(t *testing.T) {
	c := newCluster(t, 0)
	c.roomy("x", 1000)
	now := time.Unix(1000, 0)
	term := New(Config{State: c.store, Proposer: c, Sessions: c.sessions, Now: func() time.Time { return now }}).Begin()
	defer term.End()
	step := func() (next time.Time) {
		for next = term.Step(t.Context(), now); next.Equal(now); next = term.Step(t.Context(), now) {
		}
		return next
	}
	c.add("s", 1000, func(s *fleetv1.Service) { s.Desired.StartTime = timestamppb.New(now) })
	next := step()
	if v := c.statusOf("s"); v.GetPlaced() != 1000 {
		t.Fatalf("status %v", v)
	}
	for at := next; !at.IsZero() && at.Sub(now) < time.Second; at = step() {
		now = at
	}
	now = now.Add(time.Second)
	for i, inst := range c.instances()[:20] {
		c.report(inst, &fleetv1.InstanceObserved{State: fleetv1.InstanceRunning, Attempt: 1, Ready: true})
		next = step()
		if got := c.statusOf("s").GetReady(); got != 1 {
			t.Fatalf("after %d reports %d are ready: the first is taken in at once, the others are not", i+1, got)
		}
	}
	if wait := next.Sub(now); wait <= 0 || wait > longestPause {
		t.Fatalf("next step in %v", wait)
	}
	now = next
	step()
	if got := c.statusOf("s").GetReady(); got != 20 {
		t.Errorf("%d are ready", got)
	}
}

// A stop of a big service takes few entries, and goes on when some instances changed meanwhile.
func TestBigServiceIsStopped(t *testing.T) {
	run(t, 0, func(c *cluster) {
		c.roomy("x", 3000)
		c.deploy(3000)
		c.after(time.Second)
		c.expect(fleetv1.ServiceRunning, 3000)
		entries, disturbed := 0, false
		c.refuse = func(cmd *fleetv1.Command) error {
			if len(cmd.GetWrite().GetMutations()) > 1 {
				entries++
			}
			if m := cmd.GetWrite().GetMutations(); len(m) > 2 && !disturbed {
				disturbed = true // the agent of one reports before the entry is applied
				id := m[len(m)/2].GetPut().GetInstance().GetMeta().GetId()
				c.reportLocked(c.store.View().Instance(id), &fleetv1.InstanceObserved{State: fleetv1.InstanceRunning, Attempt: 2, Ready: true})
			}
			return nil
		}
		c.change(func(s *fleetv1.Service) { s.Desired.State = fleetv1.DesiredStopped })
		c.after(10 * time.Second)
		c.expect(fleetv1.ServiceStopped, 0)
		if !disturbed || entries > 40 {
			t.Errorf("%d entries, disturbed %v", entries, disturbed)
		}
		c.quiet()
	})
}
