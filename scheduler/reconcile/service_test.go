package reconcile

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
)

func TestDeployToRunning(t *testing.T) {
	run(t, 3, func(c *cluster) {
		c.deploy(3)
		c.expect(fleetv1.ServiceRunning, 3)
		c.told("DeploymentStarted", "ServiceRunning")
		if got := c.nodesUsed(); !slices.Equal(got, []string{"n1", "n2", "n3"}) {
			t.Errorf("placed on %v, not spread", got)
		}
		st := c.service().GetStatus()
		if v := st.GetVersions()[0]; v.GetDesired() != 3 || v.GetPlaced() != 3 || v.GetReady() != 3 || st.GetRunningGeneration() != 1 || st.GetReason() != "" {
			t.Errorf("status %v", st)
		}
		c.quiet()
	})
}

func TestInstanceSpecIsComplete(t *testing.T) {
	run(t, 1, func(c *cluster) {
		c.deploy(1, func(s *fleetv1.Service) {
			v := s.Spec.Versions[0]
			v.Flavor, v.Env, v.Limits = "gpu", map[string]string{"A": "b"}, &fleetv1.Limits{Pids: 5}
			s.Spec.GracePeriodSeconds = proto.Int32(0)
		})
		c.expect(fleetv1.ServiceRunning, 1)
		inst := c.instances()[0]
		got := proto.CloneOf(inst.GetSpec())
		if got.GetEpoch() == 0 {
			t.Error("no epoch")
		}
		got.Epoch = 0
		want := &fleetv1.InstanceSpec{ServiceId: "sid", ServiceName: "s", ServiceGeneration: 1, Model: "m", ModelVersion: "0.0.1", Flavor: "gpu", Node: "n1",
			DeviceIds: []string{"n1-d0"}, DeviceModels: []string{"X1"}, Image: "r/m:1", ImageDigest: "sha256:1", Env: map[string]string{"A": "b"}, CpuMillis: 1000, MemoryBytes: gib,
			Limits: &fleetv1.Limits{ShmBytes: 7, Pids: 5}, Network: fleetv1.NetworkBridge, Api: &fleetv1.ModelAPI{Protocol: "http", Port: 8080},
			Health:          &fleetv1.HealthCheck{CheckMethod: "HTTP", Protocol: "http", Url: "/health", PeriodSeconds: 2, TimeoutSeconds: 5, FailureThreshold: 3},
			WithdrawSeconds: 3, OnDisconnect: &fleetv1.OnDisconnect{ReplaceAfterSeconds: proto.Int32(60), Keep: proto.Bool(true)}}
		if !proto.Equal(got, want) {
			t.Errorf("spec\n%v, want\n%v", got, want)
		}
		if name := inst.GetMeta().GetName(); name != "s-"+inst.GetMeta().GetId()[:8] {
			t.Errorf("name %q", name)
		}
	})
}

func TestExitIsAlarmThenRunning(t *testing.T) {
	run(t, 1, func(c *cluster) {
		c.deploy(1)
		inst := c.instances()[0]
		c.report(inst, &fleetv1.InstanceObserved{State: fleetv1.InstanceExited, Attempt: 1, LastExit: &fleetv1.ExitStatus{Reason: "OOMKilled", Code: 137}})
		c.settled()
		c.expect(fleetv1.ServiceAlarm, 1)
		if r := c.service().GetStatus().GetReason(); r != "0 of 1 instances are ready; instance "+inst.GetMeta().GetName()+" on n1 ended: OOMKilled, code 137" {
			t.Errorf("reason %q", r)
		}
		c.report(inst, &fleetv1.InstanceObserved{State: fleetv1.InstanceRunning, Attempt: 2, Ready: true})
		c.settled()
		c.expect(fleetv1.ServiceRunning, 1)
		c.told("ServiceRunning", "ServiceAlarm", "ServiceRunning")
		if id := c.instances()[0].GetMeta().GetId(); id != inst.GetMeta().GetId() {
			t.Error("an instance that its agent restarts was replaced")
		}
	})
}

