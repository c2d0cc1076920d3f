package reconcile

import (
	"fmt"
	"slices"
	"strings"
	"time"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
	"github.com/drover-fleet/drover/scheduler/place"
	"github.com/drover-fleet/drover/scheduler/state"
)

const (
	// maxPreempting is for how many wishes one pass looks for room to be made: that costs a look at many nodes.
	maxPreempting = 32
	// askAgain is after how long the planner is asked again for whom it found nobody; then twice as long, up to
	// askAtLeast.
	askAgain   = time.Second
	askAtLeast = time.Minute
)

// preempter finds who is to make room. ok is false when stopping others doesn't help. Without victims the request
// fits on the nodes once what is stopping there has ended.
type preempter interface {
	Preempt(r *place.Request) (nodes, victims []string, ok bool)
}

// preempt has instances of less priority stopped for wishes that fit nowhere. Their nodes are kept for the wish, and
// it is placed when they have ended: a device has one holder. Room is made for one logical instance of a wish after
// the other, and who comes later in the line waits until an earlier wish of its pool has all it needs: else he
// would stop those that are to make room for it next.
func (l *serviceLoop) preempt(c *commits, view state.ReadView, line []*wish, now time.Time) {
	planner := l.preempter(l.index)
	chosen, busy := map[string]bool{}, map[string]bool{} // instances; pools
	looked := 0
	for _, w := range line {
		pool := w.svc.GetSpec().GetPool()
		if !w.unfit || w.version.GetPriority() <= 0 || looked >= maxPreempting || busy[pool] {
			continue
		}
		if now.Before(w.ask) {
			busy[pool] = len(w.making) > 0 && w.missing > 1
			continue
		}
		looked++
		nodes, victims, ok := planner.Preempt(&w.request)
		if ok {
			w.askPause = askAgain
		} else {
			w.making, w.askPause = nil, min(max(2*w.askPause, askAgain), askAtLeast)
		}
		w.ask = now.Add(w.askPause)
		w.due = earlier(w.due, w.ask)
		l.wakeAt(w.service(), w.due)
		if !ok {
			continue
		}
		busy[pool] = w.missing > 1
		if slices.ContainsFunc(victims, func(id string) bool { return chosen[id] }) {
			continue // somebody else gets that room: look for other when that is under way
		}
		if len(victims) > 0 {
			for _, id := range victims {
				chosen[id] = true
			}
			c.add(preemption(view, w, nodes, victims, now), w)
		}
		if !slices.Equal(w.making, nodes) {
			w.making, w.fresh = nodes, true // so that the nodes are kept for it
		}
	}
}

// preemption is the part of a plan that asks the victims to stop.
func preemption(view state.ReadView, w *wish, nodes, victims []string, now time.Time) *fleetv1.PlanPart {
	meta := w.svc.GetMeta()
	part := &fleetv1.PlanPart{ServiceId: meta.GetId(), ServiceGeneration: meta.GetGeneration()}
	reason := fmt.Sprintf("preempted by service %s, which has priority %d", meta.GetName(), w.version.GetPriority())
	var names []string
	for _, id := range victims {
		inst := view.Instance(id)
		part.Preemptions = append(part.Preemptions, &fleetv1.Preemption{InstanceId: id, Revision: inst.GetMeta().GetRevision(), Reason: reason})
		part.Events = append(part.Events, instanceEvent(inst, view.Node(inst.GetSpec().GetNode()), now, fleetv1.EventWarning, "InstancePreempted", reason))
		names = append(names, inst.GetMeta().GetName())
	}
	part.Events = append(part.Events, serviceEvent(w.svc, now, fleetv1.EventNormal, "Preempting",
		fmt.Sprintf("%s stopped to make room on %s: %s", count(len(victims), "instance of less priority is", "instances of less priority are"), strings.Join(nodes, ", "), strings.Join(names, ", "))))
	return part
}
