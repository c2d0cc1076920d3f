package place

import (
	"cmp"
	"fmt"
	"slices"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
	"github.com/drover-fleet/drover/scheduler/state"
)

// Placement answers one request.
type Placement struct {
	// Members are where the instance goes, by rank; empty when it has to wait.
	Members []Member
	// Reservation is what is kept free for it while it waits, without the time; nil for nothing.
	Reservation *fleetv1.Reservation
}

// Member is one node's share of an instance.
type Member struct {
	Node string
	// DeviceIDs are the devices that it gets there, DeviceModels the model of each.
	DeviceIDs, DeviceModels []string
}

// Plan places the requests in order and answers one placement for each. What it places is taken from the
// index; what it cannot place takes nothing.
func (x *Index) Plan(requests []Request) []Placement {
	out := make([]Placement, len(requests))
	fs := filters()
	for i := range requests {
		r := &requests[i]
		nodes, _ := x.pool(r.Pool)
		out[i].Members = placeMembers(nodes, r, fs)
	}
	return out
}

func placeMembers(nodes []*node, r *Request, fs []filter) []Member {
	var chosen []*node
	for range r.members() {
		left := slices.DeleteFunc(slices.Clone(nodes), func(n *node) bool { return slices.Contains(chosen, n) })
		best := pick(left, r, fs)
		if best == nil {
			return nil
		}
		chosen = append(chosen, best)
	}
	var out []Member
	for _, n := range chosen {
		m := Member{Node: n.name}
		for _, d := range n.take(r) {
			m.DeviceIDs = append(m.DeviceIDs, d.GetId())
			m.DeviceModels = append(m.DeviceModels, d.GetModel())
		}
		out = append(out, m)
	}
	return out
}

// Explain says why no node takes the request now, or not enough nodes for a gang. The answer is shared and
// must not be written to.
func (x *Index) Explain(r *Request) *fleetv1.Explanation {
	nodes, ok := x.pool(r.Pool)
	if !ok {
		return &fleetv1.Explanation{Summary: fmt.Sprintf("there is no pool %q", r.Pool)}
	}
	return &fleetv1.Explanation{Summary: explain(nodes, r), Nodes: int32(len(nodes)), Remedies: []string{x.remedy(nodes, r)}}
}

// pick answers the best node that fits, or nil.
func pick(nodes []*node, r *Request, fs []filter) *node {
	var best *node
next:
	for _, n := range nodes {
		for _, f := range fs {
			if !f.fits(n, r) {
				continue next
			}
		}
		if best == nil || better(n, best, r) {
			best = n
		}
	}
	return best
}

// better is the order of preference that the package's doc gives.
func better(a, b *node, r *Request) bool {
	return cmp.Or(
		cmp.Compare(avoided(a, r), avoided(b, r)),
		cmp.Compare(len(a.free), len(b.free)),
		cmp.Compare(a.services[r.Service], b.services[r.Service]),
		cmp.Compare(a.cpu, b.cpu),
		cmp.Compare(a.name, b.name),
	) < 0
}

func avoided(n *node, r *Request) int {
	if r.Avoid[n.name] {
		return 1
	}
	return 0
}

// NeverFits says whether no node of the request's pool could hold it even if nothing else ran there, and
// why. A pool that does not exist or has no nodes yet makes a request wait, not fail.
func NeverFits(view state.ReadView, r Request) (reason string, never bool) {
	pool := view.Pool(r.Pool)
	if pool == nil {
		return "", false
	}
	var nodes []*node
	for _, n := range view.PoolNodes(pool) {
		nodes = append(nodes, empty(n))
	}
	if len(nodes) == 0 || pick(nodes, &r, filters()) != nil {
		return "", false
	}
	return explain(nodes, &r), true
}
