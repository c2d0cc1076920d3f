package place

import (
	"math"
	"slices"
)

// tally counts the instances of a group the way the rules of a shape look at them, and keeps the shape's
// cells in the order in which the next instance should try them.
type tally struct {
	shape  *shape
	spread int              // how many rules
	rules  [maxSpread]count // by spread rule
	ladder ladder
	taken  *bitset // places that have an instance; nil unless one a node is allowed
}

// count is how many instances each value of a label has.
type count struct {
	by numbers // by value
	// least is the smallest of those in play, of which there are so many at it; none when it has to be found anew.
	least    int32
	at, turn int
}

// numbers are the numbers of instances. There are so many of them that they take one byte each until one does
// not fit.
type numbers struct {
	small []uint8
	large []int32 // nil until then
}

func (c *numbers) of(value int32) int32 {
	if c.large != nil {
		return c.large[value]
	}
	return int32(c.small[value])
}

func (c *numbers) add(value, d int32) int32 {
	now := c.of(value) + d
	if c.large == nil && now > math.MaxUint8 {
		c.large = make([]int32, len(c.small))
		for v, n := range c.small {
			c.large[v] = int32(n)
		}
	}
	if c.large != nil {
		c.large[value] = now
	} else {
		c.small[value] = uint8(now)
	}
	return now
}

// tally answers the group's tally; the one of nobody when the rules do not look at instances.
func (s *shape) tally(x *Index, g *group) *tally {
	if len(s.rules.spread) == 0 && !s.rules.apart {
		g = nil
	}
	if t := s.tallies[g]; t != nil {
		return t
	}
	if len(s.tallies) >= maxTallies {
		s.forgetTallies()
	}
	t := &tally{shape: s, spread: len(s.rules.spread)}
	for r := range t.spread {
		t.rules[r] = count{by: numbers{small: make([]uint8, len(s.cells.values[r]))}}
	}
	if s.rules.apart {
		t.taken = newBitset(len(s.places))
	}
	if g != nil {
		t.recount(x, g)
		g.tallies = append(g.tallies, t)
	}
	t.ladder.cells = len(s.cells.list)
	for c := range s.cells.list {
		t.ladder.add(c, t.key(c))
	}
	s.tallies[g] = t
	return t
}

// recount counts the instances that the group has already. Tallies are kept, so it is seldom that all nodes are
// looked at for it.
func (t *tally) recount(x *Index, g *group) {
	for slot, left := 0, g.total; left > 0; slot++ {
		have := x.having(slot, g)
		if have == 0 {
			continue
		}
		t.occupy(slot, have)
		for r := range t.spread {
			if v := t.value(x, slot, r); v >= 0 {
				t.rules[r].by.add(v, have)
			}
		}
		left -= int(have)
	}
}

// add notes that the group has d more instances on the node of a slot, now there are so many.
func (t *tally) add(x *Index, slot int, now, d int32) {
	t.occupy(slot, now)
	c := &t.shape.cells
	for r := range t.spread {
		v := t.value(x, slot, r)
		if v < 0 {
			continue
		}
		having := c.having(r, v)
		for _, cell := range having {
			t.ladder.remove(int(cell), t.key(int(cell)))
		}
		t.rules[r].add(v, d, c.inPlay[r][v] > 0)
		for _, cell := range having {
			t.ladder.add(int(cell), t.key(int(cell)))
		}
	}
}

// glance reads what add is about to change.
func (t *tally) glance(x *Index, slot int) (sum int32) {
	for r := range t.spread {
		if v := t.value(x, slot, r); v >= 0 {
			sum += t.rules[r].by.of(v)
		}
	}
	return sum
}

// value is the number of a slot's value of a rule's label, below 0 for none that matters.
func (t *tally) value(x *Index, slot, r int) int32 {
	c := &t.shape.cells
	if at := t.shape.placeOf(slot); at >= 0 {
		return c.list[c.cellOf[at]].values[r]
	}
	return numberOf(c.values[r], x.slots[slot], t.shape.rules.spread[r].GetLabel())
}

func (t *tally) occupy(slot int, now int32) {
	if t.taken == nil {
		return
	}
	if at := t.shape.placeOf(slot); at >= 0 {
		t.taken.put(at, now > 0)
	}
}

func (c *count) add(value, d int32, inPlay bool) {
	was := c.by.of(value)
	now := c.by.add(value, d)
	if !inPlay {
		return
	}
	if was == c.least {
		c.at--
	}
	switch {
	case now < c.least:
		c.least, c.at = now, 1
	case now == c.least:
		c.at++
	}
}

// lowest is the smallest count among the values of a rule that are in play.
func (t *tally) lowest(r int) int32 {
	c, cells := &t.rules[r], &t.shape.cells
	if c.at > 0 && c.turn == cells.turns {
		return c.least
	}
	c.at, c.turn = 0, cells.turns
	for v := range c.by.small {
		n := c.by.of(int32(v))
		switch {
		case cells.inPlay[r][v] == 0:
		case c.at == 0 || n < c.least:
			c.least, c.at = n, 1
		case n == c.least:
			c.at++
		}
	}
	return c.least
}

// The key of a cell: rank, then the counts of its values, the largest without a value.
const (
	countBits = 24
	noValue   = 1<<countBits - 1
)

func (t *tally) key(cell int) uint64 {
	c := &t.shape.cells.list[cell]
	k := uint64(c.rank)
	for r := range maxSpread {
		n := uint64(0)
		if r < t.spread {
			n = noValue
			if v := c.values[r]; v >= 0 {
				n = uint64(t.rules[r].by.of(v))
			}
		}
		k = k<<countBits | n
	}
	return k
}

// exceeds says whether one more instance in cells of this key would break a required rule.
func (t *tally) exceeds(key uint64) bool {
	for r := range t.spread {
		s := t.shape.rules.spread[r]
		n := int32(key >> (countBits * (maxSpread - 1 - r)) & noValue)
		if s.GetRequired() && (n == noValue || n+1-t.lowest(r) > skew(s)) {
			return true
		}
	}
	return false
}

// ladder orders cells by key.
type ladder struct {
	rungs []rung
	cells int
	spare []bitset
}

// rung are the cells of one key.
type rung struct {
	key   uint64
	n     int
	cells bitset
}

func (l *ladder) find(key uint64) (int, bool) {
	return slices.BinarySearchFunc(l.rungs, key, func(r rung, key uint64) int {
		switch {
		case r.key < key:
			return -1
		case r.key > key:
			return 1
		}
		return 0
	})
}

func (l *ladder) add(cell int, key uint64) {
	i, ok := l.find(key)
	if !ok {
		var set bitset
		if n := len(l.spare); n > 0 {
			set, l.spare = l.spare[n-1], l.spare[:n-1]
		} else {
			set = bitsetOf(l.cells)
		}
		l.rungs = slices.Insert(l.rungs, i, rung{key: key, cells: set})
	}
	l.rungs[i].n++
	l.rungs[i].cells.add(cell)
}

func (l *ladder) remove(cell int, key uint64) {
	i, _ := l.find(key)
	r := &l.rungs[i]
	r.cells.remove(cell)
	if r.n--; r.n == 0 {
		l.spare = append(l.spare, r.cells)
		l.rungs = slices.Delete(l.rungs, i, i+1)
	}
}
