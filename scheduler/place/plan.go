package place

import (
	"cmp"
	"fmt"
	"reflect"

	"github.com/drover-fleet/drover/scheduler/state"
)

// Placement answers one request.
type Placement struct {
	// Node is where the instance goes; empty when it has to wait.
	Node string
	// DeviceIDs are the devices that it gets there.
	DeviceIDs []string
	// Explanation says in one line why no node fits; empty when one does.
	Explanation string
	// Remedy says in one line what would make room; empty when a node fits or there is no such pool.
	Remedy string
}

// Plan places the requests in order and answers one placement for each. What it places is taken from the
// index; what it cannot place takes nothing.
func (x *Index) Plan(requests []Request) []Placement {
	out := make([]Placement, len(requests))
	fs := filters()
	for i := range requests {
		r := &requests[i]
		if i > 0 && out[i-1].Node == "" && reflect.DeepEqual(requests[i-1], *r) {
			out[i] = out[i-1] // a service's further instances fit no better
			continue
		}
		nodes, ok := x.pool(r.Pool)
		if !ok {
			out[i].Explanation = fmt.Sprintf("there is no pool %q", r.Pool)
			continue
		}
		best := pick(nodes, r, fs)
		if best == nil {
			out[i].Explanation, out[i].Remedy = explain(nodes, r), x.remedy(nodes, r)
			continue
		}
		out[i] = Placement{Node: best.name, DeviceIDs: best.take(r)}
	}
	return out
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
