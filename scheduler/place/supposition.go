package place

import (
	"math"
	"slices"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
	"github.com/drover-fleet/drover/scheduler/state"
)

// supposition changes the index as if something were otherwise, so that the planner itself can say what
// would come of it. undo leaves no trace. Suppositions nest.
type supposition struct {
	index   *Index
	version uint64
	taken   int
	kept    []kept
	was     []before
	left    []departure
}

// departure is an instance of a group that no longer counts on a node.
type departure struct {
	group *group
	node  *node
}

// before is what a node was.
type before struct {
	node              *node
	taken             int // takings when it was that
	cpu, memory, disk int64
	free, usable      mask
	ports             []int32
	open, made        bool
}

func (x *Index) suppose() *supposition {
	return &supposition{index: x, version: x.version, taken: len(x.taken), kept: slices.Clone(x.kept)}
}

// touch remembers the node before it is changed.
func (s *supposition) touch(n *node, made bool) {
	for i := range s.was {
		if s.was[i].node == n {
			s.was[i].made = s.was[i].made || made
			return
		}
	}
	s.was = append(s.was, before{n, len(s.index.taken), n.cpu, n.memory, n.disk, n.free, n.usable, slices.Clone(n.ports), n.open, made})
}

// end supposes that the instances have ended and been reaped.
func (s *supposition) end(all ...*fleetv1.Instance) {
	for _, i := range all {
		n := s.index.nodes[i.GetSpec().GetNode()]
		if n == nil || !state.Holds(i) {
			continue
		}
		s.touch(n, false)
		n.release(i)
		s.index.changed(n, false)
		s.leave(i)
	}
}

// leave supposes that the instance no longer counts for the rules of its version, though it holds its share.
func (s *supposition) leave(i *fleetv1.Instance) {
	n := s.index.nodes[i.GetSpec().GetNode()]
	if n == nil || !counts(i) {
		return
	}
	g := s.index.group(groupOf(i.GetSpec()))
	s.index.join(g, n, -1)
	s.left = append(s.left, departure{g, n})
}

// open supposes that the node takes instances.
func (s *supposition) open(n *node) {
	s.touch(n, true)
	n.open = true
	s.index.changed(n, true)
}

// repair supposes that the devices may be given out, as far as nobody holds them.
func (s *supposition) repair(n *node, devices mask) {
	s.touch(n, true)
	n.usable = n.usable.or(devices)
	n.free = n.free.or(devices.without(n.inUse(s.index)))
	s.index.changed(n, true)
}

// close supposes that nothing more fits on the node.
func (s *supposition) close(n *node) {
	s.touch(n, false)
	n.cpu = math.MinInt64
	s.index.changed(n, false)
}

// unkeep supposes that nothing is reserved for the group; nil for any group.
func (s *supposition) unkeep(g *group) {
	s.index.kept = slices.DeleteFunc(slices.Clone(s.index.kept), func(k kept) bool { return g == nil || k.group == g })
}

// place answers where the request would go; it takes nothing.
func (s *supposition) place(r *Request) ([]string, bool) {
	x := s.index
	c := x.class(r, identify(r))
	if c.shape == nil {
		return nil, false
	}
	first := len(x.taken)
	if !x.place(r, c) {
		return nil, false
	}
	var nodes []string
	for _, t := range x.taken[first:] {
		nodes = append(nodes, x.plates[t.slot].name)
	}
	x.undo(first)
	slices.Sort(nodes)
	return nodes, true
}

// placeInstead is place for a request that nobody has made: nothing of it stays in the index.
func (s *supposition) placeInstead(r *Request) ([]string, bool) {
	x := s.index
	key := shapeKey(r)
	known := x.shapes[string(key)] != nil
	nodes, ok := s.place(r)
	if sh := x.shapes[string(key)]; sh != nil && !known {
		x.drop(sh)
	}
	delete(x.classes, identify(r))
	return nodes, ok
}

// undo makes the index what it was.
func (s *supposition) undo() {
	x := s.index
	for i := len(s.was) - 1; i >= 0; i-- {
		w := &s.was[i]
		x.undo(w.taken)
		n := w.node
		n.cpu, n.memory, n.disk, n.free, n.usable, n.ports, n.open = w.cpu, w.memory, w.disk, w.free, w.usable, w.ports, w.open
		x.changed(n, w.made)
	}
	x.undo(s.taken)
	for _, d := range s.left {
		x.join(d.group, d.node, 1)
	}
	x.kept, x.version = s.kept, s.version
	s.was, s.left = nil, nil
}

// adopt makes what another supposed, which began later and has not been undone, part of this one.
func (s *supposition) adopt(o *supposition) {
	s.was, s.left = append(s.was, o.was...), append(s.left, o.left...)
}

// held are the devices that the instance holds.
func (n *node) held(i *fleetv1.Instance) (m mask) {
	for _, id := range i.GetSpec().GetDeviceIds() {
		if at := slices.Index(n.ids, id); at >= 0 {
			m = m.or(one(at))
		}
	}
	return m
}

// inUse are the devices that an instance of the store holds.
func (n *node) inUse(x *Index) (m mask) {
	for _, i := range x.view.InstancesOnNode(n.name) {
		if state.Holds(i) {
			m = m.or(n.held(i))
		}
	}
	return m
}
