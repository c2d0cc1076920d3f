package place

import (
	"cmp"
	"fmt"
	"math"
	"slices"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
	"github.com/drover-fleet/drover/scheduler/state"
)

// kept is a node whose free share is kept for a request that waits.
type kept struct {
	node     *node
	pool     *pool
	group    *group
	priority int32 // from all that have no more
	cleared  bool  // others were asked to stop for it
}

// Keep keeps nodes for the request's version, from all others that have no more priority, until the next
// Refresh: there room is being made for it. That is no reservation: a pool bears any number of them, and no
// reservation is made on these nodes. It answers whether something is still ending there and each of the nodes
// takes instances; else there is nothing left to wait for.
func (x *Index) Keep(r *Request, nodes []string) (clearing bool) {
	x.arrange()
	c := x.class(r, identify(r))
	if c.shape == nil {
		return false
	}
	open := true
	for _, name := range nodes {
		n := x.nodes[name]
		if n == nil {
			open = false
			continue
		}
		x.kept = append(x.kept, kept{n, c.pool, c.group, r.Priority, true})
		clearing, open = clearing || n.ending, open && n.open
	}
	return clearing && open
}

// from says whether the node is kept from requests of the group that have this priority. What is
// reserved for one instance of a version is kept from its others as well.
func (k *kept) from(g *group, priority int32) bool {
	return k.priority >= priority && !(k.cleared && k.group == g)
}

// lack is what a node is short of for a request once what has been asked to stop there has ended, least first.
type lack struct {
	node    *node
	strange bool // not reserved for the request before
	devices int
	share   float64 // of the node's CPU, memory and disk together, from 0
	missing int     // devices, as it is now
	ready   bool    // nothing is missing now
}

// reserve keeps the nodes that are the closest to taking the request from later requests that have no more
// priority. It answers nil when nothing is to be kept: the request has not waited, the pool has a reservation
// already, or no end of other instances would make it fit. Where room is being made that is what is kept.
func (x *Index) reserve(r *Request, c *class) *fleetv1.Reservation {
	if lacks := x.cleared(r, c); len(lacks) > 0 {
		return reservation(r, lacks)
	}
	if !r.Waited || slices.ContainsFunc(x.kept, func(k kept) bool { return k.pool == c.pool && !k.cleared }) {
		return nil
	}
	lacks := x.lacks(r, c)
	if len(lacks) < r.members() {
		return nil
	}
	slices.SortFunc(lacks, func(a, b lack) int {
		return cmp.Or(cmp.Compare(a.devices, b.devices), compareBool(a.strange, b.strange), cmp.Compare(a.share, b.share), cmp.Compare(a.node.slot, b.node.slot))
	})
	lacks = lacks[:r.members()]
	from := r.Priority
	if r.Yields {
		from = math.MinInt32
	}
	for _, l := range lacks {
		x.kept = append(x.kept, kept{l.node, c.pool, c.group, from, false})
	}
	return reservation(r, lacks)
}

// reservation describes what is kept.
func reservation(r *Request, lacks []lack) *fleetv1.Reservation {
	out := &fleetv1.Reservation{}
	missing, ready := 0, 0
	for _, l := range lacks {
		out.Nodes = append(out.Nodes, l.node.name)
		missing += l.missing
		if l.ready {
			ready++
		}
	}
	slices.Sort(out.Nodes)
	switch total := len(lacks) * r.devices(); {
	case missing > 0:
		out.Detail = fmt.Sprintf("%d of %d devices are free", total-missing, total)
	case len(lacks) > 1:
		out.Detail = fmt.Sprintf("%d of %d nodes have room", ready, len(lacks))
	default:
		out.Detail = "CPU, memory, disk or a port is awaited"
	}
	return out
}

func compareBool(a, b bool) int {
	switch {
	case a == b:
		return 0
	case b:
		return -1
	}
	return 1
}

// cleared are the nodes on which room is being made for the request's version.
func (x *Index) cleared(r *Request, c *class) (lacks []lack) {
	for _, k := range x.kept {
		if k.cleared && k.group == c.group {
			lacks = append(lacks, x.lack(r, c, k.node))
		}
	}
	return lacks
}

// lacks lists the nodes that could take a member of the request if others ended there.
func (x *Index) lacks(r *Request, c *class) []lack {
	x.catchUp(c.shape, c.pool)
	s := search{index: x, request: r, class: c}
	s.prepare()
	var out []lack
	all := common(c.shape.able, nil, nil, s.taken)
	all.around(0, len(c.shape.places), 0, func(at int) bool {
		n := c.shape.places[at]
		if s.may(int(n.slot)) && !slices.ContainsFunc(x.kept, func(k kept) bool { return k.cleared && k.node == n }) &&
			(s.tally == nil || !s.tally.exceeds(s.tally.key(c.shape.cells.of(at)))) {
			out = append(out, x.lack(r, c, n))
		}
		return true
	})
	return out
}

func (x *Index) lack(r *Request, c *class, n *node) lack {
	f, after := c.shape.fit(n.topology), x.settled(n)
	l := lack{node: n, strange: !slices.Contains(r.Reserved, n.name), devices: f.short(after.free, n.usable), share: after.short(r), missing: f.short(n.free, n.usable)}
	l.ready = l.missing == 0 && n.short(r) == 0
	return l
}

// settled is the node once what has been asked to stop there has ended: on nodes that are being cleared for a
// request it finds all that it needs.
func (x *Index) settled(n *node) *node {
	if !n.ending {
		return n
	}
	n = n.copied()
	for _, i := range x.view.InstancesOnNode(n.name) {
		if state.Holds(i) && stops(i) {
			n.release(i)
		}
	}
	return n
}

// short is how many devices have to become free until the request fits, where it would fit if all usable ones
// were.
func (f *fit) short(free, usable mask) int {
	least := maxDevices
	look := func(in mask) {
		if usable.and(f.class).and(in).count() >= f.need {
			least = min(least, max(f.need-free.and(f.class).and(in).count(), 0))
		}
	}
	if f.by == 0 {
		look(f.topology.all)
	}
	for _, d := range f.topology.domains {
		if d.by&f.by != 0 {
			look(d.mask)
		}
	}
	return least
}

// short sums what the node lacks of its CPU, memory and disk, each from 0 to 1; a port that is taken counts 1.
func (n *node) short(r *Request) float64 {
	part := func(need, free, total int64) float64 {
		if need <= free {
			return 0
		}
		return float64(need-free) / float64(max(total, 1))
	}
	sum := part(r.CPUMillis, n.cpu, n.total.CPUMillis) + part(r.MemoryBytes, n.memory, n.total.MemoryBytes) + part(r.DiskBytes, n.disk, n.total.DiskBytes)
	if r.HostPort != 0 && slices.Contains(n.ports, r.HostPort) {
		sum++
	}
	return sum
}
