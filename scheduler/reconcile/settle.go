package reconcile

import (
	"fmt"
	"slices"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
	"github.com/drover-fleet/drover/scheduler/state"
)

// settle are the writes that stop and delete instances whose fate is sealed, and that take the next step of an
// ordered restart.
func (l *serviceLoop) settle(seen *look, now time.Time) []*fleetv1.Write {
	c, m := seen.census, l.remembered(seen.id)
	l.wakeAt(seen.id, c.look)
	w := &fleetv1.Write{}
	writes := []*fleetv1.Write{w}
	add := func(mutation *fleetv1.Mutation) {
		if len(w.GetMutations()) >= maxMutations {
			w = &fleetv1.Write{}
			writes = append(writes, w)
		}
		w.Mutations = append(w.Mutations, mutation)
	}
	for _, f := range c.stop {
		if f.failed {
			m.failed(versionKey(f.GetSpec().GetModel(), f.GetSpec().GetModelVersion()), f.GetSpec().GetNode(), f.GetMeta().GetCreateTime().AsTime(), now)
			m.gaveUp = fmt.Sprintf("instance %s on %s: %s", f.GetMeta().GetName(), f.GetSpec().GetNode(), f.reason)
		}
		add(order(f.Instance, &fleetv1.InstanceDesired{
			State: fleetv1.DesiredStopped, Restart: f.GetDesired().GetRestart(), Reason: f.reason, Leave: f.GetDesired().GetLeave()}))
	}
	for _, inst := range c.remove {
		add(state.Delete(inst.GetMeta().GetRevision(), state.InstanceKey(inst.GetMeta().GetId())))
	}
	l.restart(seen.svc, c, w, now)
	return writes
}

// order asks something else of an instance. What stays is shared with the stored object: neither is written to.
func order(inst *fleetv1.Instance, desired *fleetv1.InstanceDesired) *fleetv1.Mutation {
	return state.Put(inst.GetMeta().GetRevision(), &fleetv1.Instance{Meta: inst.GetMeta(), Spec: inst.GetSpec(), Observed: inst.GetObserved(), Desired: desired})
}

// restart orders the restart of as many instances as may be down at once. The first order of a restart
// sets the service's deploy_time: instances made later need none.
func (l *serviceLoop) restart(svc *fleetv1.Service, c *census, w *fleetv1.Write, now time.Time) {
	target := svc.GetDesired().GetRestart()
	if !restarting(svc) {
		return
	}
	begun := false
	for _, v := range c.versions {
		for _, m := range v.kept {
			begun = begun || m.GetDesired().GetRestart() >= target
		}
	}
	ordered := 0
	for _, v := range c.versions {
		down := v.want - v.placed()
		units := append(slices.Clone(v.stay), v.leave...)
		for _, u := range units {
			if isDown(u) {
				down++
			}
		}
		for _, u := range units {
			if !slices.ContainsFunc(u.members, func(m member) bool { return needsRestart(svc, m, begun) }) {
				continue
			}
			if !isDown(u) {
				if down >= max(1, int(svc.GetSpec().GetMaxInvalidInstances())) {
					continue
				}
				down++
			}
			for _, m := range u.members {
				desired := proto.CloneOf(m.GetDesired())
				desired.Restart, desired.Reason = target, "the service is being restarted"
				w.Mutations = append(w.Mutations, order(m.Instance, desired))
			}
			ordered++
		}
	}
	if ordered > 0 && !begun {
		next := proto.CloneOf(svc)
		next.Status.DeployTime = timestamppb.New(now)
		w.Mutations = append(w.Mutations, state.Put(svc.GetMeta().GetRevision(), next))
		w.Events = append(w.Events, serviceEvent(svc, now, fleetv1.EventNormal, "Restarting",
			fmt.Sprintf("at most %d instances of a version at once", max(1, svc.GetSpec().GetMaxInvalidInstances()))+by(svc)))
	}
}

// isDown says whether a unit doesn't serve, or won't once it has heard of its restart.
func isDown(u unit) bool {
	return !u.ready || slices.ContainsFunc(u.members, func(m member) bool { return m.GetDesired().GetRestart() > m.GetObserved().GetRestarted() })
}

// restarting says whether a restart has been asked for that is not done. A deployment that has not begun
// starts every instance anyway.
func restarting(svc *fleetv1.Service) bool {
	return svc.GetDesired().GetState() == fleetv1.DesiredRunning && svc.GetStatus() != nil && !begins(svc) &&
		svc.GetDesired().GetRestart() > svc.GetStatus().GetRestarted()
}

// needsRestart says whether the instance is still to be told of the present restart.
func needsRestart(svc *fleetv1.Service, m member, begun bool) bool {
	if m.GetDesired().GetRestart() >= svc.GetDesired().GetRestart() {
		return false
	}
	made, began := m.GetMeta().GetCreateTime().AsTime(), svc.GetStatus().GetDeployTime().AsTime()
	return !begun || made.Before(began)
}

// begins says whether the service has been asked to run and its status does not know of it yet.
func begins(svc *fleetv1.Service) bool {
	st := svc.GetStatus()
	switch st.GetState() {
	case "", fleetv1.ServiceStopped, fleetv1.ServiceStopping:
		return true
	}
	return st.GetDeployTime() == nil || st.GetDeployTime().AsTime().Before(svc.GetDesired().GetStartTime().AsTime())
}
