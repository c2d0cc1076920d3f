package place

import (
	"cmp"
	"slices"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
	"github.com/drover-fleet/drover/scheduler/state"
)

// Index is what the planner knows about free capacity. What it answers depends on nothing but the view that
// it was made from or brought up to date with, and on what Plan has taken since. It is owned by one
// goroutine.
type Index struct {
	view       state.ReadView
	nodes      map[string]*node
	slots      []*node  // by name
	spares     []spare  // by slot
	plates     []plate  // by slot
	imageBits  []uint32 // by slot
	moved      bool     // nodes came or went: slots must be made again
	topologies map[string]*topology
	groups     map[groupKey]*group
	numbered   []*group                  // groups by ID
	unused     []int32                   // IDs of groups that were forgotten
	idle       []*group                  // that were without instances at some time
	images     map[string]map[*node]bool // nodes by the images that they have
	pools      map[string]*pool
	shapes     map[string]*shape
	clock      uint64 // counts uses of shapes
	journal    journal
	moves      []move              // room for catchUp
	glanced    int32               // what give has glanced at, so that it is read at all
	classes    map[identity]*class // of requests that were planned
	taken      []taking
	kept       []kept // nodes that are kept for requests since the last Refresh
	keptOut    bool   // that kept the present request from a node
	version    uint64 // raised by every change that an explanation may depend on
	explained  explained
}

// pool is who belongs to a pool.
type pool struct {
	selector map[string]string
	names    map[string]bool
}

func (p *pool) has(n *node) bool {
	if p.names != nil {
		return p.names[n.name]
	}
	return len(p.selector) > 0 && state.HasLabels(n.labels, p.selector)
}

// journal lists nodes that changed, oldest first. Each shape remembers how far it has read.
type journal struct {
	start   int // entries that were dropped
	entries []entry
}

// entry is the slot of a node of which something else is free, or ^slot when it is not what it was.
type entry int32

func (j *journal) end() int { return j.start + len(j.entries) }

// made says whether some node is not what it was when so much had been read.
func (j *journal) made(read int) bool {
	return slices.ContainsFunc(j.entries[read-j.start:], func(e entry) bool { return e < 0 })
}

// taking is what Plan took from a node.
type taking struct {
	class   *class // of the request
	devices mask
	slot    int32
}

// NewIndex makes the index of a view.
func NewIndex(view state.ReadView) *Index {
	x := &Index{
		view: view, moved: true,
		nodes: map[string]*node{}, topologies: map[string]*topology{}, groups: map[groupKey]*group{},
		images: map[string]map[*node]bool{}, pools: map[string]*pool{}, shapes: map[string]*shape{}, classes: map[identity]*class{},
	}
	for _, o := range view.Nodes() {
		x.load(o.GetMeta().GetName())
	}
	return x
}

// Refresh brings the index up to date with view. sets are all changes between its view so far and this one,
// in order; when they are not known, NewIndex has to be called instead. What Plan took is forgotten: it
// counts when it is in view.
func (x *Index) Refresh(view state.ReadView, sets []state.ChangeSet) {
	x.view = view
	stale := map[string]bool{}
	for i := range x.taken {
		stale[x.plates[x.taken[i].slot].name] = true
	}
	x.taken, x.kept = x.taken[:0], x.kept[:0]
	for _, set := range sets {
		for _, c := range set.Changes {
			switch c.Key.Kind {
			case fleetv1.KindNode:
				stale[c.Key.Key] = true
			case fleetv1.KindPool:
				x.forgetPool(c.Key.Key)
			case fleetv1.KindInstance:
				before, after := c.Before.GetInstance(), c.After.GetInstance()
				if !sameUse(before, after) {
					stale[before.GetSpec().GetNode()], stale[after.GetSpec().GetNode()] = true, true
				}
			}
		}
	}
	for name := range stale {
		if name != "" {
			x.load(name)
		}
	}
	x.forgetIdle()
}

// sameUse says that the change of an instance changes nothing for its node.
func sameUse(a, b *fleetv1.Instance) bool {
	s, t := a.GetSpec(), b.GetSpec()
	return a != nil && b != nil && state.Holds(a) == state.Holds(b) && counts(a) == counts(b) && stops(a) == stops(b) && a.GetObserved().GetPort() == b.GetObserved().GetPort() &&
		(s == t || s.GetNode() == t.GetNode() && fixedPort(s) == fixedPort(t) && s.GetServiceId() == t.GetServiceId() &&
			s.GetModel() == t.GetModel() && s.GetModelVersion() == t.GetModelVersion() && s.GetCpuMillis() == t.GetCpuMillis() &&
			s.GetMemoryBytes() == t.GetMemoryBytes() && s.GetDiskBytes() == t.GetDiskBytes() && slices.Equal(s.GetDeviceIds(), t.GetDeviceIds()))
}

// Undo gives back what Plan took since the last Refresh.
func (x *Index) Undo() {
	x.undo(0)
	x.kept = x.kept[:0]
}

// undo gives back what was taken after the first n takings.
func (x *Index) undo(n int) {
	x.give(x.taken[n:])
	x.taken = x.taken[:n]
}