func TestUnhealthyWhileRunningAndWhileDeploying(t *testing.T) {
	unhealthy := &fleetv1.InstanceObserved{State: fleetv1.InstanceRunning, Attempt: 1, Health: fleetv1.Unhealthy}
	healthy := &fleetv1.InstanceObserved{State: fleetv1.InstanceRunning, Attempt: 1, Health: fleetv1.Healthy, Ready: true}
	run(t, 2, func(c *cluster) {
		c.deploy(1)
		c.report(c.instances()[0], proto.CloneOf(unhealthy))
		c.settled()
		c.expect(fleetv1.ServiceAlarm, 1)
		c.report(c.instances()[0], proto.CloneOf(healthy))
		c.settled()
		c.expect(fleetv1.ServiceRunning, 1)
	})
	run(t, 2, func(c *cluster) {
		c.agentsDo(func(inst *fleetv1.Instance, next *fleetv1.InstanceObserved) *fleetv1.InstanceObserved {
			if next.GetReady() {
				return proto.CloneOf(unhealthy)
			}
			return next
		})
		c.deploy(1)
		c.expect(fleetv1.ServiceAbnormal, 1)
		c.report(c.instances()[0], proto.CloneOf(healthy))
		c.settled()
		c.expect(fleetv1.ServiceRunning, 1)
		c.told("DeploymentStarted", "ServiceAbnormal", "ServiceRunning")
	})
}

func TestFailedIsReplacedElsewhere(t *testing.T) {
	run(t, 2, func(c *cluster) {
		c.deploy(1)
		first := c.instances()[0]
		c.agentsDo(func(_ *fleetv1.Instance, next *fleetv1.InstanceObserved) *fleetv1.InstanceObserved {
			if next.GetReady() {
				return nil // still starting
			}
			return next
		})
		c.report(first, &fleetv1.InstanceObserved{State: fleetv1.InstanceFailed, Attempt: 6, Reason: "gave up"})
		c.settled()
		c.expect(fleetv1.ServiceAbnormal, 1)
		c.agentsDo(nil)
		c.act()
		c.settled()
		c.expect(fleetv1.ServiceRunning, 1)
		if got := c.instances()[0].GetSpec().GetNode(); got == first.GetSpec().GetNode() {
			t.Errorf("replaced on the node that it failed on, %s", got)
		}
		c.told("ServiceRunning", "InstancePlaced", "ServiceAbnormal", "ServiceRunning")
	})
}

func TestBrokenImageDoesNotChurn(t *testing.T) {
	run(t, 3, func(c *cluster) {
		c.agentsDo(func(inst *fleetv1.Instance, next *fleetv1.InstanceObserved) *fleetv1.InstanceObserved {
			if next.GetReady() {
				return &fleetv1.InstanceObserved{State: fleetv1.InstanceFailed, Attempt: 6, Reason: "gave up"}
			}
			return next
		})
		c.deploy(2)
		if got := c.service().GetStatus().GetState(); got != fleetv1.ServiceAbnormal {
			t.Errorf("state %s", got)
		}
		c.after(time.Hour)
		if n := c.count("InstancePlaced"); n < 10 || n > 80 {
			t.Errorf("%d instances placed in an hour", n)
		}
		c.agentsDo(nil)
		c.after(10 * time.Minute)
		c.expect(fleetv1.ServiceRunning, 2)
	})
}

func TestScale(t *testing.T) {
	run(t, 3, func(c *cluster) {
		c.deploy(1)
		first := c.instances()[0].GetMeta().GetId()
		c.after(time.Second)
		c.scale(3)
		c.expect(fleetv1.ServiceRunning, 3)
		if n := c.count("ServiceAlarm"); n != 0 {
			t.Errorf("scaling up raised %d alarms", n)
		}
		if g := c.service().GetStatus().GetRunningGeneration(); g != 2 {
			t.Errorf("running generation %d", g)
		}
		c.scale(1)
		c.expect(fleetv1.ServiceRunning, 1)
		if got := c.instances()[0].GetMeta().GetId(); got != first {
			t.Error("scaling down did not keep the oldest")
		}
		c.scale(3)
		c.after(time.Second)
		c.report(c.instances()[0], &fleetv1.InstanceObserved{State: fleetv1.InstanceExited, Attempt: 1})
		down := c.instances()[0].GetMeta().GetId()
		c.settled()
		c.scale(2)
		if c.store.View().Instance(down) != nil {
			t.Error("scaling down did not take the instance that does not serve")
		}
		c.expect(fleetv1.ServiceRunning, 2)
		c.quiet()
	})
}

