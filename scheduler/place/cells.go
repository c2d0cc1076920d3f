package place

import (
	"cmp"
	"maps"
	"slices"
	"strconv"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
	"github.com/drover-fleet/drover/scheduler/state"
)

// rack is the label of the nodes that gangs are kept together by.
const rack = "rack"

// rules are a request's PlacementRules, in the form in which they are used.
type rules struct {
	required  map[string]string
	names     map[string]bool // nil for all
	preferred []*fleetv1.PreferredLabel
	spread    []*fleetv1.SpreadRule
	apart     bool // one instance a node
	racks     bool // gangs are kept in one rack; not when they are spread by rules
}

// maxSpread is how many rules of spreading there may be.
const maxSpread = 2

func newRules(r *Request) rules {
	in := r.Rules
	out := rules{required: in.GetRequired(), preferred: heaviest(in.GetPreferred()), spread: in.GetSpread()[:min(len(in.GetSpread()), maxSpread)], apart: in.GetAntiAffinity()}
	out.racks = r.members() > 1 && len(out.spread) == 0
	if len(in.GetNodes()) > 0 {
		out.names = map[string]bool{}
		for _, n := range in.GetNodes() {
			out.names[n] = true
		}
	}
	return out
}

// heaviest orders the labels by falling weight.
func heaviest(labels []*fleetv1.PreferredLabel) []*fleetv1.PreferredLabel {
	labels = slices.Clone(labels)
	slices.SortStableFunc(labels, func(a, b *fleetv1.PreferredLabel) int { return cmp.Compare(b.GetWeight(), a.GetWeight()) })
	return labels
}

// appendRules appends what makes rules differ.
func appendRules(b []byte, in *fleetv1.PlacementRules) []byte {
	if in == nil {
		return b
	}
	for _, k := range slices.Sorted(maps.Keys(in.GetRequired())) {
		b = appendKey(b, k, in.GetRequired()[k])
	}
	b = append(b, '|')
	for _, p := range heaviest(in.GetPreferred()) {
		b = appendKey(b, p.GetLabel(), p.GetValue())
	}
	b = append(b, '|')
	for _, s := range in.GetSpread() {
		b = appendKey(b, s.GetLabel(), strconv.Itoa(int(s.GetMaxSkew())), strconv.FormatBool(s.GetRequired()))
	}
	b = strconv.AppendBool(append(b, '|'), in.GetAntiAffinity())
	return appendKey(b, slices.Sorted(slices.Values(in.GetNodes()))...)
}

// allow says whether the rules leave the node over.
func (u *rules) allow(n *node) bool {
	if u.names != nil && !u.names[n.name] || !state.HasLabels(n.labels, u.required) {
		return false
	}
	for _, s := range u.spread {
		if _, ok := n.labels[s.GetLabel()]; s.GetRequired() && !ok {
			return false
		}
	}
	return true
}

func skew(s *fleetv1.SpreadRule) int32 { return max(s.GetMaxSkew(), 1) }

// cells divide the places of a shape into those that are alike in all that its rules look at.
type cells struct {
	list   []cell
	cellOf []int32 // by place; nil when there is one cell
	// By spread rule:
	values []map[string]int32 // number of a value
	with   [][]int32          // cells, by value
	from   [][]int32          // where those of a value begin in with; one more for the end
	inPlay [][]int32          // able places, by value
	turns  int                // how often a value came into play or went
	room   []int32            // places with room, by cell
	rackOf map[string]int32   // number of a rack; nil when racks do not matter
	racks  [][]int32          // cells, by rack; the last are without one
}

// cell are neighbouring places.
type cell struct {
	lo, hi int32
	kin
}

// kin is what the places of a cell have in common. Values are numbers, -1 without the label.
type kin struct {
	rank   int32 // by preferred labels, best is 0
	values [maxSpread]int32
	rack   int32
}