// give undoes takings. It does so step by step for all, and glances at what the last step needs: the processor
// then waits for the memory of many nodes at a time.
func (x *Index) give(all []taking) {
	for i := range all {
		t := &all[i]
		s, r := &x.spares[t.slot], &t.class.shape.request
		s.cpu, s.memory, s.disk, s.free = s.cpu+r.CPUMillis, s.memory+r.MemoryBytes, s.disk+r.DiskBytes, s.free.or(t.devices)
		if r.HostPort != 0 {
			n := x.slots[t.slot]
			at := slices.Index(n.ports, r.HostPort)
			n.ports = slices.Delete(n.ports, at, at+1)
		}
	}
	for i := range all {
		for _, t := range all[i].class.group.tallies {
			x.glanced += t.glance(x, int(all[i].slot))
		}
	}
	for i := range all {
		x.joinAt(all[i].class.group, all[i].slot, -1)
		x.note(entry(all[i].slot))
	}
}

// take gives what a request of the class asks for away, on the node of a slot.
func (x *Index) take(slot int, c *class) {
	s, r := &x.spares[slot], &c.shape.request
	t := taking{class: c, slot: int32(slot)}
	var last mask
	if s.wary {
		last = x.slots[slot].last
	}
	t.devices = c.shape.fitAt(x, slot).choose(s.free, last)
	s.cpu, s.memory, s.disk, s.free = s.cpu-r.CPUMillis, s.memory-r.MemoryBytes, s.disk-r.DiskBytes, s.free.without(t.devices)
	if r.HostPort != 0 {
		n := x.slots[slot]
		n.ports = append(n.ports, r.HostPort)
	}
	x.joinAt(c.group, t.slot, 1)
	x.note(entry(t.slot))
	x.taken = append(x.taken, t)
}

func (x *Index) changed(n *node, made bool) {
	e := entry(n.slot)
	if made {
		e = ^e
	}
	x.note(e)
}

func (x *Index) note(e entry) {
	x.version++
	x.journal.entries = append(x.journal.entries, e)
}

// load reads a node from the view, again or for the first time; one that is gone is dropped.
func (x *Index) load(name string) {
	n, o := x.nodes[name], x.view.Node(name)
	if o.GetMeta().GetName() != name { // found by ID, or not at all
		o = nil
	}
	if n == nil {
		if o == nil {
			return
		}
		n = newNode()
		x.nodes[name], x.moved = n, true
	}
	was, free := *n, *n.spare
	was.spare = &free
	for _, p := range n.groups(make([]presence, 0, 16)) {
		x.join(x.numbered[p.group], n, -p.n)
	}
	if o == nil {
		n.images = nil
		x.haveImages(n, was.images)
		delete(x.nodes, name)
		x.moved = true
		return
	}
	n.describe(o, x.intern)
	x.haveImages(n, was.images)
	var disk int64
	for _, i := range x.view.InstancesOnNode(name) {
		if state.Holds(i) {
			n.occupy(i)
			disk += i.GetSpec().GetDiskBytes()
		}
		if counts(i) {
			x.join(x.group(groupOf(i.GetSpec())), n, 1)
		}
	}
	if disk == 0 { // what asks for none is not held back by a node that has none to give
		n.disk = max(n.disk, 0)
	}
	if !x.moved {
		x.changed(n, !was.alike(n))
	}
}

// alike says that nothing has changed but what is free.
func (n *node) alike(o *node) bool {
	return n.open == o.open && n.last == o.last && n.arch == o.arch && n.topology == o.topology && n.usable == o.usable && n.total == o.total &&
		state.HasLabels(n.labels, o.labels) && state.HasLabels(o.labels, n.labels) && slices.Equal(n.mountDirs, o.mountDirs) && slices.Equal(n.images, o.images)
}

func (x *Index) intern(t *topology) *topology {
	key := t.key()
	if known := x.topologies[key]; known != nil {
		return known
	}
	t.id = len(x.topologies)
	x.topologies[key] = t
	return t
}

// pool answers who belongs to a pool; nil when there is no such pool.
func (x *Index) pool(name string) *pool {
	if p := x.pools[name]; p != nil {
		return p
	}
	o := x.view.Pool(name)
	if o == nil {
		return nil
	}
	x.pools[name] = newPool(o)
	return x.pools[name]
}

func newPool(o *fleetv1.Pool) *pool {
	p := &pool{selector: o.GetSpec().GetSelector()}
	if names := o.GetSpec().GetNodes(); len(names) > 0 {
		p.names = map[string]bool{}
		for _, n := range names {
			p.names[n] = true
		}
	}
	return p
}

func (x *Index) forgetPool(name string) {
	delete(x.pools, name)
	x.version++
	for _, s := range x.shapes {
		if s.request.Pool == name {
			x.drop(s)
		}
	}
}

// arrange gives each node its slot when nodes have come or gone. No shape survives that.
func (x *Index) arrange() {
	if !x.moved {
		return
	}
	x.moved = false
	x.version++
	x.slots = x.slots[:0]
	for _, n := range x.nodes {
		x.slots = append(x.slots, n)
	}
	slices.SortFunc(x.slots, func(a, b *node) int { return cmp.Compare(a.name, b.name) })
	spares, plates := make([]spare, len(x.slots)), make([]plate, len(x.slots))
	x.imageBits = x.imageBits[:0]
	for i, n := range x.slots {
		n.move(&spares[i], &plates[i], i)
		x.imageBits = append(x.imageBits, n.imageBits)
	}
	x.spares, x.plates = spares, plates
	for _, s := range x.shapes {
		x.drop(s)
	}
	x.journal = journal{}
}
