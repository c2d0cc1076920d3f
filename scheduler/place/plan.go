package place

import (
	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
)

// Placement answers one request.
type Placement struct {
	// Members are where the instance goes, by rank; empty when it has to wait.
	Members []Member
	// Reservation is what is kept free for it while it waits, without the time; nil for nothing.
	Reservation *fleetv1.Reservation
	// KeptOut says that it would not have to wait if nothing were kept for others.
	KeptOut bool
}

// Member is one node's share of an instance. It shares memory with the index and must not be written to.
type Member struct {
	Node string
	// DeviceIDs are the devices that it gets there, DeviceModels the model of each.
	DeviceIDs, DeviceModels []string
}

// Plan places the requests in order and answers one placement for each. What it places is taken from the
// index; what it cannot place takes nothing. Requests that wait belong in every plan, those with more
// priority first and among equals those that wait longer: nodes are reserved for them from the
// requests that follow, until the next Refresh or Undo.
func (x *Index) Plan(requests []Request) []Placement {
	x.begin()
	out := make([]Placement, len(requests))
	start, members := len(x.taken), make([]Member, wanted(requests))
	var last identity
	var c *class
	for i := range requests {
		r := &requests[i]
		if id := identify(r); i == 0 || id != last {
			c, last = x.class(r, id), id
		} else if c.shape != nil {
			x.catchUp(c.shape, c.pool)
		}
		if c.shape == nil {
			continue
		}
		first := len(x.taken)
		x.keptOut = false
		if x.place(r, c) {
			out[i].Members = members[first-start : len(x.taken)-start : len(x.taken)-start]
		} else {
			out[i].KeptOut = x.keptOut && x.fitsUnkept(r, c)
			out[i].Reservation = x.reserve(r, c)
		}
	}
	// All at once at the end: the processor then waits for the memory of many nodes at a time.
	for i := range x.taken[start:] {
		members[i].Node = x.plates[x.taken[start+i].slot].name
	}
	for i := range x.taken[start:] {
		x.taken[start+i].name(x, &members[i])
	}
	return out
}

// fitsUnkept says whether the request would fit if nothing were kept for others.
func (x *Index) fitsUnkept(r *Request, c *class) bool {
	first, kept := len(x.taken), x.kept
	x.kept = nil
	ok := x.place(r, c)
	x.undo(first)
	x.kept = kept
	x.catchUp(c.shape, c.pool)
	return ok
}

// begin makes the index ready for a plan.
func (x *Index) begin() {
	x.arrange()
	x.trim()
	if len(x.classes) > maxClasses {
		clear(x.classes)
	}
}

// maxClasses bounds how many classes of requests are remembered.
const maxClasses = 4096

// place takes nodes for the request; false when it does not fit.
func (x *Index) place(r *Request, c *class) bool {
	if r.members() > 1 {
		return x.placeGang(r, c)
	}
	s := search{index: x, request: r, class: c}
	slot := s.find(true)
	if slot < 0 {
		return false
	}
	x.take(slot, c)
	return true
}

// class is what requests that differ in nothing but their circumstances share.
type class struct {
	pool  *pool
	shape *shape // nil when there is no such pool
	group *group
}

// identity is equal only for requests of one class.
type identity struct {
	service, version, pool, arch string
	cpu, memory, disk            int64
	accelerator                  *fleetv1.Accelerator
	rules                        *fleetv1.PlacementRules
	arches, mounts               *string
	archCount, mountCount        int
	port                         int32
	gang                         bool
}

func identify(r *Request) identity {
	id := identity{
		service: r.Service, version: r.Version, pool: r.Pool, arch: r.Arch, cpu: r.CPUMillis, memory: r.MemoryBytes, disk: r.DiskBytes,
		accelerator: r.Accelerator, rules: r.Rules, archCount: len(r.ImageArches), mountCount: len(r.MountSources), port: r.HostPort, gang: r.Nodes > 1,
	}
	if len(r.ImageArches) > 0 {
		id.arches = &r.ImageArches[0]
	}
	if len(r.MountSources) > 0 {
		id.mounts = &r.MountSources[0]
	}
	return id
}

// class answers the request's class with its shape up to date.
func (x *Index) class(r *Request, id identity) *class {
	c := x.classes[id]
	if c != nil && !c.shape.dropped && !c.group.dropped {
		x.use(c.shape, c.pool)
		return c
	}
	c = &class{pool: x.pool(r.Pool)}
	if c.pool == nil {
		return c
	}
	c.shape, c.group = x.shape(r, c.pool), x.group(groupKey{r.Service, r.Version})
	x.classes[id] = c
	return c
}

// trim keeps the journal short: shapes that lag far behind are dropped with it.
func (x *Index) trim() {
	const spare = 4096
	limit := 2*len(x.slots) + spare
	if len(x.journal.entries) < limit {
		return
	}
	drop := len(x.journal.entries) - len(x.slots)
	x.journal.entries = append(x.journal.entries[:0], x.journal.entries[drop:]...)
	x.journal.start += drop
	for _, s := range x.shapes {
		if s.read < x.journal.start {
			x.drop(s)
		}
	}
}

// wanted is how many members the requests have when all are placed.
func wanted(requests []Request) (n int) {
	for i := range requests {
		n += requests[i].members()
	}
	return n
}

// name says in words which devices were taken.
func (t *taking) name(x *Index, m *Member) {
	if !t.devices.empty() {
		m.DeviceIDs, m.DeviceModels = named(x.plates[t.slot].ids, t.devices), named(t.class.shape.fitAt(x, int(t.slot)).topology.models, t.devices)
	}
}

// named answers the devices' names: a part of all of them where they are neighbours, which they mostly are.
func named(all []string, devices mask) []string {
	first, n := devices.first(), devices.count()
	if last := devices.last(); last-first+1 == n {
		return all[first : last+1 : last+1]
	}
	out := make([]string, 0, n)
	for d := devices; !d.empty(); d = d.without(one(d.first())) {
		out = append(out, all[d.first()])
	}
	return out
}