// newCells sorts the places by cell, those of one cell stay as they are, and divides them.
func newCells(places []*node, u *rules) cells {
	c := cells{list: []cell{{hi: int32(len(places))}}, room: make([]int32, 1)}
	if len(u.preferred)+len(u.spread) == 0 && !u.racks {
		return c
	}
	for _, s := range u.spread {
		values := number(places, s.GetLabel())
		c.values = append(c.values, values)
		c.inPlay = append(c.inPlay, make([]int32, len(values)))
	}
	if u.racks {
		c.rackOf = number(places, rack)
		c.racks = make([][]int32, len(c.rackOf)+1)
	}
	kins := make(map[*node]kin, len(places))
	for _, n := range places {
		kins[n] = c.kin(n, u)
	}
	slices.SortStableFunc(places, func(a, b *node) int {
		x, y := kins[a], kins[b]
		return cmp.Or(cmp.Compare(x.rank, y.rank), slices.Compare(x.values[:], y.values[:]), cmp.Compare(x.rack, y.rack))
	})
	c.list, c.cellOf = nil, make([]int32, len(places))
	for i, n := range places {
		if k := kins[n]; i == 0 || k != c.list[len(c.list)-1].kin {
			c.open(i, k)
		}
		c.list[len(c.list)-1].hi = int32(i + 1)
		c.cellOf[i] = int32(len(c.list) - 1)
	}
	c.room = make([]int32, len(c.list))
	for r := range c.values {
		c.collect(r)
	}
	return c
}

// emptied are the same cells for another shape.
func (c *cells) emptied() cells {
	out := *c
	out.room, out.inPlay, out.turns = make([]int32, len(c.room)), nil, 0
	for _, of := range c.inPlay {
		out.inPlay = append(out.inPlay, make([]int32, len(of)))
	}
	return out
}

// collect lists the cells by their values of a rule's label.
func (c *cells) collect(r int) {
	from := make([]int32, len(c.values[r])+1)
	var with []int32
	for i := range c.list {
		if v := c.list[i].values[r]; v >= 0 {
			with = append(with, int32(i))
			from[v+1]++
		}
	}
	slices.SortStableFunc(with, func(a, b int32) int { return cmp.Compare(c.list[a].values[r], c.list[b].values[r]) })
	for v := range len(c.values[r]) {
		from[v+1] += from[v]
	}
	c.with, c.from = append(c.with, with), append(c.from, from)
}

// having are the cells with a value of a rule's label.
func (c *cells) having(r int, value int32) []int32 {
	return c.with[r][c.from[r][value]:c.from[r][value+1]]
}

// open begins a cell at a place.
func (c *cells) open(at int, k kin) {
	number := int32(len(c.list))
	c.list = append(c.list, cell{lo: int32(at), kin: k})
	if c.racks != nil {
		at := (int(k.rack) + len(c.racks)) % len(c.racks)
		c.racks[at] = append(c.racks[at], number)
	}
}

// kin looks the node up. What was not there when the cells were made has number unknown.
func (c *cells) kin(n *node, u *rules) kin {
	k := kin{rack: absent}
	for _, p := range u.preferred {
		k.rank <<= 1
		if v, ok := n.labels[p.GetLabel()]; !ok || v != p.GetValue() {
			k.rank |= 1
		}
	}
	for r := range k.values {
		k.values[r] = absent
	}
	for r, s := range u.spread {
		k.values[r] = numberOf(c.values[r], n, s.GetLabel())
	}
	if u.racks {
		k.rack = numberOf(c.rackOf, n, rack)
	}
	return k
}

const (
	absent  = -1 // the node has no such label
	unknown = -2
)

func numberOf(values map[string]int32, n *node, label string) int32 {
	value, ok := n.labels[label]
	if !ok {
		return absent
	}
	if v, ok := values[value]; ok {
		return v
	}
	return unknown
}

// same says whether the node at a place still belongs to its cell.
func (c *cells) same(at int, n *node, u *rules) bool {
	return c.cellOf == nil || c.list[c.cellOf[at]].kin == c.kin(n, u)
}

// of is the cell of a place.
func (c *cells) of(at int) int {
	if c.cellOf == nil {
		return 0
	}
	return int(c.cellOf[at])
}

// play notes that a place became able to take the request, or is no longer.
func (c *cells) play(at int, able bool) {
	if c.values == nil {
		return
	}
	for r := range c.values {
		v := c.list[c.cellOf[at]].values[r]
		switch {
		case v < 0:
		case able:
			if c.inPlay[r][v]++; c.inPlay[r][v] == 1 {
				c.turns++
			}
		default:
			if c.inPlay[r][v]--; c.inPlay[r][v] == 0 {
				c.turns++
			}
		}
	}
}

// number gives the values of a label their places in order.
func number(places []*node, label string) map[string]int32 {
	out := map[string]int32{}
	for _, n := range places {
		if v, ok := n.labels[label]; ok {
			out[v] = 0
		}
	}
	for i, v := range slices.Sorted(maps.Keys(out)) {
		out[v] = int32(i)
	}
	return out
}
