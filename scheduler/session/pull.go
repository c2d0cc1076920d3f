package session

import (
	"sync"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
)

// pulls keeps what the nodes said last about the images they are pulling.
type pulls struct {
	hooks hooks

	mu    sync.RWMutex
	byID  map[string]*fleetv1.PullProgress
	nodes map[string][]string // node → instance IDs
}

func (p *pulls) init() {
	p.byID, p.nodes = map[string]*fleetv1.PullProgress{}, map[string][]string{}
}

// update replaces what is known of a node's pulls and tells the hooks what has changed.
func (p *pulls) update(node string, now []*fleetv1.PullProgress) {
	p.mu.Lock()
	if len(now) == 0 && len(p.nodes[node]) == 0 {
		p.mu.Unlock()
		return
	}
	gone := map[string]bool{}
	for _, id := range p.nodes[node] {
		gone[id] = true
	}
	var changed, ids []string
	for _, progress := range now {
		id := progress.GetInstanceId()
		before := p.byID[id]
		if before != nil && !gone[id] {
			continue // another node's instance, or one named twice
		}
		delete(gone, id)
		if before.GetDoneBytes() != progress.GetDoneBytes() || before == nil {
			changed = append(changed, id)
		}
		p.byID[id] = progress
		ids = append(ids, id)
	}
	for id := range gone {
		delete(p.byID, id)
		changed = append(changed, id)
	}
	p.nodes[node] = ids
	if len(ids) == 0 {
		delete(p.nodes, node)
	}
	p.mu.Unlock()
	for _, id := range changed {
		p.hooks.call(id)
	}
}

func (p *pulls) get(id string) *fleetv1.PullProgress {
	p.mu.RLock()
	defer p.mu.RUnlock()
	return p.byID[id]
}

func (p *pulls) clear() {
	p.mu.Lock()
	defer p.mu.Unlock()
	clear(p.byID)
	clear(p.nodes)
}
