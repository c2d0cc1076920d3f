package place

import (
	"slices"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
	"github.com/drover-fleet/drover/scheduler/state"
)

// clearing is how room could be made for a request: where, who is ending there already, and who else would
// have to end.
type clearing struct {
	nodes  []string
	ending []*fleetv1.Instance
	toll   toll
}

// clearer looks for a clearing.
type clearer struct {
	index   *Index
	request *Request
	class   *class
	search  search
	may     func(*fleetv1.Instance) bool // who may be ended
	below   int32                        // preemptible ones of less priority, if no others may
	most    int                          // nodes that are looked at once they are found to do
	sites   []site
}

// site is a node where ending the toll makes room for one member.
type site struct {
	node *node
	toll toll
}

// maxCoupled is up to how many units every set of them is tried where what ends for one node helps another.
const maxCoupled = 10

// clear looks for the least toll. The index must stand in a supposition, which keeps what is ending as ended.
func (c *clearer) clear(s *supposition) (clearing, bool) {
	x := c.index
	s.unkeep(c.class.group)
	x.catchUp(c.class.shape, c.class.pool)
	c.search = search{index: x, request: c.request, class: c.class, avoided: true}
	c.search.prepare()
	c.visit()
	if len(c.sites) < c.request.members() {
		return clearing{}, false
	}
	slices.SortStableFunc(c.sites, func(a, b site) int { return a.toll.compare(b.toll) })
	if c.request.members() == 1 {
		c.sites = c.sites[:1]
	}
	var ending []*fleetv1.Instance
	for _, at := range c.sites {
		for _, i := range c.ending(at.node) {
			s.end(i)
			ending = append(ending, i)
		}
	}
	t, nodes, ok := c.pay()
	if !ok {
		return clearing{}, false
	}
	ending = slices.DeleteFunc(ending, func(i *fleetv1.Instance) bool { return !slices.Contains(nodes, i.GetSpec().GetNode()) })
	return clearing{nodes, ending, t}, true
}

// ending are the instances of a node that have been asked to stop and still hold their share.
func (c *clearer) ending(n *node) (out []*fleetv1.Instance) {
	if !n.ending {
		return nil
	}
	for _, i := range c.index.view.InstancesOnNode(n.name) {
		if state.Holds(i) && stops(i) {
			out = append(out, i)
		}
	}
	return out
}

// visit collects sites, beginning with the nodes that are short of the least, and there with those that have
// the instances of the least priority.
func (c *clearer) visit() {
	sh := c.class.shape
	by := make([][]*node, 4*maxDevices+4)
	all := common(sh.able, nil, nil, c.search.taken)
	all.around(0, len(sh.places), 0, func(at int) bool {
		n := sh.places[at]
		if c.hopeless(n, at) || !c.search.may(int(n.slot)) {
			return true
		}
		k := 4*sh.fit(n.topology).short(n.free, n.usable) + int(min(3, 4*n.short(c.request)))
		by[k] = append(by[k], n)
		return true
	})
	limit := -1
	for _, nodes := range by {
		for _, n := range softestFirst(nodes) {
			e := c.eviction(n)
			t, ok := e.solve(limit)
			if !ok {
				continue
			}
			c.sites = append(c.sites, site{n, t})
			if c.request.members() == 1 {
				if limit = len(t); limit == 0 {
					return
				}
			}
			if len(c.sites) >= c.most {
				return
			}
		}
	}
}

// hopeless says whether no end of those who may be ended makes room at a place, as far as that is known
// without looking at them.
func (c *clearer) hopeless(n *node, at int) bool {
	sh := c.class.shape
	if t := c.search.tally; c.request.members() == 1 && t != nil && t.exceeds(t.key(sh.cells.of(at))) {
		return true
	}
	return c.below > 0 && sh.keys[at] == noKey &&
		(n.softest >= c.below && !n.ending || sh.fit(n.topology).hole(n.free.or(n.soft.and(n.usable))) == noKey)
}

// softestFirst orders nodes by the least priority of their preemptible instances.
func softestFirst(nodes []*node) []*node {
	if len(nodes) < 2 {
		return nodes
	}
	const most = 101 // priorities, and one for none
	var by [most + 1][]*node
	for _, n := range nodes {
		p := min(max(int(n.softest), 0), most)
		by[p] = append(by[p], n)
	}
	return slices.Concat(by[:]...)
}

// eviction prepares a node: what is free there when those that are ending have ended, and who else may end.
func (c *clearer) eviction(n *node) *eviction {
	r := c.request
	e := &eviction{request: r, fit: c.class.shape.fit(n.topology), disk: n.total.DiskBytes, base: vacancy{n.cpu, n.memory, n.disk, n.free, 0}}
	for _, p := range n.ports {
		if r.HostPort != 0 && p == r.HostPort {
			e.base.ports++
		}
	}
	at := map[string]int{} // units of gangs
	for _, i := range c.index.view.InstancesOnNode(n.name) {
		if !state.Holds(i) {
			continue
		}
		v := c.share(n, i)
		if stops(i) {
			e.base = e.base.plus(&v)
			continue
		}
		if !c.endable(i) {
			continue
		}
		gang := i.GetSpec().GetGang().GetId()
		if u, ok := at[gang]; ok && gang != "" {
			v.ports = -v.ports // plus takes them off
			e.units[u].vacancy = e.units[u].plus(&v)
			continue
		}
		u := unit{members: toll{i}, vacancy: v}
		if gang != "" {
			at[gang] = len(e.units)
			u.members = newToll(c.gang(gang))
		}
		e.units = append(e.units, u)
	}
	return e
}

