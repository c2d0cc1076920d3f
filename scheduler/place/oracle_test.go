package place

import (
	"fmt"
	"path"
	"slices"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
	"github.com/drover-fleet/drover/scheduler/state"
)

// oracle knows by brute force what may be placed: from the objects alone, without anything of the index.
type oracle struct {
	view  state.ReadView
	nodes []*fleetv1.Node
	held  map[string]bool             // "node device"
	used  map[string][3]int64         // by node
	ports map[string]bool             // "node port"
	runs  map[string]map[groupKey]int // by node
}

func newOracle(view state.ReadView) *oracle {
	o := &oracle{view: view, nodes: view.Nodes(), held: map[string]bool{}, used: map[string][3]int64{}, ports: map[string]bool{}, runs: map[string]map[groupKey]int{}}
	for _, i := range view.Instances() {
		if i.GetObserved().GetState() == fleetv1.InstanceReaped {
			continue
		}
		s := i.GetSpec()
		stays := i.GetDesired().GetState() == fleetv1.DesiredRunning && i.GetDesired().GetLeave() == nil
		o.take(s.GetNode(), &Request{Service: s.GetServiceId(), Version: VersionKey(s.GetModel(), s.GetModelVersion()), CPUMillis: s.GetCpuMillis(),
			MemoryBytes: s.GetMemoryBytes(), DiskBytes: s.GetDiskBytes(), HostPort: fixedPort(s)}, s.GetDeviceIds(), stays)
		if p := i.GetObserved().GetPort(); p != 0 {
			o.ports[fmt.Sprint(s.GetNode(), " ", p)] = true
		}
	}
	return o
}

func (o *oracle) take(node string, r *Request, devices []string, stays bool) {
	u := o.used[node]
	o.used[node] = [3]int64{u[0] + r.CPUMillis, u[1] + r.MemoryBytes, u[2] + r.DiskBytes}
	for _, d := range devices {
		o.held[node+" "+d] = true
	}
	if r.HostPort != 0 {
		o.ports[fmt.Sprint(node, " ", r.HostPort)] = true
	}
	if o.runs[node] == nil {
		o.runs[node] = map[groupKey]int{}
	}
	if stays {
		o.runs[node][groupKey{r.Service, r.Version}]++
	}
}

// suits says whether the node could take the request if nothing ran on it.
func (o *oracle) suits(n *fleetv1.Node, r *Request) bool {
	f, labels := n.GetFacts(), n.GetFacts().GetLabels()
	if !slices.Contains(o.view.PoolNodes(o.view.Pool(r.Pool)), n) || n.GetSpec().GetCordoned() || n.GetStatus().GetState() != fleetv1.NodeReady || r.Arch != "" && r.Arch != f.GetArch() {
		return false
	}
	for k, v := range r.Rules.GetRequired() {
		if got, ok := labels[k]; !ok || got != v {
			return false
		}
	}
	for _, s := range r.Rules.GetSpread() {
		if _, ok := labels[s.GetLabel()]; s.GetRequired() && !ok {
			return false
		}
	}
	if only := r.Rules.GetNodes(); len(only) > 0 && !slices.Contains(only, n.GetMeta().GetName()) {
		return false
	}
	limit := state.Allocatable(n)
	return r.CPUMillis <= limit.CPUMillis && r.MemoryBytes <= limit.MemoryBytes && (r.DiskBytes == 0 || r.DiskBytes <= limit.DiskBytes) &&
		o.domain(n, r, func(*fleetv1.Device) bool { return true })
}

