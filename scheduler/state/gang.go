package state

import (
	"fmt"
	"slices"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
)

// checkGangs finds what keeps the instances of a part from being whole gangs: members that are missing, or
// that belong to a gang which exists already.
func (a *applying) checkGangs(instances []*fleetv1.Instance, s *fleetv1.Service) (RejectReason, string) {
	gangs := map[string][]*fleetv1.Instance{}
	for _, i := range instances {
		gang := i.GetSpec().GetGang()
		if size := gangSize(s, i.GetSpec()); gang.GetSize() != size {
			return RejectInvalid, fmt.Sprintf("instance %s is one of %d, but instances of %s %s span %d nodes",
				i.GetMeta().GetName(), max(gang.GetSize(), 1), i.GetSpec().GetModel(), i.GetSpec().GetModelVersion(), max(size, 1))
		}
		if gang != nil {
			gangs[gang.GetId()] = append(gangs[gang.GetId()], i)
		}
	}
	for _, i := range instances {
		gang := i.GetSpec().GetGang()
		members := gangs[gang.GetId()]
		if gang == nil || members[0] != i {
			continue // looked at with its first member
		}
		if broken := gangBroken(gang, members); broken != "" {
			return RejectInvalid, fmt.Sprintf("gang %q of service %s %s", gang.GetId(), s.GetMeta().GetName(), broken)
		}
		if len(get(a.t.gangs, gang.GetId())) > 0 {
			return RejectExists, fmt.Sprintf("gang %s exists already", gang.GetId())
		}
	}
	return "", ""
}

// gangSize is the size that the gang of an instance must have; 0 for none.
func gangSize(s *fleetv1.Service, i *fleetv1.InstanceSpec) int32 {
	for _, v := range s.GetSpec().GetVersions() {
		if v.GetModel() == i.GetModel() && v.GetModelVersion() == i.GetModelVersion() && v.GetNodes() > 1 {
			return v.GetNodes()
		}
	}
	return 0
}

// gangBroken says what is wrong with the members of one gang, or "".
func gangBroken(gang *fleetv1.Gang, members []*fleetv1.Instance) string {
	if gang.GetId() == "" || len(members) != int(gang.GetSize()) {
		return fmt.Sprintf("has %d members, not %d", len(members), gang.GetSize())
	}
	ranks, nodes := make([]bool, len(members)), make([]string, 0, len(members))
	for _, m := range members {
		rank := m.GetSpec().GetGang().GetRank()
		if rank < 0 || int(rank) >= len(ranks) || ranks[rank] {
			return fmt.Sprintf("has no member, or two, of a rank beside %d", rank)
		}
		ranks[rank] = true
		if slices.Contains(nodes, m.GetSpec().GetNode()) {
			return fmt.Sprintf("has two members on node %s", m.GetSpec().GetNode())
		}
		nodes = append(nodes, m.GetSpec().GetNode())
	}
	return ""
}

// checkPreemptions finds what forbids stopping the victims to make room for the service: they must be as
// the planner saw them, preemptible, of less priority than one of the service's versions, and whole gangs.
func (a *applying) checkPreemptions(victims []*fleetv1.Preemption, s *fleetv1.Service) (RejectReason, string) {
	if len(victims) == 0 {
		return "", ""
	}
	var priority int32
	for _, v := range s.GetSpec().GetVersions() {
		priority = max(priority, v.GetPriority())
	}
	seen := map[string]bool{}
	for _, p := range victims {
		seen[p.GetInstanceId()] = true
	}
	if len(seen) < len(victims) {
		return RejectInvalid, "an instance is preempted twice in one part"
	}
	for _, p := range victims {
		i := get(a.t.instances, p.GetInstanceId()).GetInstance()
		name := i.GetMeta().GetName()
		switch {
		case i == nil:
			return RejectNotFound, fmt.Sprintf("instance %s, which was to be preempted, does not exist", p.GetInstanceId())
		case i.GetMeta().GetRevision() != p.GetRevision():
			return RejectRevision, fmt.Sprintf("instance %s, which was to be preempted, is at revision %d, not %d", name, i.GetMeta().GetRevision(), p.GetRevision())
		case !i.GetSpec().GetPreemptible():
			return RejectUnfit, fmt.Sprintf("instance %s is not preemptible", name)
		case i.GetSpec().GetPriority() >= priority:
			return RejectUnfit, fmt.Sprintf("instance %s has priority %d, which is not less than %d", name, i.GetSpec().GetPriority(), priority)
		case i.GetDesired().GetState() == fleetv1.DesiredStopped:
			return RejectUnfit, fmt.Sprintf("instance %s is to stop already", name)
		}
		gang := i.GetSpec().GetGang()
		if gang == nil {
			continue
		}
		for _, m := range a.InstancesOfGang(gang.GetId()) {
			if !seen[m.GetMeta().GetId()] && m.GetDesired().GetState() != fleetv1.DesiredStopped {
				return RejectInvalid, fmt.Sprintf("instance %s can't be preempted without %s: they are one gang", name, m.GetMeta().GetName())
			}
		}
	}
	return "", ""
}

// preempt asks a victim that has passed all checks to stop.
func (a *applying) preempt(p *fleetv1.Preemption) {
	i := get(a.t.instances, p.GetInstanceId()).GetInstance()
	desired := &fleetv1.InstanceDesired{}
	if i.GetDesired() != nil {
		desired = shallow(i.GetDesired())
	}
	desired.State, desired.Reason = fleetv1.DesiredStopped, p.GetReason()
	a.put(ObjectOf(&fleetv1.Instance{Meta: copyMeta(i.GetMeta()), Spec: i.GetSpec(), Desired: desired, Observed: i.GetObserved()}))
}
