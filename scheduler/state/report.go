package state

import (
	"google.golang.org/protobuf/types/known/timestamppb"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
)

// report merges what an agent saw. What is old, of instances that are gone, or of another node's, is
// dropped: agents send a report again until they know it was committed.
func (a *applying) report(r *fleetv1.Report) {
	for _, ir := range r.GetInstances() {
		stored := get(a.t.instances, ir.GetInstanceId()).GetInstance()
		if stored == nil || stored.GetSpec().GetNode() != r.GetNode() {
			continue
		}
		for _, e := range ir.GetEvents() {
			if e.GetSequence() > stored.GetObserved().GetSequence() {
				a.reported(e, InstanceRefs(stored, get(a.t.nodes, stored.GetSpec().GetNode()).GetNode()))
			}
		}
		if newer(stored.GetObserved(), ir.GetObserved()) {
			a.put(ObjectOf(&fleetv1.Instance{
				Meta: copyMeta(stored.GetMeta()), Spec: stored.GetSpec(), Desired: stored.GetDesired(), Observed: ir.GetObserved(),
			}))
		}
	}
	if len(r.GetNodeEvents()) == 0 {
		return
	}
	n := get(a.t.nodes, r.GetNode()).GetNode()
	for _, e := range r.GetNodeEvents() {
		a.reported(e, []*fleetv1.ObjectRef{NodeRef(r.GetNode(), n)})
	}
}

// newer says that an observation replaces the stored one. An attempt never goes back, and what is
// reaped stays so: its devices may have another holder.
func newer(stored, seen *fleetv1.InstanceObserved) bool {
	return seen.GetSequence() > stored.GetSequence() &&
		seen.GetAttempt() >= stored.GetAttempt() &&
		(stored.GetState() != fleetv1.InstanceReaped || seen.GetState() == fleetv1.InstanceReaped)
}

func (a *applying) reported(e *fleetv1.ReportedEvent, refs []*fleetv1.ObjectRef) {
	event := &fleetv1.Event{Type: e.GetType(), Reason: e.GetReason(), Message: e.GetMessage(), Objects: refs}
	if ns := e.GetTimeUnixNano(); ns != 0 {
		event.Time = &timestamppb.Timestamp{Seconds: ns / 1e9, Nanos: int32(ns % 1e9)}
		if event.Time.Nanos < 0 {
			event.Time.Seconds, event.Time.Nanos = event.Time.Seconds-1, event.Time.Nanos+1e9
		}
	}
	a.event(event)
}

// InstanceRefs refer to an instance, its service and its node, which is nil when it is gone.
func InstanceRefs(i *fleetv1.Instance, n *fleetv1.Node) []*fleetv1.ObjectRef {
	project := i.GetMeta().GetProject()
	return []*fleetv1.ObjectRef{
		{Kind: fleetv1.KindInstance, Id: i.GetMeta().GetId(), Name: i.GetMeta().GetName(), Project: project},
		{Kind: fleetv1.KindService, Id: i.GetSpec().GetServiceId(), Name: i.GetSpec().GetServiceName(), Project: project},
		NodeRef(i.GetSpec().GetNode(), n),
	}
}

// NodeRef refers to a node from an event; n is nil when the node is gone.
func NodeRef(name string, n *fleetv1.Node) *fleetv1.ObjectRef {
	return &fleetv1.ObjectRef{Kind: fleetv1.KindNode, Id: n.GetMeta().GetId(), Name: name}
}