// usable are the devices that may be given to the request when nobody holds them.
func usable(n *fleetv1.Node, r *Request) []*fleetv1.Device {
	a := r.Accelerator
	var out []*fleetv1.Device
	cordoned := func(id string) bool {
		return slices.ContainsFunc(n.GetSpec().GetDeviceCordons(), func(c *fleetv1.DeviceCordon) bool { return id != "" && c.GetDeviceId() == id })
	}
	all := n.GetFacts().GetDevices()
	for _, d := range all {
		if slices.ContainsFunc(all, func(s *fleetv1.Device) bool { return s.GetParentId() == d.GetId() }) || d.GetHealth() != fleetv1.Healthy || d.GetQuarantined() ||
			!slices.Contains([]string{"", "observe"}, d.GetAction()) || cordoned(d.GetId()) || cordoned(d.GetParentId()) {
			continue
		}
		profile := a.GetShare()
		if profile == "whole" {
			profile = ""
		}
		model, _ := path.Match(a.GetModel(), d.GetModel())
		if (a.GetVendor() == "" || a.GetVendor() == d.GetVendor()) && (a.GetModel() == "" || model) && d.GetMemoryBytes() >= a.GetMemoryMinBytes() && d.GetProfile() == profile {
			out = append(out, d)
		}
	}
	return out
}

// domain says whether enough of the usable devices that pass are linked as demanded.
func (o *oracle) domain(n *fleetv1.Node, r *Request, pass func(*fleetv1.Device) bool) bool {
	var free []*fleetv1.Device
	for _, d := range usable(n, r) {
		if pass(d) {
			free = append(free, d)
		}
	}
	need := int(r.Accelerator.GetCount())
	if need <= len(free) && need <= 1 {
		return true
	}
	for _, d := range free {
		with := 0
		for _, e := range free {
			if linkedBy(n, d, e, r.Accelerator.GetDomain()) {
				with++
			}
		}
		if with >= need {
			return true
		}
	}
	return false
}

func linkedBy(n *fleetv1.Node, d, e *fleetv1.Device, domain string) bool {
	all := n.GetFacts().GetDevices()
	root := func(d *fleetv1.Device) *fleetv1.Device {
		if i := slices.IndexFunc(all, func(p *fleetv1.Device) bool { return d.GetParentId() != "" && p.GetId() == d.GetParentId() }); i >= 0 {
			return all[i]
		}
		return d
	}
	d, e = root(d), root(e)
	kinds := map[string][]string{"pcie": {"pix"}, "nvlink": {"nvlink"}, "hccs": {"hccs", "hccs-sw", "sio", "ub"}}
	switch domain {
	case "", "any":
		return true
	case "numa":
		return d.GetId() == e.GetId() && d.NumaNode != nil || d.NumaNode != nil && e.NumaNode != nil && d.GetNumaNode() == e.GetNumaNode()
	}
	reached := map[string]bool{d.GetId(): true}
	for range all {
		for _, p := range all {
			for _, l := range p.GetLinks() {
				if reached[p.GetId()] && slices.Contains(kinds[domain], l.GetKind()) {
					reached[l.GetPeer()] = true
				}
			}
		}
	}
	return reached[e.GetId()]
}

// fits says why one member can't go to the node now, besides the rules of spreading; "" when it can.
func (o *oracle) fits(n *fleetv1.Node, r *Request) string {
	name, limit := n.GetMeta().GetName(), state.Allocatable(n)
	u := o.used[name]
	switch {
	case !o.suits(n, r):
		return "the node does not suit"
	case u[0]+r.CPUMillis > limit.CPUMillis, u[1]+r.MemoryBytes > limit.MemoryBytes, u[2]+r.DiskBytes > limit.DiskBytes && u[2]+r.DiskBytes > 0:
		return "CPU, memory or disk"
	case r.HostPort != 0 && o.ports[fmt.Sprint(name, " ", r.HostPort)]:
		return "port"
	case r.Rules.GetAntiAffinity() && o.runs[name][groupKey{r.Service, r.Version}] > 0:
		return "anti-affinity"
	case !o.domain(n, r, func(d *fleetv1.Device) bool { return !o.held[name+" "+d.GetId()] }):
		return "devices"
	}
	return ""
}

