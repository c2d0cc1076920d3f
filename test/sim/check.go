package sim

import (
	"maps"
	"slices"
	"time"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
	"github.com/drover-fleet/drover/scheduler/state"
)

// placed checks what one entry placed. partly says that parts of it were refused.
func (l *ledger) placed(all []*fleetv1.Instance, partly bool) {
	view := l.w.store.View()
	nodes, projects, gangs, services := map[string]bool{}, map[string]bool{}, map[string]*unit{}, map[string]bool{}
	for _, i := range all {
		n := view.Node(i.GetSpec().GetNode())
		if bad := unfit(n, i); bad != "" {
			l.w.fault("instance %s of %s was placed on %s", i.GetMeta().GetName(), i.GetSpec().GetNode(), bad)
		}
		l.taken(i)
		if len(i.GetSpec().GetDeviceModels()) != len(i.GetSpec().GetDeviceIds()) {
			l.w.fault("instance %s has %d devices of %d models", i.GetMeta().GetName(), len(i.GetSpec().GetDeviceIds()), len(i.GetSpec().GetDeviceModels()))
		}
		nodes[i.GetSpec().GetNode()], projects[i.GetMeta().GetProject()], services[i.GetSpec().GetServiceId()] = true, true, true
		if i.GetSpec().GetGang() != nil {
			u := l.account(i.GetSpec().GetServiceId()).units[i.GetSpec().GetGang().GetId()]
			gangs[u.id] = u
		}
	}
	for _, name := range slices.Sorted(maps.Keys(nodes)) {
		limit, n := state.Allocatable(view.Node(name)), l.nodes[name]
		if n.cpu > limit.CPUMillis || n.memory > limit.MemoryBytes {
			l.w.fault("node %s gives %d millicores and %d bytes, and has %d and %d", name, n.cpu, n.memory, limit.CPUMillis, limit.MemoryBytes)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(projects)) {
		l.withinQuota(view.Quota(name), name, all)
	}
	for _, id := range slices.Sorted(maps.Keys(gangs)) {
		l.gangPlaced(gangs[id])
	}
	for _, id := range slices.Sorted(maps.Keys(services)) {
		l.rulesKept(view, l.account(id), all, partly)
	}
}

// taken counts room that was made by preemption and has come to one of no more priority.
func (l *ledger) taken(i *fleetv1.Instance) {
	const lately = 10 * time.Minute
	c, ok := l.cleared[i.GetSpec().GetNode()]
	if ok && c.by.id != i.GetSpec().GetServiceId() && len(c.by.since) > 0 && i.GetSpec().GetPriority() <= c.priority && l.w.now.Sub(c.at) < lately {
		l.w.meter.r.InVain++
	}
}

// unfit says why the node takes nothing new of this kind, or is empty.
func unfit(n *fleetv1.Node, i *fleetv1.Instance) string {
	switch {
	case n == nil:
		return "a node that doesn't exist"
	case n.GetStatus().GetState() != fleetv1.NodeReady:
		return "a node that is " + n.GetStatus().GetState()
	case n.GetSpec().GetCordoned():
		return "a cordoned node"
	case n.GetSpec().GetDrain() != nil:
		return "a node that is drained"
	}
	for _, id := range i.GetSpec().GetDeviceIds() {
		at := slices.IndexFunc(n.GetFacts().GetDevices(), func(d *fleetv1.Device) bool { return d.GetId() == id })
		if at < 0 {
			return "device " + id + ", which isn't there"
		}
		if !usable(n, n.GetFacts().GetDevices()[at]) {
			return "device " + id + ", which takes nothing new"
		}
	}
	return ""
}

// usable says whether a device takes something new.
func usable(n *fleetv1.Node, d *fleetv1.Device) bool {
	for _, c := range n.GetSpec().GetDeviceCordons() {
		if c.GetDeviceId() == d.GetId() || c.GetDeviceId() == d.GetParentId() {
			return false
		}
	}
	return d.GetHealth() == fleetv1.Healthy && !d.GetQuarantined() && (d.GetAction() == "" || d.GetAction() == "observe")
}

func (l *ledger) withinQuota(q *fleetv1.Quota, project string, placed []*fleetv1.Instance) {
	if q == nil {
		return
	}
	used, more := l.projects[project], state.Usage{Devices: map[string]int64{}}
	for _, i := range placed {
		if i.GetMeta().GetProject() == project {
			more.Instances++
			for _, m := range i.GetSpec().GetDeviceModels() {
				more.Devices[m]++
			}
		}
	}
	spec := q.GetSpec()
	if spec.Instances != nil && more.Instances > 0 && used.Instances > spec.GetInstances() {
		l.w.fault("project %s was given %d instances more and has %d; its quota is %d", project, more.Instances, used.Instances, spec.GetInstances())
	}
	if spec.CpuMillis != nil && used.CPUMillis > spec.GetCpuMillis() || spec.MemoryBytes != nil && used.MemoryBytes > spec.GetMemoryBytes() {
		l.w.fault("project %s was given more and has %d millicores and %d bytes; its quota is %d and %d", project, used.CPUMillis, used.MemoryBytes,
			spec.GetCpuMillis(), spec.GetMemoryBytes())
	}
	for _, d := range spec.GetDevices() {
		if more.Matching(d.GetModel()) > 0 && used.Matching(d.GetModel()) > d.GetCount() {
			l.w.fault("project %s was given %d devices %s more and has %d; its quota is %d", project, more.Matching(d.GetModel()), d.GetModel(),
				used.Matching(d.GetModel()), d.GetCount())
		}
	}
}

// gangPlaced checks that one entry placed all of a gang, on nodes of its own.
func (l *ledger) gangPlaced(u *unit) {
	nodes := map[string]bool{}
	for _, i := range u.members {
		nodes[i.GetSpec().GetNode()] = true
		g := i.GetSpec().GetGang()
		if int(g.GetSize()) != u.size || int(g.GetRank()) >= u.size || g.GetRank() < 0 || len(g.GetAddresses()) != u.size {
			l.w.fault("gang %s of size %d has a member of rank %d of %d with %d addresses", u.id, u.size, g.GetRank(), g.GetSize(), len(g.GetAddresses()))
		}
	}
	if u.made != l.w.log.index || len(u.members) != u.size || len(u.ranks) != u.size || len(nodes) != u.size {
		l.w.fault("gang %s of size %d was placed in part: %d members with %d ranks on %d nodes, begun by entry %d", u.id, u.size, len(u.members),
			len(u.ranks), len(nodes), u.made)
	}
}

// rulesKept checks anti-affinity, and strict spreading (a sample of it on large fleets).
func (l *ledger) rulesKept(view state.ReadView, a *account, placed []*fleetv1.Instance, partly bool) {
	for _, v := range a.svc.GetSpec().GetVersions() {
		rules := v.GetPlacement()
		if rules.GetAntiAffinity() {
			on := map[string]bool{}
			for _, i := range l.staying(a) {
				if node := i.GetSpec().GetNode(); on[node] {
					l.w.fault("two instances of %s are on %s in spite of anti-affinity", a.svc.GetMeta().GetName(), node)
				} else {
					on[node] = true
				}
			}
		}
		for _, s := range rules.GetSpread() {
			if l.seen++; s.GetRequired() && !partly && l.seen%uint64(1+len(l.w.agents)/500) == 0 {
				l.spreadKept(view, a, v, s, placed)
			}
		}
	}
}

// staying lists the instances that a service counts on, by ID.
func (l *ledger) staying(a *account) []*fleetv1.Instance {
	var out []*fleetv1.Instance
	for _, id := range slices.Sorted(maps.Keys(a.units)) {
		u := a.units[id]
		for _, m := range slices.Sorted(maps.Keys(u.members)) {
			if i := u.members[m]; stays(i) && holds(i) {
				out = append(out, i)
			}
		}
	}
	return out
}

// spreadKept checks that what was placed now isn't further from the least used value than it may be.
func (l *ledger) spreadKept(view state.ReadView, a *account, v *fleetv1.ServiceVersion, s *fleetv1.SpreadRule, placed []*fleetv1.Instance) {
	have, least := l.spreadOver(view, a, v, s)
	for _, i := range placed {
		if i.GetSpec().GetServiceId() != a.id {
			continue
		}
		value, ok := view.Node(i.GetSpec().GetNode()).GetFacts().GetLabels()[s.GetLabel()]
		if !ok || have[value]-least > int(max(s.GetMaxSkew(), 1)) {
			l.w.fault("service %s: %d instances in %s %q and %d in the least used one, skew %d", a.svc.GetMeta().GetName(), have[value], s.GetLabel(), value, least, s.GetMaxSkew())
		}
	}
}

// spreadOver counts a version's instances by the values of a label, and answers the least of the values of
// which a node could take one if it were empty.
func (l *ledger) spreadOver(view state.ReadView, a *account, v *fleetv1.ServiceVersion, s *fleetv1.SpreadRule) (have map[string]int, least int) {
	have, least = map[string]int{}, -1
	for _, i := range l.staying(a) {
		if value, ok := view.Node(i.GetSpec().GetNode()).GetFacts().GetLabels()[s.GetLabel()]; ok {
			have[value]++
		}
	}
	need := newNeed(view, a.svc, v)
	inPlay := map[string]bool{}
	for _, agent := range l.w.agents {
		n := view.Node(agent.name)
		value, ok := n.GetFacts().GetLabels()[s.GetLabel()]
		if !ok || inPlay[value] || !need.suits(n) || !need.devicesFit(n, func(string) bool { return false }) {
			continue
		}
		inPlay[value] = true
		if least < 0 || have[value] < least {
			least = have[value]
		}
	}
	return have, max(least, 0)
}