func TestStopStartDelete(t *testing.T) {
	run(t, 2, func(c *cluster) {
		c.deploy(2)
		c.agentsDo(func(inst *fleetv1.Instance, next *fleetv1.InstanceObserved) *fleetv1.InstanceObserved {
			if next.GetState() == fleetv1.InstanceReaped {
				return nil // still draining
			}
			return next
		})
		c.change(func(s *fleetv1.Service) { s.Desired.State = fleetv1.DesiredStopped })
		c.expect(fleetv1.ServiceStopping, 2)
		c.agentsDo(nil)
		c.act()
		c.settled()
		c.expect(fleetv1.ServiceStopped, 0)
		c.after(time.Second)
		c.change(func(s *fleetv1.Service) {
			s.Desired.State, s.Desired.StartTime = fleetv1.DesiredRunning, timestamppb.Now()
		})
		c.expect(fleetv1.ServiceRunning, 2)
		c.told("DeploymentStarted", "ServiceRunning", "Stopping", "Stopped", "Starting", "Started", "ServiceRunning")
		c.change(func(s *fleetv1.Service) { s.Desired.State = fleetv1.DesiredDeleted })
		c.told("Deleting")
		if c.service() != nil || len(c.instances()) != 0 {
			t.Error("service or instances are left")
		}
		c.quiet()
	})
}

func TestRestartHonoursMaxInvalid(t *testing.T) {
	run(t, 3, func(c *cluster) {
		c.deploy(5, func(s *fleetv1.Service) { s.Spec.MaxInvalidInstances = 2 })
		c.after(time.Second)
		worst := 0
		hold := true
		c.agentsDo(func(inst *fleetv1.Instance, next *fleetv1.InstanceObserved) *fleetv1.InstanceObserved {
			down := 0
			for _, i := range c.instances() {
				if !i.GetObserved().GetReady() || i.GetDesired().GetRestart() > i.GetObserved().GetRestarted() {
					down++
				}
			}
			worst = max(worst, down)
			if hold && next.GetReady() {
				return nil
			}
			return next
		})
		c.change(func(s *fleetv1.Service) { s.Desired.Restart++ })
		c.expect(fleetv1.ServiceRunning, 5)
		if worst != 2 {
			t.Errorf("%d instances down before any is back, want 2", worst)
		}
		if r := c.service().GetStatus().GetRestarted(); r != 0 {
			t.Errorf("restarted is %d in the middle", r)
		}
		hold = false
		c.act()
		c.settled()
		c.expect(fleetv1.ServiceRunning, 5)
		if r := c.service().GetStatus().GetRestarted(); r != 1 || worst != 2 {
			t.Errorf("restarted %d, worst %d", r, worst)
		}
		for _, i := range c.instances() {
			if i.GetObserved().GetAttempt() != 2 {
				t.Errorf("attempt %d", i.GetObserved().GetAttempt())
			}
		}
		if c.count("Restarting") != 1 || c.count("ServiceAlarm") != 0 {
			t.Errorf("events %v", c.reasons())
		}
		c.quiet()
	})
}

func TestTimeoutAndPullStopsTheClock(t *testing.T) {
	pulling := func(c *cluster) {
		c.agentsDo(func(inst *fleetv1.Instance, next *fleetv1.InstanceObserved) *fleetv1.InstanceObserved {
			if next.GetReady() {
				return &fleetv1.InstanceObserved{State: fleetv1.InstancePulling, Attempt: 1}
			}
			return next
		})
		c.deploy(1, func(s *fleetv1.Service) { s.Spec.Versions[0].TimeoutMinutes = 3 })
	}
	run(t, 1, func(c *cluster) {
		pulling(c)
		c.after(3*time.Minute - time.Second)
		c.expect(fleetv1.ServiceDeploying, 1)
		c.after(2 * time.Second)
		c.expect(fleetv1.ServiceAbnormal, 1)
		c.told("DeploymentStarted", "DeploymentTimedOut", "ServiceAbnormal")
		c.quiet()
	})
	run(t, 1, func(c *cluster) {
		pulling(c)
		for range 60 {
			c.after(10 * time.Second)
			c.sessions.pull(c.instances()[0].GetMeta().GetId())
		}
		c.after(2 * time.Minute)
		c.expect(fleetv1.ServiceDeploying, 1)
		c.after(5 * time.Minute)
		c.expect(fleetv1.ServiceAbnormal, 1)
	})
}

