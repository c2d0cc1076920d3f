package state

import (
	"fmt"
	"slices"
	"strings"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
)

// plan applies each part or refuses it whole. Parts see what the parts before them took.
func (a *applying) plan(p *fleetv1.Plan) []Rejection {
	var rejections []Rejection
	var completed []*fleetv1.Instance
	placed := 0
	for _, part := range p.GetParts() {
		placed += len(part.GetInstances())
	}
	a.expect(2*placed, len(p.GetParts())) // each changes its node as well
	for i, part := range p.GetParts() {
		reason, detail := a.checkPart(part)
		if reason == "" {
			completed = completed[:0]
			for _, planned := range part.GetInstances() {
				completed = append(completed, a.completed(planned))
			}
			reason, detail = a.checkQuota(completed)
		}
		if reason != "" {
			rejections = append(rejections, Rejection{Part: i, Reason: reason, Detail: detail})
			continue
		}
		for _, p := range part.GetPreemptions() {
			a.preempt(p)
		}
		for _, i := range completed {
			a.alike.instance(i, nil)
			a.put(ObjectOf(i))
		}
		for _, e := range part.GetEvents() {
			a.event(e)
		}
	}
	return rejections
}

// completed is an instance that its node takes, with what the store alone knows: its epoch, and the models of
// its devices.
func (a *applying) completed(planned *fleetv1.Instance) *fleetv1.Instance {
	i := &fleetv1.Instance{
		Meta: copyMeta(planned.GetMeta()), Spec: copySpec(planned.GetSpec()), Desired: planned.GetDesired(), Observed: planned.GetObserved(),
	}
	i.Spec.Epoch = a.index
	n := get(a.t.nodes, i.Spec.GetNode()).GetNode()
	i.Spec.Node = n.GetMeta().GetName() // the same word, kept once
	if ids := planned.GetSpec().GetDeviceIds(); len(ids) > 0 {
		i.Spec.DeviceIds, i.Spec.DeviceModels = make([]string, len(ids)), make([]string, len(ids))
		for at, id := range ids {
			d := DeviceOf(n, id)
			i.Spec.DeviceIds[at], i.Spec.DeviceModels[at] = d.GetId(), d.GetModel()
		}
	}
	return i
}

func (a *applying) checkPart(part *fleetv1.PlanPart) (RejectReason, string) {
	s := a.ServiceByID(part.GetServiceId())
	switch {
	case s == nil:
		return RejectNotFound, fmt.Sprintf("service %s does not exist", part.GetServiceId())
	case s.GetMeta().GetGeneration() != part.GetServiceGeneration():
		return RejectRevision, fmt.Sprintf("service %s is at generation %d, not %d",
			s.GetMeta().GetName(), s.GetMeta().GetGeneration(), part.GetServiceGeneration())
	case s.GetDesired().GetState() != fleetv1.DesiredRunning:
		return RejectRevision, fmt.Sprintf("service %s is to be %q, not running",
			s.GetMeta().GetName(), s.GetDesired().GetState())
	}
	if reason, detail := a.checkPreemptions(part.GetPreemptions(), s); reason != "" {
		return reason, detail
	}
	var taken partShare
	for _, i := range part.GetInstances() {
		if reason, detail := a.checkPlaced(i, s, &taken); reason != "" {
			return reason, detail
		}
	}
	return a.checkGangs(part.GetInstances(), s)
}

// partShare is what the instances of one part take together, each node's share on top of what was
// allocated there before.
type partShare struct {
	ids     []string
	nodes   []nodeShare
	devices []nodeDevice
}

type nodeShare struct {
	node string
	Allocation
}

type nodeDevice struct{ node, device string }

// on adds an instance's share to its node's, and answers the sum.
func (p *partShare) on(node string, allocated Allocation, s *fleetv1.InstanceSpec) Allocation {
	at := slices.IndexFunc(p.nodes, func(n nodeShare) bool { return n.node == node })
	if at < 0 {
		at, p.nodes = len(p.nodes), append(p.nodes, nodeShare{node, allocated})
	}
	p.nodes[at].Allocation = p.nodes[at].plus(shareOf(s), 1)
	return p.nodes[at].Allocation
}

func (a *applying) checkPlaced(i *fleetv1.Instance, s *fleetv1.Service, taken *partShare) (RejectReason, string) {
	id, node := i.GetMeta().GetId(), i.GetSpec().GetNode()
	n := get(a.t.nodes, node).GetNode()
	switch {
	case id == "" || i.GetSpec().GetServiceId() != s.GetMeta().GetId() || i.GetMeta().GetProject() != s.GetMeta().GetProject():
		return RejectInvalid, fmt.Sprintf("instance %q without an ID, or of another service or project than its part", id)
	case slices.Contains(taken.ids, id) || get(a.t.instances, id) != nil:
		return RejectExists, fmt.Sprintf("instance %s exists already", id)
	case n == nil:
		return RejectNotFound, fmt.Sprintf("node %s does not exist", node)
	case n.GetStatus().GetState() != fleetv1.NodeReady:
		return RejectUnfit, fmt.Sprintf("node %s is %s", node, n.GetStatus().GetState())
	case n.GetSpec().GetDrain() != nil:
		return RejectUnfit, fmt.Sprintf("node %s is being drained", node)
	case n.GetSpec().GetCordoned():
		return RejectUnfit, fmt.Sprintf("node %s is cordoned", node)
	case KeepsStrangers(n):
		return RejectUnfit, fmt.Sprintf("node %s runs what isn't known since a restore", node)
	}
	taken.ids = append(taken.ids, id)
	if over := taken.on(node, a.Allocated(node), i.GetSpec()).exceeds(n); over != "" {
		return RejectCapacity, over
	}
	for _, id := range i.GetSpec().GetDeviceIds() {
		d := DeviceOf(n, id)
		if d == nil {
			return RejectNotFound, fmt.Sprintf("node %s has no device %s", node, id)
		}
		if word, detail := Barred(n, d); word != "" {
			return RejectUnfit, strings.TrimSuffix(fmt.Sprintf("device %s of node %s is %s: %s", id, node, word, detail), ": ")
		}
		if slices.Contains(taken.devices, nodeDevice{node, id}) {
			return RejectInUse, fmt.Sprintf("device %s of node %s is given out twice in one part", id, node)
		}
		taken.devices = append(taken.devices, nodeDevice{node, id})
	}
	return a.devicesFree(i)
}

// DeviceOf is nil when the node does not list the device.
func DeviceOf(n *fleetv1.Node, id string) *fleetv1.Device {
	for _, d := range n.GetFacts().GetDevices() {
		if d.GetId() == id {
			return d
		}
	}
	return nil
}
