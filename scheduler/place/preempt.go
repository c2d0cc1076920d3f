package place

import (
	"slices"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
)

// maxSites is on how many nodes of those that would do Preempt compares whom to stop.
const maxSites = 256

// Preempt says who is to stop so that the request fits, and on which nodes it then does, both ordered. It
// takes nothing. Victims are preemptible and of less priority, gangs whole: as few as possible, then those
// of the least priority, then the youngest. ok is false when stopping them all would not help. There are no
// victims when the request fits, or will fit on the nodes when what was asked to stop there has ended. Nodes
// that are kept for the request's version already are left out: there room is being made for another of its
// instances.
func (x *Index) Preempt(r *Request) (nodes, victims []string, ok bool) {
	x.arrange()
	x.trim()
	kept := x.kept
	defer func() { x.kept = kept }()
	if c := x.class(r, identify(r)); c.shape != nil {
		x.kept = slices.Clone(kept)
		for _, k := range kept {
			if k.cleared && k.group == c.group {
				x.kept = append(x.kept, keptForNobody(k.node))
			}
		}
	}
	got, ok := x.preempt(r, maxSites)
	for _, i := range got.toll {
		victims = append(victims, i.GetMeta().GetId())
	}
	slices.Sort(victims)
	return got.nodes, victims, ok
}

func (x *Index) preempt(r *Request, most int) (clearing, bool) {
	return x.clearing(r, preemptibleBelow(r.Priority), max(r.Priority, 1), max(most, 2*r.members()))
}

// clearing looks for a clearing; below is 0 when not only preemptible instances may be ended.
func (x *Index) clearing(r *Request, may func(*fleetv1.Instance) bool, below int32, most int) (clearing, bool) {
	c := x.class(r, identify(r))
	if c.shape == nil {
		return clearing{}, false
	}
	s := x.suppose()
	defer s.undo()
	s.unkeep(c.group)
	if nodes, ok := s.place(r); ok {
		return clearing{nodes: nodes}, true
	}
	find := &clearer{index: x, request: r, class: c, may: may, below: below, most: most}
	return find.clear(s)
}