func TestAutoStop(t *testing.T) {
	run(t, 1, func(c *cluster) {
		c.deploy(1, func(s *fleetv1.Service) { s.Spec.AutoStopHours = 2 })
		at := c.service().GetStatus().GetAutoStopTime().AsTime()
		if want := time.Now().Add(2 * time.Hour); !at.Equal(want) {
			t.Errorf("auto stop at %v, want %v", at, want)
		}
		c.after(2*time.Hour - time.Second)
		c.expect(fleetv1.ServiceRunning, 1)
		c.after(time.Second)
		c.expect(fleetv1.ServiceStopped, 0)
		c.told("AutoStopOn", "AutoStopExpired", "Stopping", "Stopped")
		c.after(time.Hour)
		c.change(func(s *fleetv1.Service) {
			s.Desired.State, s.Desired.StartTime = fleetv1.DesiredRunning, timestamppb.Now()
		})
		c.after(time.Hour)
		c.expect(fleetv1.ServiceRunning, 1)
		c.change(func(s *fleetv1.Service) { s.Spec.AutoStopHours = 0 })
		c.after(3 * time.Hour)
		c.expect(fleetv1.ServiceRunning, 1)
		c.told("AutoStopExpired", "AutoStopOn", "AutoStopOff")
	})
}

func TestFullClusterWaitsThenPlaces(t *testing.T) {
	run(t, 1, func(c *cluster) {
		c.deploy(3, func(s *fleetv1.Service) { s.Spec.Versions[0].Flavor = "gpu" })
		c.expect(fleetv1.ServiceDeploying, 2)
		want := `0 of 1 node of pool "p" fit: 1 lacks free devices (need 1 × fake, most free 0 on n1)`
		if got := c.service().GetStatus().GetVersions()[0].GetWaitingReason(); got != want {
			t.Errorf("waiting reason %q, want %q", got, want)
		}
		c.mu.Lock()
		for _, e := range c.events {
			if e.GetReason() == "WaitingForResources" && !strings.Contains(e.GetMessage(), want+"; it ") {
				t.Errorf("event %q", e.GetMessage())
			}
		}
		c.mu.Unlock()
		c.after(24 * time.Hour) // waiting is not the deployment's time
		c.expect(fleetv1.ServiceDeploying, 2)
		if n := c.count("WaitingForResources"); n != 1 {
			t.Errorf("told %d times", n)
		}
		c.addNode("n2")
		c.settled()
		c.expect(fleetv1.ServiceRunning, 3)
		if got := c.service().GetStatus().GetVersions()[0].GetWaitingReason(); got != "" {
			t.Errorf("waiting reason %q", got)
		}
	})
}

func TestLocalStopIsReplaced(t *testing.T) {
	run(t, 1, func(c *cluster) {
		c.deploy(1)
		first := c.instances()[0]
		c.report(first, &fleetv1.InstanceObserved{State: fleetv1.InstanceReaped, Attempt: 1})
		c.settled()
		c.expect(fleetv1.ServiceRunning, 1)
		if c.instances()[0].GetMeta().GetId() == first.GetMeta().GetId() {
			t.Error("a reaped instance was kept")
		}
	})
}

func TestFailingProposalsAreTriedAgain(t *testing.T) {
	run(t, 2, func(c *cluster) {
		left := 5
		c.refuse = func(*fleetv1.Command) error {
			if left--; left >= 0 {
				return errors.New("outcome unknown")
			}
			return nil
		}
		c.deploy(2)
		c.after(10 * time.Second)
		c.expect(fleetv1.ServiceRunning, 2)
	})
}
