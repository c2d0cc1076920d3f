package place

import (
	"strconv"
	"sync"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
	"github.com/drover-fleet/drover/scheduler/state"
)

// Possible says which requests could ever be placed. It remembers where they could, so that in a large fleet only
// the first of many alike looks at nodes. The zero value is ready to use, from several goroutines.
type Possible struct {
	mu sync.Mutex
	at map[string]possible // by what explainKey begins with
}

// possible are as many nodes of a pool as a request has members, each of which would hold one if it were empty. That
// holds as long as the pool and the nodes are what they were, whatever runs there: the store never changes an object.
type possible struct {
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
	key := string(strconv.AppendInt(append(shapeKey(&r), '#'), int64(r.members()), 10))
	p.mu.Lock()
	known := p.at[key]
	p.mu.Unlock()
	if known.holds(view, pool) {
		return "", false
	}
	found, reason := possibleAt(view, pool, &r)
	if len(found) == r.members() {
		p.mu.Lock()
		defer p.mu.Unlock()
		if p.at == nil || len(p.at) >= maxExplained {
			p.at = map[string]possible{}
		}
		p.at[key] = possible{pool, found}
	}
	return reason, reason != ""
}

func (k possible) holds(view state.ReadView, pool *fleetv1.Pool) bool {
	if k.pool != pool {
		return false
	}
	for _, n := range k.nodes {
		if view.Node(n.GetMeta().GetName()) != n {
			return false
		}
	}
	return true
}

// possibleAt answers nodes that would hold a member each if they were empty, and why there are fewer than the request
// needs; without a reason when the pool has no nodes.
func possibleAt(view state.ReadView, pool *fleetv1.Pool, r *Request) (found []*fleetv1.Node, reason string) {
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
