package place

import (
	"cmp"
	"slices"
)

// placeGang takes a node for each member, all different, or nothing. It prefers one rack, the one that has
// the fewest nodes to spare; else as few racks as possible. Rules that spread the version take the place of
// that: then each member goes where the rules want the next instance.
func (x *Index) placeGang(r *Request, c *class) bool {
	var done bool
	first := len(x.taken)
	if c.shape.rules.racks {
		done = x.fillRacks(r, c, false) || len(r.Avoid) > 0 && x.fillRacks(r, c, true)
	} else {
		done = x.fill(r, c, nil, true, first, r.members()) == r.members()
	}
	if !done {
		x.undo(first)
		return false
	}
	slices.SortStableFunc(x.taken[first:], func(a, b taking) int {
		return cmp.Or(cmp.Compare(x.slots[a.slot].labels[rack], x.slots[b.slot].labels[rack]), cmp.Compare(a.slot, b.slot))
	})
	return true
}

// fill takes up to n more nodes in the cells, nil for all, and answers how many. The gang's takings begin
// at first.
func (x *Index) fill(r *Request, c *class, cells *bitset, any bool, first, n int) int {
	for i := range n {
		s := search{index: x, request: r, class: c, cells: cells, chosen: x.taken[first:]}
		at := s.find(any)
		if at < 0 {
			return i
		}
		x.take(at, c)
		x.catchUp(c.shape, c.pool)
	}
	return n
}

// room is how many members a rack could take.
type room struct {
	cells []int32
	nodes int
}

// fillRacks places the gang in one rack, or in as few as possible; on failure nothing stays taken.
func (x *Index) fillRacks(r *Request, c *class, any bool) bool {
	first, need := len(x.taken), r.members()
	rooms := c.shape.rooms()
	slices.SortStableFunc(rooms, func(a, b room) int { return cmp.Compare(a.nodes, b.nodes) })
	for _, one := range rooms {
		if one.nodes < need {
			continue
		}
		if x.fill(r, c, c.shape.set(one.cells), any, first, need) == need {
			return true
		}
		x.undo(first)
		x.catchUp(c.shape, c.pool)
	}
	slices.SortStableFunc(rooms, func(a, b room) int { return cmp.Compare(b.nodes, a.nodes) })
	for _, one := range rooms {
		if need -= x.fill(r, c, c.shape.set(one.cells), any, first, need); need == 0 {
			return true
		}
	}
	x.undo(first)
	x.catchUp(c.shape, c.pool)
	return false
}

// rooms answers the racks that have room, in the order of their names; nodes without a rack come last, as
// if they were one.
func (s *shape) rooms() []room {
	var out []room
	for _, cells := range s.cells.racks {
		one := room{cells: cells}
		for _, c := range cells {
			one.nodes += int(s.cells.room[c])
		}
		if one.nodes > 0 {
			out = append(out, one)
		}
	}
	return out
}

// set is a set of the shape's cells.
func (s *shape) set(cells []int32) *bitset {
	b := newBitset(len(s.cells.list))
	for _, c := range cells {
		b.add(int(c))
	}
	return b
}
