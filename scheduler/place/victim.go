package place

import (
	"cmp"
	"slices"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
)

// unit is what can only end together: an instance, or all of a gang, on this node and on others.
type unit struct {
	members toll // who is to be ended for it
	vacancy      // what it holds on this node
}

// vacancy is a share of a node.
type vacancy struct {
	cpu, memory, disk int64
	devices           mask
	ports             int // uses of the port that the request asks for
}

func (v vacancy) plus(o *vacancy) vacancy {
	return vacancy{v.cpu + o.cpu, v.memory + o.memory, v.disk + o.disk, v.devices.or(o.devices), v.ports - o.ports}
}

// toll is who would have to end, the ones that matter most first.
type toll []*fleetv1.Instance

func newToll(members []*fleetv1.Instance) toll {
	if len(members) < 2 {
		return members
	}
	t := toll(slices.Clone(members))
	slices.SortFunc(t, func(a, b *fleetv1.Instance) int {
		return cmp.Or(cmp.Compare(b.GetSpec().GetPriority(), a.GetSpec().GetPriority()), compareAge(a, b), cmp.Compare(a.GetMeta().GetId(), b.GetMeta().GetId()))
	})
	return slices.CompactFunc(t, func(a, b *fleetv1.Instance) bool { return a == b })
}

// compareAge orders instances by age, old ones first.
func compareAge(a, b *fleetv1.Instance) int {
	s, t := a.GetMeta().GetCreateTime(), b.GetMeta().GetCreateTime()
	return cmp.Or(cmp.Compare(s.GetSeconds(), t.GetSeconds()), cmp.Compare(s.GetNanos(), t.GetNanos()))
}

// compare orders tolls: the fewest, then those of the least priority, then the youngest.
func (t toll) compare(o toll) int {
	return cmp.Or(cmp.Compare(len(t), len(o)),
		slices.CompareFunc(t, o, func(a, b *fleetv1.Instance) int {
			return cmp.Compare(a.GetSpec().GetPriority(), b.GetSpec().GetPriority())
		}),
		slices.CompareFunc(t, o, func(a, b *fleetv1.Instance) int { return compareAge(b, a) }))
}

// eviction looks for whom to end on one node.
type eviction struct {
	request *Request
	fit     *fit
	base    vacancy // what is free
	disk    int64   // of the node
	units   []unit
	rest    []vacancy // base and the units from there on
	checks  int       // that may still be made
	best    toll
	found   bool
}

// maxChecks is how many sets of units are tried for a node before the best so far is good enough.
const maxChecks = 2000

func (e *eviction) takes(v *vacancy) bool {
	r, disk := e.request, v.disk
	if disk == e.disk {
		disk = max(disk, 0) // as load has it
	}
	return r.CPUMillis <= v.cpu && r.MemoryBytes <= v.memory && r.DiskBytes <= disk && v.ports <= 0 && e.fit.hole(v.devices) != noKey
}

// solve answers the least toll for which the request fits; false when none does. limit bounds how many it
// may be; below 0 there is no bound.
func (e *eviction) solve(limit int) (toll, bool) {
	if e.takes(&e.base) {
		return nil, true
	}
	e.keepHelpful()
	if e.sum(); !e.takes(&e.rest[0]) {
		return nil, false
	}
	e.thin()
	e.checks = maxChecks
	most := len(e.best)
	if limit >= 0 {
		most = min(most, limit)
	}
	smallest := len(slices.MinFunc(e.units, func(a, b unit) int { return cmp.Compare(len(a.members), len(b.members)) }).members)
	for size := smallest; size <= most && e.checks > 0; size++ {
		if e.try(0, size, e.base, nil); e.found {
			break
		}
	}
	return e.best, limit < 0 || len(e.best) <= limit
}

// keepHelpful drops units that have nothing of what is short, and orders the others by what they cost.
func (e *eviction) keepHelpful() {
	r, b := e.request, &e.base
	short := e.fit.hole(b.devices) == noKey
	e.units = slices.DeleteFunc(e.units, func(u unit) bool {
		return !(r.CPUMillis > b.cpu && u.cpu > 0 || r.MemoryBytes > b.memory && u.memory > 0 || r.DiskBytes > b.disk && u.disk > 0 ||
			u.ports > 0 || short && !u.devices.and(e.fit.class).empty())
	})
	slices.SortStableFunc(e.units, func(a, b unit) int { return a.members.compare(b.members) })
}

func (e *eviction) sum() {
	e.rest = make([]vacancy, len(e.units)+1)
	e.rest[len(e.units)] = e.base
	for i := len(e.units) - 1; i >= 0; i-- {
		e.rest[i] = e.rest[i+1].plus(&e.units[i].vacancy)
	}
}

// thin makes the first toll: all units without those that are not needed, the dearest left out first, and
// of equals those that hold the least.
func (e *eviction) thin() {
	left := slices.Clone(e.units)
	slices.SortStableFunc(left, func(a, b unit) int {
		return cmp.Or(cmp.Compare(len(b.members), len(a.members)), cmp.Compare(a.devices.count(), b.devices.count()), cmp.Compare(a.cpu, b.cpu),
			b.members.compare(a.members))
	})
	for i := 0; i < len(left); {
		without := e.base
		for j := range left {
			if j != i {
				without = without.plus(&left[j].vacancy)
			}
		}
		if e.takes(&without) {
			left = slices.Delete(left, i, i+1)
		} else {
			i++
		}
	}
	var members []*fleetv1.Instance
	for _, u := range left {
		members = append(members, u.members...)
	}
	e.best = newToll(members)
}

// try tries all sets of the units from the i-th on that have so many members.
func (e *eviction) try(i, size int, v vacancy, chosen []*fleetv1.Instance) {
	if size == 0 {
		if e.checks--; e.takes(&v) {
			if t := newToll(chosen); t.compare(e.best) < 0 {
				e.best = t
			}
			e.found = true
		}
		return
	}
	for ; i < len(e.units) && e.checks > 0; i++ {
		all := v.plus(&vacancy{cpu: e.rest[i].cpu - e.base.cpu, memory: e.rest[i].memory - e.base.memory, disk: e.rest[i].disk - e.base.disk,
			devices: e.rest[i].devices, ports: e.base.ports - e.rest[i].ports})
		if e.checks--; !e.takes(&all) {
			return
		}
		if u := &e.units[i]; len(u.members) <= size {
			e.try(i+1, size-len(u.members), v.plus(&u.vacancy), append(chosen, u.members...))
		}
	}
}
