package api

import (
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
	"github.com/drover-fleet/drover/scheduler/place"
	"github.com/drover-fleet/drover/scheduler/state"
)

// moves says how far a drain has got with what is still there. Whom an instance is replaced by is not stored: those
// of its version that are on their way are taken for it, in order.
func (d drained) moves(view state.ReadView) []*fleetv1.DrainMove {
	var moves []*fleetv1.DrainMove
	coming := map[string][]string{} // by service and version: where replacements are on their way
	taken := map[string]string{}    // by gang: where it goes
	for _, i := range d.instances(view) {
		m, s := newMove(i), i.GetSpec()
		moves = append(moves, m)
		key := s.GetServiceId() + " " + place.VersionKey(s.GetModel(), s.GetModelVersion())
		if _, known := coming[key]; !known {
			coming[key] = replacements(view, i)
		}
		gang := s.GetGang().GetId()
		switch {
		case !stays(i):
			m.State, m.Detail = moveStopping, i.GetDesired().GetReason()
		case gang != "" && taken[gang] != "":
			m.State, m.Target = moveReplacing, taken[gang]
		case len(coming[key]) > 0:
			m.State, m.Target = moveReplacing, coming[key][0]
			coming[key] = coming[key][1:]
			taken[gang] = m.Target
		default:
			m.State, m.Detail = moveWaiting, versionStatusOf(view, i).GetWaitingReason()
		}
	}
	return moves
}

// replacements are where instances of the same version are on their way that are not to leave themselves: oldest
// first, a gang as one.
func replacements(view state.ReadView, of *fleetv1.Instance) []string {
	var order []string
	nodes := map[string][]string{}
	ready := map[string]bool{}
	for _, i := range view.InstancesOfService(of.GetSpec().GetServiceId()) {
		s := i.GetSpec()
		if s.GetModel() != of.GetSpec().GetModel() || s.GetModelVersion() != of.GetSpec().GetModelVersion() || !stays(i) || i.GetDesired().GetLeave() != nil {
			continue
		}
		id := i.GetMeta().GetId()
		if g := s.GetGang().GetId(); g != "" {
			id = g
		}
		if nodes[id] == nil {
			order, ready[id] = append(order, id), true
		}
		nodes[id] = append(nodes[id], s.GetNode())
		ready[id] = ready[id] && i.GetObserved().GetReady()
	}
	var out []string
	for _, id := range order {
		if !ready[id] {
			out = append(out, strings.Join(nodes[id], ", "))
		}
	}
	return out
}

func versionStatusOf(view state.ReadView, i *fleetv1.Instance) *fleetv1.ServiceVersionStatus {
	return versionStatus(view.ServiceByID(i.GetSpec().GetServiceId()),
		&fleetv1.ServiceVersion{Model: i.GetSpec().GetModel(), ModelVersion: i.GetSpec().GetModelVersion()})
}

// leaver is an instance that a drain would move: a single one, or a gang with a member there.
type leaver struct {
	*waiter
	moves []*fleetv1.DrainMove
}

// foresee says what a drain would do now with what is there.
func (s *nodeServer) foresee(d drained, deadline bool, now time.Time) []*fleetv1.DrainMove {
	var moves []*fleetv1.DrainMove
	s.planner.ask(func(sc *scene) {
		sc.setNode(d.closed("", "", now))
		var leavers []*leaver
		gangs := map[string]*leaver{}
		for _, i := range d.instances(sc) {
			m := newMove(i)
			moves = append(moves, m)
			if !stays(i) {
				m.State, m.Detail = moveStopping, i.GetDesired().GetReason()
				continue
			}
			gang := i.GetSpec().GetGang().GetId()
			if l := gangs[gang]; l != nil {
				l.moves = append(l.moves, m)
				continue
			}
			w := waiterFor(sc, i, now)
			if w == nil {
				m.State, m.Detail = moveStopping, "its service no longer asks for it"
				continue
			}
			w.order = len(leavers)
			l := &leaver{w, []*fleetv1.DrainMove{m}}
			if leavers = append(leavers, l); gang != "" {
				gangs[gang] = l
			}
			sc.leave(i)
		}
		sc.settle()
		line := sc.waiting("")
		for _, l := range leavers {
			line = append(line, l.waiter)
		}
		sc.plan(line)
		for _, l := range leavers {
			l.tell(sc, deadline)
		}
	})
	return moves
}

// waiterFor asks for a replacement of an instance; nil when its service doesn't.
func waiterFor(view state.ReadView, i *fleetv1.Instance, now time.Time) *waiter {
	service := view.ServiceByID(i.GetSpec().GetServiceId())
	if service.GetDesired().GetState() != fleetv1.DesiredRunning {
		return nil
	}
	at := slices.IndexFunc(service.GetSpec().GetVersions(), func(v *fleetv1.ServiceVersion) bool {
		return v.GetModel() == i.GetSpec().GetModel() && v.GetModelVersion() == i.GetSpec().GetModelVersion()
	})
	if at < 0 {
		return nil
	}
	w := newWaiter(view, service, service.GetSpec().GetVersions()[at], now)
	if w != nil {
		w.count = 1
	}
	return w
}

// leave has an instance leave in the scene, with all of its gang.
func (s *scene) leave(i *fleetv1.Instance) {
	all := []*fleetv1.Instance{i}
	if gang := i.GetSpec().GetGang().GetId(); gang != "" {
		all = s.InstancesOfGang(gang)
	}
	for _, member := range all {
		member = proto.CloneOf(member)
		member.Desired.Leave = &fleetv1.Leave{Cause: fleetv1.LeaveDrain}
		s.setInstance(member)
	}
}

// tell says where the replacement would go, or why it would wait.
func (l *leaver) tell(s *scene, deadline bool) {
	for _, m := range l.moves {
		if len(l.placed) > 0 {
			var nodes []string
			for _, member := range l.placed[0] {
				nodes = append(nodes, member.Node)
			}
			m.State, m.Target = moveReplacing, strings.Join(nodes, ", ")
			continue
		}
		m.State, m.Detail = moveWaiting, s.index.Explain(&l.request).GetSummary()
		if deadline && m.GetPreemptible() {
			m.Detail = "stopped at the deadline unless there is room by then: " + m.Detail
		}
	}
}
