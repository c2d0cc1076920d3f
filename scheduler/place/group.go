package place

import (
	"hash/fnv"
	"math"
	"math/bits"
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
func (x *Index) join(g *group, n *node, d int32) {
	now, rest := n.spare.join(g, d)
	x.joined(g, n.slot, now+n.joinCrowd(g, rest), d)
}

// joinAt is join for the node of a slot, which is read only when it is crowded.
func (x *Index) joinAt(g *group, slot, d int32) {
	s := &x.spares[slot]
	now, rest := s.join(g, d)
	if rest != 0 || s.crowded {
		now += x.slots[slot].joinCrowd(g, rest)
	}
	x.joined(g, slot, now, d)
}

// joined notes that d more instances of the group are on the node of a slot: now there are so many.
func (x *Index) joined(g *group, slot, now, d int32) {
	if g.total += int(d); g.total == 0 {
		x.idle = append(x.idle, g)
	}
	if x.moved {
		return // no tally lives on
	}
	for _, t := range g.tallies {
		t.add(x, int(slot), now, d)
	}
}

// few names the groups of up to 8 instances, each by its mark: 16 bits, 0 for no instance.
type few [2]uint64

// mark stands for the group in few; 0 when there is none left for it.
func (g *group) mark() uint16 {
	if g.id >= math.MaxUint16 {
		return 0
	}
	return uint16(g.id + 1)
}

const eachMark, lowBits = 0x0001_0001_0001_0001, 0x7fff_7fff_7fff_7fff

// equal are the highest bits of those marks of w that are m.
func equal(w uint64, m uint16) uint64 {
	w ^= uint64(m) * eachMark
	return ^(w&lowBits + lowBits | w | lowBits)
}

func (f *few) count(m uint16) int32 {
	return int32(bits.OnesCount64(equal(f[0], m)) + bits.OnesCount64(equal(f[1], m)))
}

// replace puts one mark into the place of another; false when that is not there.
func (f *few) replace(was, is uint16) bool {
	for i, w := range f {
		if at := equal(w, was); at != 0 {
			f[i] ^= uint64(was^is) << (bits.TrailingZeros64(at) - 15)
			return true
		}
	}
	return false
}

// join adds d instances of the group as far as there is room for them, or takes them away as far as they are
// here. It answers how many are here now, and what is left of d.
func (s *spare) join(g *group, d int32) (now, rest int32) {
	m := g.mark()
	if m == 0 {
		return 0, d
	}
	for ; d > 0 && s.few.replace(0, m); d-- {
	}
	for ; d < 0 && s.few.replace(m, 0); d++ {
	}
	return s.few.count(m), d
}

// joinCrowd does so with n.crowd, where there is always room.
func (n *node) joinCrowd(g *group, d int32) int32 {
	at := n.inCrowd(g)
	if at < 0 && d == 0 {
		return 0
	}
	if at < 0 {
		at, n.crowd = len(n.crowd), append(n.crowd, presence{group: g.id})
	}
	now := n.crowd[at].n + d
	if n.crowd[at].n = now; now == 0 {
		n.crowd = slices.Delete(n.crowd, at, at+1)
	}
	n.crowded = len(n.crowd) > 0
	return now
}

// inCrowd is the place of the group in n.crowd, or -1.
func (n *node) inCrowd(g *group) int {
	return slices.IndexFunc(n.crowd, func(p presence) bool { return p.group == g.id })
}

// having is how many instances of the group the node of a slot has.
func (x *Index) having(slot int, g *group) int32 {
	s := &x.spares[slot]
	if s.crowded {
		return x.slots[slot].having(g)
	}
	return s.having(g)
}

func (n *node) having(g *group) int32 {
	if at := n.inCrowd(g); at >= 0 {
		return n.spare.having(g) + n.crowd[at].n
	}
	return n.spare.having(g)
}

// having leaves out those that have no room here.
func (s *spare) having(g *group) int32 {
	if m := g.mark(); m != 0 {
		return s.few.count(m)
	}
	return 0
}

// groups appends those that have instances on the node; some may be there twice.
func (n *node) groups(out []presence) []presence {
	out = append(out, n.crowd...)
	for _, w := range n.few {
		for ; w != 0; w >>= 16 {
			if m := uint16(w); m != 0 {
				out = append(out, presence{int32(m) - 1, 1})
			}
		}
	}
	return out
}