// share is what an instance holds of a node.
func (c *clearer) share(n *node, i *fleetv1.Instance) vacancy {
	s := i.GetSpec()
	v := vacancy{s.GetCpuMillis(), s.GetMemoryBytes(), s.GetDiskBytes(), n.held(i).and(n.usable), 0}
	for _, p := range []int32{fixedPort(s), i.GetObserved().GetPort()} {
		if p != 0 && p == c.request.HostPort {
			v.ports++
		}
	}
	return v
}

// gang are the members of a gang that have not ended and are not ending.
func (c *clearer) gang(id string) []*fleetv1.Instance {
	return slices.DeleteFunc(slices.Clone(c.index.view.InstancesOfGang(id)), func(i *fleetv1.Instance) bool { return !state.Holds(i) || stops(i) })
}

// endable says whether the instance, with all its gang, may be ended: never another of the version that
// asks, which would be missing then itself.
func (c *clearer) endable(i *fleetv1.Instance) bool {
	if groupOf(i.GetSpec()) == c.class.group.key || !c.may(i) {
		return false
	}
	gang := i.GetSpec().GetGang().GetId()
	return gang == "" || !slices.ContainsFunc(c.gang(gang), func(m *fleetv1.Instance) bool { return !c.may(m) })
}

// pay finds out which of the sites are needed, and whom of them.
func (c *clearer) pay() (toll, []string, bool) {
	nodes, ok := c.with(nil)
	if ok {
		return nil, nodes, true
	}
	n := c.request.members()
	if nodes, ok = c.with(c.tolls(n)); !ok {
		low := n
		for high := 2 * n; ; high *= 2 {
			high = min(high, len(c.sites))
			if _, ok = c.with(c.tolls(high)); ok {
				n = low + sortSearch(high-low, func(k int) bool { _, ok := c.with(c.tolls(low + k)); return ok })
				break
			}
			if low = high; high == len(c.sites) {
				return nil, nil, false
			}
		}
		nodes, _ = c.with(c.tolls(n))
	}
	t := c.tolls(n)
	if c.request.members() == 1 {
		return t, nodes, true
	}
	t = c.prune(t)
	t = c.exhaust(t)
	nodes, ok = c.with(t)
	return t, nodes, ok
}

// sortSearch is the smallest of 0…n for which f holds, n when only that.
func sortSearch(n int, f func(int) bool) int {
	i, j := 0, n
	for i < j {
		if h := (i + j) / 2; f(h) {
			j = h
		} else {
			i = h + 1
		}
	}
	return i
}

// tolls is the toll of the first n sites.
func (c *clearer) tolls(n int) toll {
	var all []*fleetv1.Instance
	for _, s := range c.sites[:n] {
		all = append(all, s.toll...)
	}
	return newToll(all)
}

// with plans the request as if the toll had been paid.
func (c *clearer) with(t toll) ([]string, bool) {
	s := c.index.suppose()
	defer s.undo()
	s.end(t...)
	return s.place(c.request)
}

// unitsOf divides a toll.
func unitsOf(t toll) (units []toll) {
	at := map[string]int{}
	for _, i := range t {
		gang := i.GetSpec().GetGang().GetId()
		u, ok := at[gang]
		if gang == "" || !ok {
			at[gang] = len(units)
			units = append(units, toll{i})
		} else {
			units[u] = append(units[u], i)
		}
	}
	return units
}

// prune leaves out who need not end, first those who matter most.
func (c *clearer) prune(t toll) toll {
	const limit = 256 // tries
	left := unitsOf(t)
	slices.SortStableFunc(left, func(a, b toll) int { return b.compare(a) })
	for i, tries := 0, 0; i < len(left) && tries < limit; tries++ {
		var rest toll
		for j, u := range left {
			if j != i {
				rest = append(rest, u...)
			}
		}
		if _, ok := c.with(rest); ok {
			left = slices.Delete(left, i, i+1)
		} else {
			i++
		}
	}
	return newToll(slices.Concat(left...))
}

// exhaust tries every set of units where there are few.
func (c *clearer) exhaust(best toll) toll {
	var all []*fleetv1.Instance
	for _, n := range c.class.shape.places {
		if !n.open || c.below > 0 && n.softest >= c.below {
			continue
		}
		for _, u := range c.eviction(n).units {
			all = append(all, u.members...)
		}
		if len(all) > 4*maxCoupled {
			return best
		}
	}
	units := unitsOf(newToll(all))
	if len(units) > maxCoupled {
		return best
	}
	for set := range 1 << len(units) {
		var t toll
		for i, u := range units {
			if set>>i&1 != 0 {
				t = append(t, u...)
			}
		}
		if t = newToll(t); t.compare(best) < 0 {
			if _, ok := c.with(t); ok {
				best = t
			}
		}
	}
	return best
}

// preemptibleBelow says who may be preempted for a priority.
func preemptibleBelow(priority int32) func(*fleetv1.Instance) bool {
	return func(i *fleetv1.Instance) bool {
		return i.GetSpec().GetPreemptible() && i.GetSpec().GetPriority() < priority
	}
}
