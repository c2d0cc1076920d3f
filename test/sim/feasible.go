package sim

import (
	"fmt"
	"path"
	"time"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
	"github.com/drover-fleet/drover/scheduler/state"
)

// need is what one node's share of an instance asks for, in the checker's own words.
type need struct {
	service     string
	version     *fleetv1.ServiceVersion
	cpu, memory int64
	accelerator *fleetv1.Accelerator
	arches      []string
}

func newNeed(view state.ReadView, svc *fleetv1.Service, v *fleetv1.ServiceVersion) need {
	f := view.Flavor(v.GetFlavor()).GetSpec()
	m := view.Model(svc.GetMeta().GetProject(), v.GetModel(), v.GetModelVersion())
	return need{svc.GetMeta().GetId(), v, f.GetCpuMillis(), f.GetMemoryBytes(), f.GetAccelerator(), m.GetStatus().GetArches()}
}

// suits says whether the node takes something new, and is one that the rules leave over.
func (d need) suits(n *fleetv1.Node) bool {
	if n.GetStatus().GetState() != fleetv1.NodeReady || n.GetSpec().GetCordoned() || n.GetFacts().GetLabels()["pool"] != pool {
		return false
	}
	for k, v := range d.version.GetPlacement().GetRequired() {
		if n.GetFacts().GetLabels()[k] != v {
			return false
		}
	}
	return true
}

// devicesFit says whether the node has the devices, not counting those that are held.
func (d need) devicesFit(n *fleetv1.Node, isHeld func(device string) bool) bool {
	count, demanded := int(d.accelerator.GetCount()), d.accelerator.GetDomain()
	if count == 0 {
		return true
	}
	in := map[string]int{}
	for _, dev := range n.GetFacts().GetDevices() {
		ok, err := path.Match(d.accelerator.GetModel(), dev.GetModel())
		if d.accelerator.GetModel() != "" && (!ok || err != nil) || dev.GetVendor() != d.accelerator.GetVendor() || !usable(n, dev) || isHeld(dev.GetId()) {
			continue
		}
		name := domainOf(dev, demanded)
		if in[name]++; in[name] >= count {
			return true
		}
	}
	return false
}

// domainOf names the domain of a device in the simulated fleets, where a link joins whole nodes, pairs or
// nothing.
func domainOf(d *fleetv1.Device, demanded string) string {
	kind := demanded
	switch demanded {
	case "", "any":
		return ""
	case "numa":
		if d.NumaNode == nil {
			return d.GetId()
		}
		return fmt.Sprint(d.GetNumaNode())
	case "pcie":
		kind = "pix"
	}
	first := d.GetId()
	for _, l := range d.GetLinks() {
		if l.GetKind() == kind && l.GetPeer() < first {
			first = l.GetPeer()
		}
	}
	return first
}

// checkWaiting finds instances that wait though there is room for them.
func (l *ledger) checkWaiting() {
	view := l.w.store.View()
	reserved := map[string]string{} // service by node
	for _, svc := range view.Services("") {
		for _, v := range svc.GetStatus().GetVersions() {
			for _, n := range v.GetReservation().GetNodes() {
				reserved[n] = svc.GetMeta().GetId()
			}
		}
	}
	left := mostLooks / len(l.w.agents)
	for _, svc := range view.Services("") {
		a := l.services[svc.GetMeta().GetId()]
		if a == nil || left == 0 {
			continue
		}
		if len(a.since) == 0 || l.held(a) {
			a.room = time.Time{}
			continue
		}
		v := svc.GetSpec().GetVersions()[0]
		left--
		nodes := l.room(view, a, v, reserved)
		if len(nodes) < max(int(v.GetNodes()), 1) || l.overQuota(view, svc, v, nodes[0]) {
			a.room = time.Time{}
		} else if !l.aboutToPlan(a) {
			reason := ""
			for _, st := range svc.GetStatus().GetVersions() {
				reason = st.GetWaitingReason()
			}
			l.w.fault("service %s waits for %d instances (%s, since %s) though %s has room, and the project holds %d devices: %q", svc.GetMeta().GetName(),
				len(a.since), v.GetFlavor(), a.since[0].Sub(l.w.start), nodes[0], l.devicesOf(svc.GetMeta().GetProject()), reason)
		}
	}
}

