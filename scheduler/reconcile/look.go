package reconcile

import (
	"context"
	"time"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
	"github.com/drover-fleet/drover/scheduler/state"
)

// look is what a pass sees of one service.
type look struct {
	id     string
	view   state.ReadView
	svc    *fleetv1.Service // nil when it is gone
	census *census
}

// look takes a census of a service, once in a pass unless it has become stale.
func (l *serviceLoop) look(id string, now time.Time) *look {
	if seen := l.looks[id]; seen != nil {
		return seen
	}
	view := l.cfg.State.View()
	svc := view.ServiceByID(id)
	seen := &look{id: id, view: view, svc: svc, census: take(view, svc, id, now, l.gone)}
	l.looks[id] = seen
	if m := l.memory[id]; m != nil {
		m.looked, m.instances = now, seen.census.instances
	}
	return seen
}

// stale has the next look at the service be a new one.
func (l *serviceLoop) stale(id string) { delete(l.looks, id) }

// writeEach commits writes for each of the services. What fails is tried again after a while, and is answered.
func (l *serviceLoop) writeEach(ctx context.Context, now time.Time, ids []string, what string, compute func(*look, time.Time) []*fleetv1.Write) (failed map[string]bool) {
	w := &writing{proposer: l.proposer, ctx: ctx, what: what, wrote: l.stale,
		compute: func(id string) []*fleetv1.Write { return compute(l.look(id, now), now) }}
	failed = w.all(ids)
	for id := range failed {
		l.wakeAt(id, now.Add(retryDelay))
	}
	return failed
}
