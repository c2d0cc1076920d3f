package session

import (
	"context"
	"slices"
	"testing"
	"testing/synctest"

	"google.golang.org/protobuf/proto"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
	"github.com/drover-fleet/drover/scheduler/state"
)

// An agent's facts never touch what the API has written of its node, whether devices come or go.
func TestFactsKeepTheSpec(t *testing.T) {
	run(t, func(w *world) {
		f := facts()
		f.Devices = []*fleetv1.Device{{Id: "d0", Health: fleetv1.Healthy}}
		p := w.agent("n1", f)
		n := proto.CloneOf(w.store.View().Node("n1"))
		n.Spec = &fleetv1.NodeSpec{Cordoned: true, CordonReason: "r", DeviceCordons: []*fleetv1.DeviceCordon{{DeviceId: "d0", Reason: "fan", Caller: "root"}}}
		w.write(state.Put(n.GetMeta().GetRevision(), n))
		want := n.GetSpec()
		check := func(what string, devices int) {
			t.Helper()
			synctest.Wait()
			if n := w.store.View().Node("n1"); !proto.Equal(n.GetSpec(), want) || len(n.GetFacts().GetDevices()) != devices {
				t.Errorf("%s: %v", what, n)
			}
		}
		p.in <- &fleetv1.SessionRequest{Message: &fleetv1.SessionRequest_Facts{Facts: facts()}}
		check("the device has gone", 0)
		p.in <- &fleetv1.SessionRequest{Message: &fleetv1.SessionRequest_Facts{Facts: f}}
		check("it is back", 1)
		away := proto.CloneOf(w.store.View().Node("n1"))
		away.Status.State = fleetv1.NodeUnreachable
		w.write(state.Put(away.GetMeta().GetRevision(), away))
		rebooted := facts()
		rebooted.BootId = "b2"
		w.agent("n1", rebooted)
		check("the host was rebooted", 0)
	})
}

// What a node says of its devices is stored before what it says next: an instance is not reaped while a device
// that is quarantined counts as free.
func TestFactsComeBeforeLaterReports(t *testing.T) {
	run(t, func(w *world) {
		f := facts()
		f.Devices = []*fleetv1.Device{{Id: "d0", Health: fleetv1.Healthy}}
		p := w.agent("n1", f)
		w.write(state.Put(0, &fleetv1.Instance{Meta: &fleetv1.Meta{Id: "i1", Name: "i1"}, Spec: &fleetv1.InstanceSpec{Node: "n1", ServiceId: "s", DeviceIds: []string{"d0"}}}))
		p.got()
		w.mu.Lock()
		gate := make(chan struct{})
		w.gate = gate
		w.mu.Unlock()
		bad := proto.CloneOf(f)
		bad.Devices[0].Quarantined = true
		p.in <- &fleetv1.SessionRequest{Message: &fleetv1.SessionRequest_Facts{Facts: bad}}
		go func() {
			p.in <- &fleetv1.SessionRequest{Message: &fleetv1.SessionRequest_Report{Report: &fleetv1.StatusReport{Id: 1,
				Instances: []*fleetv1.InstanceReport{{InstanceId: "i1", Observed: &fleetv1.InstanceObserved{State: fleetv1.InstanceReaped, Attempt: 1, Sequence: 1}}}}}}
		}()
		synctest.Wait()
		if w.store.View().DeviceHolder("n1", "d0") == nil {
			t.Fatal("reaped before the facts were stored")
		}
		feed := w.store.Subscribe()
		defer feed.Close()
		if _, _, err := feed.Next(context.Background()); err != nil {
			t.Fatal(err)
		}
		close(gate)
		synctest.Wait()
		sets, _, err := feed.Next(context.Background())
		if err != nil {
			t.Fatal(err)
		}
		quarantined, reaped := -1, -1
		for i, set := range sets {
			for _, c := range set.Changes {
				if slices.ContainsFunc(c.After.GetNode().GetFacts().GetDevices(), (*fleetv1.Device).GetQuarantined) && quarantined < 0 {
					quarantined = i
				}
				if c.After.GetInstance().GetObserved().GetState() == fleetv1.InstanceReaped {
					reaped = i
				}
			}
		}
		if quarantined < 0 || reaped <= quarantined {
			t.Errorf("quarantined in change %d, reaped in %d", quarantined, reaped)
		}
	})
}
