package place

import (
	"sync"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
	"github.com/drover-fleet/drover/scheduler/state"
)

// Possible says which requests could ever be placed. It remembers where they could, so that in a large fleet only
// the first of many alike looks at nodes. The zero value is ready to use, from several goroutines.
type Possible struct {
	mu    sync.Mutex
	known map[string]proof // by memberKey
}

// maxProofs are kept at most; past it, they are found anew.
const maxProofs = 1024

// proof is as many nodes of a pool as a request has members, each of which would hold one if it were empty. That is true as long
// as the pool and the nodes' facts are what they were, whatever runs there: the store never changes an object.
type proof struct {
	pool  *fleetv1.Pool
	nodes []*fleetv1.Node
}

// NeverFits says whether the request's pool could not hold it even if nothing else ran there, and why. A
// pool that does not exist or has no nodes yet makes a request wait, not fail.
func (p *Possible) NeverFits(view state.ReadView, r Request) (reason string, never bool) {
	pool := view.Pool(r.Pool)
	if pool == nil {
		return "", false
	}
	key := string(memberKey(&r))
	p.mu.Lock()
	known := p.known[key]
	p.mu.Unlock()
	if known.holds(view, pool) {
		return "", false
	}
	found, reason := prove(view, pool, &r)
	if len(found) == r.members() {
		p.mu.Lock()
		defer p.mu.Unlock()
		if p.known == nil || len(p.known) >= maxProofs {
			p.known = map[string]proof{}
		}
		p.known[key] = proof{pool, found}
	}
	return reason, reason != ""
}

func (f proof) holds(view state.ReadView, pool *fleetv1.Pool) bool {
	if f.pool != pool {
		return false
	}
	for _, n := range f.nodes {
		if now := view.Node(n.GetMeta().GetName()); now == nil || now.GetFacts() != n.GetFacts() {
			return false
		}
	}
	return true
}

// prove answers nodes that would hold a member each if they were empty, and why there are fewer than the request
// needs; without a reason when the pool has no nodes.
func prove(view state.ReadView, pool *fleetv1.Pool, r *Request) (found []*fleetv1.Node, reason string) {
	p, s := newPool(pool), &shape{request: *r, rules: newRules(r)}
	var nodes []*node
	for m := range view.PoolMembers(pool) {
		n := newNode()
		n.describe(m, func(t *topology) *topology { return t })
		n = n.emptied()
		s.fits = s.fits[:0]
		if nodes = append(nodes, n); s.suits(n, p) {
			if found = append(found, m); len(found) == r.members() {
				return found, ""
			}
		}
	}
	if len(nodes) == 0 {
		return nil, ""
	}
	return found, explain(nodes, r)
}