// aboutToPlan says that room has just come, and that the loops pause before they plan again; then everything is checked again.
func (l *ledger) aboutToPlan(a *account) bool {
	const pause, slack = time.Second, 5 * time.Second
	if next := l.w.wake.Sub(l.w.now); next <= 0 || next > pause || !a.room.IsZero() && l.w.now.Sub(a.room) >= slack {
		return false
	}
	if a.room.IsZero() {
		a.room = l.w.now
	}
	l.w.due = true
	return true
}

func (l *ledger) devicesOf(project string) int64 {
	if used := l.projects[project]; used != nil {
		return used.Matching("*")
	}
	return 0
}

// mostLooks bounds how many nodes are looked at by one check.
const mostLooks = 5_000_000

// held says that the loops hold a replacement back: after failures, and while they have just changed something.
func (l *ledger) held(a *account) bool {
	const longestHold, slack = 5 * time.Minute, 5 * time.Second
	return !a.failed.IsZero() && l.w.now.Sub(a.failed) < longestHold+slack || l.w.now.Sub(a.moved) < slack
}

// room lists nodes that could take the instance, at most as many as it needs.
func (l *ledger) room(view state.ReadView, a *account, v *fleetv1.ServiceVersion, reserved map[string]string) []string {
	d := newNeed(view, a.svc, v)
	on := map[string]bool{}
	for _, i := range l.staying(a) {
		on[i.GetSpec().GetNode()] = true
	}
	type limit struct {
		rule  *fleetv1.SpreadRule
		have  map[string]int
		least int
	}
	var limits []limit
	for _, s := range v.GetPlacement().GetSpread() {
		if s.GetRequired() {
			have, least := l.spreadOver(view, a, v, s)
			limits = append(limits, limit{s, have, least})
		}
	}
	var out []string
next:
	for _, agent := range l.w.agents {
		n, used := view.Node(agent.name), l.nodes[agent.name]
		if by := reserved[agent.name]; !d.suits(n) || by != "" && by != a.id || v.GetPlacement().GetAntiAffinity() && on[agent.name] {
			continue
		}
		for _, s := range limits {
			value, ok := n.GetFacts().GetLabels()[s.rule.GetLabel()]
			if !ok || s.have[value]+1-s.least > int(max(s.rule.GetMaxSkew(), 1)) {
				continue next
			}
		}
		free := state.Allocatable(n)
		if used.cpu+d.cpu > free.CPUMillis || used.memory+d.memory > free.MemoryBytes ||
			!d.devicesFit(n, func(device string) bool { return l.holders[held{agent.name, device}] != "" }) {
			continue
		}
		if out = append(out, agent.name); len(out) >= max(int(v.GetNodes()), 1) {
			return out
		}
	}
	return out
}

// overQuota says that the project may have no such instance more, were it on nodes like this one.
func (l *ledger) overQuota(view state.ReadView, svc *fleetv1.Service, v *fleetv1.ServiceVersion, node string) bool {
	q, used := view.Quota(svc.GetMeta().GetProject()).GetSpec(), l.projects[svc.GetMeta().GetProject()]
	if q == nil {
		return false
	}
	if used == nil { // it never held anything
		used = &state.Usage{}
	}
	members := int64(max(v.GetNodes(), 1))
	model := ""
	if d := view.Node(node).GetFacts().GetDevices(); len(d) > 0 {
		model = d[0].GetModel()
	}
	more := int64(view.Flavor(v.GetFlavor()).GetSpec().GetAccelerator().GetCount()) * members
	for _, d := range q.GetDevices() {
		if state.MatchesModel(d.GetModel(), model) && used.Matching(d.GetModel())+more > d.GetCount() && more > 0 {
			return true
		}
	}
	return q.Instances != nil && used.Instances+members > q.GetInstances()
}
