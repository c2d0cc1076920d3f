package reconcile

import (
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/protobuf/proto"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
)

// unkept has the service's instances stopped by their agents 60 s after they lost the schedulers, with 10 s of grace.
func unkept(s *fleetv1.Service) {
	s.Spec.OnDisconnect = &fleetv1.OnDisconnect{ReplaceAfterSeconds: proto.Int32(60), Keep: proto.Bool(false)}
	s.Spec.GracePeriodSeconds = proto.Int32(10)
}

// fence is when such an instance may be replaced.
const fence = 70*time.Second + 140*time.Millisecond + fenceSlack

func (c *cluster) stopsOn(node string) int {
	n := 0
	for _, i := range c.instances() {
		if i.GetSpec().GetNode() == node && i.GetDesired().GetState() == fleetv1.DesiredStopped {
			n++
		}
	}
	return n
}

func TestAFencedInstanceIsReplacedLate(t *testing.T) {
	run(t, 2, func(c *cluster) {
		c.deploy(1, unkept)
		if p := c.instances()[0].GetSpec().GetOnDisconnect(); p.GetKeep() || p.GetReplaceAfterSeconds() != 60 {
			t.Errorf("its node is told %v", p)
		}
		c.sessions.set("n1", true)
		c.after(fence - 10*time.Millisecond)
		if c.stopsOn("n1") != 0 {
			t.Fatal("replaced before its agent must have stopped it")
		}
		c.after(2 * time.Second)
		if c.stopsOn("n1") != 1 {
			t.Error("not replaced")
		}
		c.expect(fleetv1.ServiceRunning, 2)
		c.sessions.set("n1", false)
		c.after(2 * time.Minute)
		c.expect(fleetv1.ServiceRunning, 1)
	})
}

// The time that others have seen a node away doesn't count: their clocks may be off, by an hour even.
func TestANewLeaderWaitsTheWholeTime(t *testing.T) {
	for _, off := range []time.Duration{0, -time.Hour, time.Hour} {
		synctest.Test(t, func(t *testing.T) {
			c := newCluster(t, 2)
			stop := c.lead()
			c.settled()
			c.deploy(1, unkept)
			c.sessions.set("n1", true)
			c.after(fence - time.Second)
			stop()
			n := proto.CloneOf(c.store.View().Node("n1"))
			n.Status.StateTime.Seconds += int64(off / time.Second)
			c.put(n, n.GetMeta().GetRevision())
			defer c.lead()()
			c.after(fence - 10*time.Millisecond)
			if c.stopsOn("n1") != 0 {
				t.Fatalf("off by %s: replaced early", off)
			}
			c.after(2 * time.Second)
			if c.stopsOn("n1") != 1 {
				t.Errorf("off by %s: not replaced", off)
			}
		})
	}
}

// A node that comes back in between begins anew.
func TestAnAbsenceIsOne(t *testing.T) {
	run(t, 2, func(c *cluster) {
		c.deploy(1, unkept)
		for range 3 {
			c.sessions.set("n1", true)
			c.after(fence - time.Second)
			c.sessions.set("n1", false)
			c.after(time.Second)
		}
		if c.stopsOn("n1") != 0 {
			t.Error("replaced though its node was never away for long enough")
		}
	})
}

// restore sets the cluster's restore epoch, and up to which an operator has confirmed removals.
func (c *cluster) restore(epoch, confirmed uint64) {
	c.t.Helper()
	now := proto.CloneOf(c.store.View().Cluster())
	now.RestoreEpoch, now.RemovalsConfirmed = epoch, confirmed
	if r := c.put(now, now.GetMeta().GetRevision()); len(r.Rejections) > 0 {
		c.t.Fatal(r.Rejections)
	}
	c.settled()
}

// After a restore the loops place, stop and move nothing before an operator has confirmed what would be removed.
func TestNothingMovesWhileRemovalsAreHeld(t *testing.T) {
	run(t, 2, func(c *cluster) {
		c.deploy(2, func(s *fleetv1.Service) {
			s.Spec.OnDisconnect = &fleetv1.OnDisconnect{ReplaceAfterSeconds: proto.Int32(0)}
		})
		c.restore(7, 0)
		c.scale(1)
		c.sessions.set("n1", true)
		c.after(time.Hour)
		for _, i := range c.instances() {
			if i.GetDesired().GetState() != fleetv1.DesiredRunning {
				t.Errorf("instance %v is asked to stop", i.GetMeta().GetName())
			}
		}
		if n := len(c.instances()); n != 2 {
			t.Errorf("%d instances", n)
		}
		if s := c.service().GetStatus(); s.GetState() != fleetv1.ServiceRunning || s.GetVersions()[0].GetReady() != 1 {
			t.Errorf("its status isn't kept up: %v", s)
		}
		c.scale(4)
		c.after(time.Hour)
		if n := len(c.instances()); n != 2 {
			t.Errorf("%d instances: some were placed", n)
		}
		c.restore(7, 7)
		c.after(time.Minute)
		c.expect(fleetv1.ServiceRunning, 5) // the lost one ends when its node is back
	})
}
