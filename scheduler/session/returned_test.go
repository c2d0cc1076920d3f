package session

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
	"github.com/drover-fleet/drover/scheduler/state"
)

func reportReady(p *agentEnd, id, sequence uint64) {
	p.in <- &fleetv1.SessionRequest{Message: &fleetv1.SessionRequest_Report{Report: &fleetv1.StatusReport{Id: id,
		Instances: []*fleetv1.InstanceReport{{InstanceId: "i", Observed: &fleetv1.InstanceObserved{State: "Running", Attempt: 1, Sequence: sequence, Ready: true}}}}}}
}

func (w *world) ready() bool {
	synctest.Wait()
	return w.store.View().Instance("i").GetObserved().GetReady()
}

// unreachable does what the liveness loop does when the lease has run out.
func (w *world) unreachable() {
	n := proto.CloneOf(w.store.View().Node("n"))
	n.Status.State = fleetv1.NodeUnreachable
	w.write(state.Put(n.GetMeta().GetRevision(), n))
}

// A node's endpoints come back with what it reports, not with the node.
func TestReturningBringsNoEndpointBack(t *testing.T) {
	for name, back := range map[string]func(*world) (boot string){
		"reboot":                func(*world) string { return "b2" },
		"cut off":               func(w *world) string { w.unreachable(); return "b1" },
		"cut off, and rebooted": func(w *world) string { w.unreachable(); return "b2" },
	} {
		run(t, func(w *world) {
			p := w.agent("n", facts())
			w.place("i", "n")
			reportReady(p, 1, 1)
			if !w.ready() {
				t.Fatalf("%s: the report isn't stored", name)
			}
			generation := w.store.View().Node("n").GetStatus().GetAssignmentGeneration()
			p.cancel()
			f := facts()
			f.BootId = back(w)
			p = w.agent("n", f)
			if w.ready() {
				t.Errorf("%s: ready though it hasn't been reported since", name)
			}
			if now := w.store.View().Node("n").GetStatus().GetAssignmentGeneration(); now != generation {
				t.Errorf("%s: the node's assignments changed", name)
			}
			reportReady(p, 1, 2)
			if !w.ready() {
				t.Errorf("%s: the new report doesn't count", name)
			}
			before := w.proposals
			p.cancel()
			w.agent("n", f)
			if !w.ready() || w.proposals != before {
				t.Errorf("%s: a mere reconnect costs %d entries", name, w.proposals-before)
			}
		})
	}
}

// A report that waits for its entry while its node is lost, and returns, is not proposed behind that.
func TestALateReportBringsNoEndpointBack(t *testing.T) {
	run(t, func(w *world) {
		p := w.agent("n", facts())
		w.place("i", "n")
		for range reportsUnderway {
			w.hub.gather.slots <- struct{}{}
		}
		reportReady(p, 1, 7)
		synctest.Wait()
		time.Sleep(11 * time.Second) // the lease runs out
		if p.code() != codes.Unavailable {
			t.Error("the session goes on")
		}
		w.unreachable()
		w.agent("n", facts())
		for range reportsUnderway {
			<-w.hub.gather.slots
		}
		if w.ready() {
			t.Error("a report from before the node was lost made the instance ready")
		}
	})
}

// A set of a newer restore is held by the node: this scheduler is of a cluster that was restored before it.
func TestOlderRestoreIsRefused(t *testing.T) {
	run(t, func(w *world) {
		p := open(w.hub.Session)
		p.in <- &fleetv1.SessionRequest{Message: &fleetv1.SessionRequest_Hello{Hello: &fleetv1.Hello{NodeName: "n", Facts: facts(), ClusterId: "c1", RestoreEpoch: 3}}}
		if c := p.code(); c != codes.FailedPrecondition || w.store.View().Node("n") != nil {
			t.Errorf("answered with %v; the node is %v", c, w.store.View().Node("n"))
		}
	})
}

// A confirmation reaches the node although nothing else of its set has changed.
func TestConfirmedRemovalsAreTold(t *testing.T) {
	run(t, func(w *world) {
		p := w.agent("n", facts())
		p.got()
		n := proto.CloneOf(w.store.View().Node("n"))
		n.Spec.RemovalsConfirmed = 9
		w.write(state.Put(n.GetMeta().GetRevision(), n))
		if got := p.got(); len(got) != 1 || got[0].GetAssignments().GetRemovalsConfirmed() != 9 {
			t.Errorf("sent %v", got)
		}
		if err := w.hub.commitReport(context.Background(), &fleetv1.Report{Node: "n", NodeEvents: []*fleetv1.ReportedEvent{{Reason: "X"}}}); err != nil {
			t.Error(err)
		}
	})
}
