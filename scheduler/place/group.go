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
	offset  int // where the search for its nodes begins
	total   int
	on      map[*node]int32
	tallies []*tally // of the shapes that it was placed with
}

func groupOf(s *fleetv1.InstanceSpec) groupKey {
	return groupKey{s.GetServiceId(), VersionKey(s.GetModel(), s.GetModelVersion())}
}

func (x *Index) group(k groupKey) *group {
	g := x.groups[k]
	if g == nil {
		h := fnv.New32a()
		h.Write(appendKey(nil, k.service, k.version))
		g = &group{key: k, offset: int(h.Sum32() >> 1), on: map[*node]int32{}}
		x.groups[k] = g
		x.idle = append(x.idle, k)
	}
	return g
}

// join adds d instances of the group on the node.
func (x *Index) join(g *group, n *node, d int32) {
	if g.total += int(d); g.total == 0 {
		x.idle = append(x.idle, g.key)
	}
	now := g.on[n] + d
	if now == 0 {
		delete(g.on, n)
	} else {
		g.on[n] = now
	}
	at := slices.IndexFunc(n.groups, func(p presence) bool { return p.group == g })
	switch {
	case at < 0:
		n.groups = append(n.groups, presence{g, now})
	case now == 0:
		n.groups = slices.Delete(n.groups, at, at+1)
	default:
		n.groups[at].n = now
	}
	if !x.moved { // or else no tally lives on
		for _, t := range g.tallies {
			t.add(n, now, d)
		}
	}
}
