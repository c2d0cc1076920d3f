package state

import (
	"fmt"

	"google.golang.org/protobuf/proto"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
)

// plan applies each part or refuses it whole. Parts see what the parts before them took.
func (a *applying) plan(p *fleetv1.Plan) []Rejection {
	var rejections []Rejection
	for i, part := range p.GetParts() {
		if reason, detail := a.checkPart(part); reason != "" {
			rejections = append(rejections, Rejection{Part: i, Reason: reason, Detail: detail})
			continue
		}
		for _, instance := range part.GetInstances() {
			instance = proto.CloneOf(instance)
			instance.Spec.Epoch = a.index
			a.put(ObjectOf(instance))
		}
		for _, e := range part.GetEvents() {
			a.event(e)
		}
	}
	return rejections
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
	taken := partShare{nodes: map[string]Allocation{}, devices: map[string]string{}, ids: map[string]bool{}}
	for _, i := range part.GetInstances() {
		if reason, detail := a.checkPlaced(i, s, taken); reason != "" {
			return reason, detail
		}
	}
	return "", ""
}

// partShare is what the instances of one part take together.
type partShare struct {
	nodes   map[string]Allocation
	devices map[string]string // instance by node and device
	ids     map[string]bool
}

func (a *applying) checkPlaced(i *fleetv1.Instance, s *fleetv1.Service, taken partShare) (RejectReason, string) {
	id, node := i.GetMeta().GetId(), i.GetSpec().GetNode()
	n := a.object(fleetv1.KindNode, indexID, node).GetNode()
	switch {
	case id == "" || i.GetSpec().GetServiceId() != s.GetMeta().GetId():
		return RejectInvalid, fmt.Sprintf("instance %q without an ID, or of another service than its part", id)
	case taken.ids[id] || a.object(fleetv1.KindInstance, indexID, id) != nil:
		return RejectExists, fmt.Sprintf("instance %s exists already", id)
	case n == nil:
		return RejectNotFound, fmt.Sprintf("node %s does not exist", node)
	case n.GetStatus().GetState() != fleetv1.NodeReady:
		return RejectUnfit, fmt.Sprintf("node %s is %s", node, n.GetStatus().GetState())
	case n.GetSpec().GetCordoned():
		return RejectUnfit, fmt.Sprintf("node %s is cordoned", node)
	}
	taken.ids[id] = true
	if _, ok := taken.nodes[node]; !ok {
		taken.nodes[node] = a.Allocated(node)
	}
	taken.nodes[node] = taken.nodes[node].plus(shareOf(i.GetSpec()), 1)
	if over := taken.nodes[node].exceeds(n); over != "" {
		return RejectCapacity, over
	}
	for _, d := range i.GetSpec().GetDeviceIds() {
		if reason, detail := deviceFit(n, d); reason != "" {
			return reason, detail
		}
		if _, ok := taken.devices[heldKey(node, d)]; ok {
			return RejectInUse, fmt.Sprintf("device %s of node %s is given out twice in one part", d, node)
		}
		taken.devices[heldKey(node, d)] = id
	}
	return a.devicesFree(i)
}

func deviceFit(n *fleetv1.Node, id string) (RejectReason, string) {
	for _, d := range n.GetFacts().GetDevices() {
		if d.GetId() != id {
			continue
		}
		if word, detail := Barred(n, d); word != "" {
			what := fmt.Sprintf("device %s of node %s is %s", id, n.GetMeta().GetName(), word)
			if detail != "" {
				what += ": " + detail
			}
			return RejectUnfit, what
		}
		return "", ""
	}
	return RejectNotFound, fmt.Sprintf("node %s has no device %s", n.GetMeta().GetName(), id)
}
