package reconcile

import (
	"context"
	"time"

	"google.golang.org/protobuf/proto"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
	"github.com/drover-fleet/drover/scheduler/state"
)

// Bounds of a log entry: bytes of what it carries, and mutations of one service in it, so that an entry that lost a
// race is soon computed again.
const (
	maxEntryBytes    = 1 << 20
	maxEntryParts    = 4096
	maxSettledAtOnce = 256
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
	seen := &look{id: id, view: view, svc: svc, census: take(view, svc, id, now)}
	l.looks[id] = seen
	if m := l.memory[id]; m != nil {
		m.looked, m.instances = now, seen.census.instances
	}
	return seen
}

// stale has the next look at the service be a new one.
func (l *serviceLoop) stale(id string) { delete(l.looks, id) }

// job is the write of one service on its way into an entry.
type job struct {
	id    string
	write *fleetv1.Write
	tries int
}

// writeEach commits a write for each of the services, many in one entry. A service whose write lost a race is looked
// at anew; what fails is tried again after a while, and is answered.
func (l *serviceLoop) writeEach(ctx context.Context, now time.Time, ids []string, what string, compute func(*look, time.Time) *fleetv1.Write) (failed map[string]bool) {
	failed = map[string]bool{}
	later := func(j *job) {
		failed[j.id] = true
		l.wakeAt(j.id, now.Add(retryDelay))
	}
	var batch []*job
	size := 0
	for _, id := range ids {
		w := compute(l.look(id, now), now)
		if empty(w) {
			continue
		}
		if batch, size = append(batch, &job{id: id, write: w}), size+proto.Size(w); size >= maxEntryBytes {
			l.commit(ctx, now, batch, what, compute, later)
			batch, size = nil, 0
		}
	}
	l.commit(ctx, now, batch, what, compute, later)
	return failed
}

// commit commits the jobs in one entry, again without those that the store refuses; these follow by themselves.
func (l *serviceLoop) commit(ctx context.Context, now time.Time, batch []*job, what string, compute func(*look, time.Time) *fleetv1.Write, later func(*job)) {
	var alone []*job
	for len(batch) > 0 {
		all := &fleetv1.Write{}
		for _, j := range batch {
			all.Mutations = append(all.Mutations, j.write.GetMutations()...)
			all.Events = append(all.Events, j.write.GetEvents()...)
		}
		result, err := l.propose(ctx, &fleetv1.Command{Op: &fleetv1.Command_Write{Write: all}})
		if err != nil && ctx.Err() == nil {
			l.cfg.Logger.Warn(what, "services", len(batch), "for example", batch[0].id, "error", err)
		}
		if err == nil && len(result.Rejections) > 0 {
			refused := result.Rejections[0]
			l.cfg.Logger.Debug("write refused", "reason", refused.Reason, "detail", refused.Detail)
			at := owner(batch, refused.Part)
			alone = append(alone, batch[at])
			batch = append(batch[:at:at], batch[at+1:]...)
			continue
		}
		for _, j := range batch {
			l.stale(j.id)
			if err != nil {
				later(j)
			}
		}
		break
	}
	for _, j := range alone {
		l.stale(j.id)
		if j.tries++; j.tries >= writeTries {
			later(j)
			continue
		}
		if j.write = compute(l.look(j.id, now), now); !empty(j.write) {
			l.commit(ctx, now, []*job{j}, what, compute, later)
		}
	}
}

func empty(w *fleetv1.Write) bool { return len(w.GetMutations()) == 0 && len(w.GetEvents()) == 0 }

// owner is the place of the job that the mutation belongs to.
func owner(batch []*job, mutation int) int {
	for i, j := range batch {
		if mutation -= len(j.write.GetMutations()); mutation < 0 {
			return i
		}
	}
	return len(batch) - 1
}
