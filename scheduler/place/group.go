package place

import (
	"hash/fnv"
	"slices"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
)

// groupKey names a version of a service.
type groupKey struct{ service, version string }

// group are the instances of one version of a service that are to stay: what spreading counts.
type group struct {
	key     groupKey
	offset  int   // where the search for its nodes begins
	id      int32 // among the index's groups
	total   int
	tallies []*tally // of the shapes that it was placed with
	dropped bool     // the index has forgotten it
}

// presence is how many instances of a group are on a node.
type presence struct{ group, n int32 }

func groupOf(s *fleetv1.InstanceSpec) groupKey {
	return groupKey{s.GetServiceId(), VersionKey(s.GetModel(), s.GetModelVersion())}
}

func (x *Index) group(k groupKey) *group {
	g := x.groups[k]
	if g == nil {
		h := fnv.New32a()
		h.Write(appendKey(nil, k.service, k.version))
		g = &group{key: k, offset: int(h.Sum32() >> 1)}
		if n := len(x.unused); n > 0 {
			g.id, x.unused = x.unused[n-1], x.unused[:n-1]
			x.numbered[g.id] = g
		} else {
			g.id, x.numbered = int32(len(x.numbered)), append(x.numbered, g)
		}
		x.groups[k] = g
		x.idle = append(x.idle, g)
	}
	return g
}

// forgetIdle drops groups that have no instances left.
func (x *Index) forgetIdle() {
	for _, g := range x.idle {
		if g.total > 0 || g.dropped {
			continue
		}
		for _, t := range g.tallies {
			delete(t.shape.tallies, g)
		}
		delete(x.groups, g.key)
		x.numbered[g.id], x.unused = nil, append(x.unused, g.id)
		g.dropped = true
	}
	x.idle = x.idle[:0]
}

// join adds d instances of the group on a node.
func (x *Index) join(g *group, n *spare, d int32) {
	if g.total += int(d); g.total == 0 {
		x.idle = append(x.idle, g)
	}
	at := n.find(g)
	if at < 0 {
		at = len(n.groups)
		n.groups = append(n.groups, presence{group: g.id})
		n.marks |= mark(g.id)
	}
	p := &n.groups[at]
	p.n += d
	if !x.moved { // or else no tally lives on
		for _, t := range g.tallies {
			t.add(x.slots[n.slot], p.n, d)
		}
	}
	if p.n > 0 {
		return
	}
	n.groups = slices.Delete(n.groups, at, at+1)
	n.marks = 0
	for i := range n.groups {
		n.marks |= mark(n.groups[i].group)
	}
}

// mark is a group's bit, which it may share with others.
func mark(id int32) uint64 { return 1 << (id & 63) }

// find is the place of the group in n.groups, or -1.
func (n *spare) find(g *group) int {
	if n.marks&mark(g.id) == 0 {
		return -1
	}
	for i := range n.groups {
		if n.groups[i].group == g.id {
			return i
		}
	}
	return -1
}

// having is how many instances of the group the node has.
func (n *spare) having(g *group) int32 {
	if i := n.find(g); i >= 0 {
		return n.groups[i].n
	}
	return 0
}