// skewed says whether one more instance on the node breaks a required rule.
func (o *oracle) skewed(n *fleetv1.Node, r *Request) bool {
	for _, s := range r.Rules.GetSpread() {
		counts := map[string]int{}
		for _, m := range o.nodes {
			if v, ok := m.GetFacts().GetLabels()[s.GetLabel()]; ok {
				counts[v] += o.runs[m.GetMeta().GetName()][groupKey{r.Service, r.Version}]
			}
		}
		least := -1
		for _, m := range o.nodes {
			if v, ok := m.GetFacts().GetLabels()[s.GetLabel()]; ok && o.suits(m, r) && (least < 0 || counts[v] < least) {
				least = counts[v]
			}
		}
		if s.GetRequired() && counts[n.GetFacts().GetLabels()[s.GetLabel()]]+1-least > max(int(s.GetMaxSkew()), 1) {
			return true
		}
	}
	return false
}

// feasible says whether the request's members have nodes, by trying every choice.
func (o *oracle) feasible(r *Request, chosen []string) bool {
	if len(chosen) == max(r.Nodes, 1) {
		return true
	}
	for _, n := range o.nodes {
		name := n.GetMeta().GetName()
		if slices.Contains(chosen, name) || o.fits(n, r) != "" || o.skewed(n, r) {
			continue
		}
		next := &oracle{view: o.view, nodes: o.nodes, held: o.held, used: map[string][3]int64{}, ports: map[string]bool{}, runs: map[string]map[groupKey]int{}}
		for k, v := range o.used {
			next.used[k] = v
		}
		for k := range o.ports {
			next.ports[k] = true
		}
		for k, v := range o.runs {
			next.runs[k] = map[groupKey]int{}
			for g, c := range v {
				next.runs[k][g] = c
			}
		}
		next.take(name, r, nil, true)
		if next.feasible(r, append(slices.Clone(chosen), name)) {
			return true
		}
	}
	return false
}

// check says what is wrong with a placement, "" when nothing is, and takes what it gives.
func (o *oracle) check(r *Request, p Placement) string {
	if len(p.Members) == 0 {
		if o.feasible(r, nil) {
			return "it waits but would fit"
		}
		return ""
	}
	if len(p.Members) != max(r.Nodes, 1) {
		return fmt.Sprintf("%d members", len(p.Members))
	}
	seen := map[string]bool{}
	left := slices.Clone(p.Members)
	for len(left) > 0 { // in some order no step breaks a rule
		at := slices.IndexFunc(left, func(m Member) bool { return !o.skewed(o.view.Node(m.Node), r) })
		if at < 0 {
			return "it is skewed"
		}
		m := left[at]
		left = slices.Delete(left, at, at+1)
		n := o.view.Node(m.Node)
		if why := o.fits(n, r); why != "" || seen[m.Node] {
			return "node " + m.Node + ": " + why
		}
		seen[m.Node] = true
		if why := o.devices(n, r, m); why != "" {
			return "node " + m.Node + ": " + why
		}
		o.take(m.Node, r, m.DeviceIDs, true)
	}
	return ""
}

func (o *oracle) devices(n *fleetv1.Node, r *Request, m Member) string {
	if len(m.DeviceIDs) != int(r.Accelerator.GetCount()) || len(m.DeviceModels) != len(m.DeviceIDs) {
		return fmt.Sprintf("%d devices", len(m.DeviceIDs))
	}
	var got []*fleetv1.Device
	for i, id := range m.DeviceIDs {
		for _, d := range usable(n, r) {
			if d.GetId() == id && d.GetModel() == m.DeviceModels[i] && !o.held[m.Node+" "+id] && !slices.Contains(got, d) {
				got = append(got, d)
			}
		}
	}
	if len(got) != len(m.DeviceIDs) {
		return fmt.Sprintf("devices %v may not be given", m.DeviceIDs)
	}
	for _, d := range got {
		if len(got) > 1 && !linkedBy(n, got[0], d, r.Accelerator.GetDomain()) {
			return fmt.Sprintf("devices %v are not linked", m.DeviceIDs)
		}
	}
	return ""
}
