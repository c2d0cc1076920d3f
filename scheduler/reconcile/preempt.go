package reconcile

import (
	"cmp"
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
	// askAtLast is how long nobody is stopped for a wish for which it has been done in vain again and again.
	askAtLast = time.Hour
	// maxRooms is for how many instances of a version room is made at once.
	maxRooms = 16
)

// preempter finds who is to make room. ok is false when stopping others doesn't help. Without victims the request
// fits on the nodes once what is stopping there has ended.
type preempter interface {
	Preempt(r *place.Request) (nodes, victims []string, ok bool)
}

// room is where room is being made for one logical instance of a wish.
type room struct {
	nodes    []string
	clearing bool // something is still ending there
}

// keepRooms keeps what is being cleared for the wishes for which it is, held ones too.
func (l *serviceLoop) keepRooms() {
	var makers []*wish
	for w := range l.wishes {
		if len(w.rooms) > 0 {
			makers = append(makers, w)
		}
	}
	slices.SortFunc(makers, func(a, b *wish) int {
		return cmp.Or(cmp.Compare(a.service(), b.service()), cmp.Compare(a.key(), b.key()))
	})
	for _, w := range makers {
		for _, r := range w.rooms {
			r.clearing = l.index.Keep(&w.request, r.nodes)
		}
	}
}

// moveIn notes that an instance of the wish has been placed: a room that it uses is kept no more.
func (l *serviceLoop) moveIn(w *wish, members []place.Member) {
	w.vain, w.ask, w.askPause = 0, time.Time{}, 0
	w.rooms = slices.DeleteFunc(w.rooms, func(r *room) bool {
		return slices.ContainsFunc(members, func(m place.Member) bool { return slices.Contains(r.nodes, m.Node) })
	})
}

// leaveRooms gives up rooms beyond the first n.
func (l *serviceLoop) leaveRooms(w *wish, n int) {
	if len(w.rooms) > n {
		w.rooms, l.freed = w.rooms[:n], true
	}
}

// giveUp gives up rooms that are as they were to be, and yet didn't help: somebody of more priority took them, or
// their nodes are gone. Each time the wish waits longer before others are stopped for it again.
func (l *serviceLoop) giveUp(w *wish, now time.Time) {
	if !w.unfit && w.denied == 0 {
		return
	}
	before := len(w.rooms)
	w.rooms = slices.DeleteFunc(w.rooms, func(r *room) bool { return !r.clearing })
	if len(w.rooms) < before {
		w.ask = now.Add(min(askAgain<<min(w.vain, 16), askAtLast))
		w.vain++
		w.fresh, l.freed = w.fresh || w.unfit, true
	}
}

// resume has a new leader keep what is being cleared for the wish, which its reservation shows.
func (w *wish) resume(view state.ReadView) {
	ending := func(node string) bool {
		return slices.ContainsFunc(view.InstancesOnNode(node), func(i *fleetv1.Instance) bool {
			return i.GetDesired().GetState() == fleetv1.DesiredStopped && i.GetObserved().GetState() != fleetv1.InstanceReaped
		})
	}
	nodes := w.reservation.GetNodes()
	switch {
	case w.version.GetPriority() <= 0 || !slices.ContainsFunc(nodes, ending):
	case w.nodes() > 1:
		w.rooms = []*room{{nodes: nodes}}
	default:
		for _, n := range nodes {
			if ending(n) {
				w.rooms = append(w.rooms, &room{nodes: []string{n}})
			}
		}
	}
}

// preempt has instances of less priority stopped for wishes that fit nowhere. Their nodes are kept for the wish from
// then on, and it is placed when they have ended: a device has one holder. Of those that are kept for somebody of no
// less priority none is asked for, so nobody is stopped for who would not get the room. Who comes later in the line
// waits while an earlier wish of its pool may ask for more: else he would stop those that are to make room for it.
func (l *serviceLoop) preempt(c *commits, view state.ReadView, line []*wish, quota *allowance, now time.Time) {
	p := &preempting{preempter: l.preempter(l.index), loop: l, commits: c, view: view, chosen: map[string]bool{}, looks: maxPreempting}
	busy := map[string]bool{} // pools
	for _, w := range line {
		l.giveUp(w, now)
		pool := w.svc.GetSpec().GetPool()
		if !w.unfit || w.version.GetPriority() <= 0 || busy[pool] || now.Before(w.ask) {
			l.askLater(w, now)
			continue
		}
		want := min(w.missing, maxRooms)
		if slices.ContainsFunc(w.version.GetPlacement().GetSpread(), (*fleetv1.SpreadRule).GetRequired) {
			want = 1 // where the next may go depends on where this one goes
		}
		want, _ = quota.admit(w, want)
		for len(w.rooms) < want && p.looks > 0 && p.makeRoom(w, now) {
		}
		busy[pool] = len(w.rooms) < want && p.looks == 0
		if soon := now.Add(askAgain); len(w.rooms) < want && w.ask.Before(soon) {
			w.ask = soon
		}
		l.askLater(w, now)
	}
}

// askLater has the wish looked at when the planner may be asked again to make room for it.
func (l *serviceLoop) askLater(w *wish, now time.Time) {
	if w.unfit && now.Before(w.ask) && len(w.rooms) < w.missing {
		w.due = earlier(w.due, w.ask)
		l.wakeAt(w.service(), w.due)
	}
}

// preempting is one look for room to be made.
type preempting struct {
	preempter
	loop    *serviceLoop
	commits *commits
	view    state.ReadView
	chosen  map[string]bool // instances
	looks   int             // that are left
}

// makeRoom makes room for one more logical instance of the wish; false when it can't now.
func (p *preempting) makeRoom(w *wish, now time.Time) bool {
	p.looks--
	nodes, victims, ok := p.Preempt(&w.request)
	if !ok {
		w.askPause = min(max(2*w.askPause, askAgain), askAtLeast)
		w.ask = now.Add(w.askPause)
		return false
	}
	w.askPause = 0
	if slices.ContainsFunc(victims, func(id string) bool { return p.chosen[id] }) {
		return false // they stop already for somebody else, or on another of their nodes: that counts next time
	}
	for _, id := range victims {
		p.chosen[id] = true
	}
	if len(victims) > 0 {
		p.commits.add(preemption(p.view, w, nodes, victims, now), w)
	}
	p.loop.index.Keep(&w.request, nodes)
	w.rooms = append(w.rooms, &room{nodes: nodes, clearing: true})
	w.fresh = true // so that what is kept is shown
	return true
}

// preemption is the part of a plan that asks the victims to stop. Projects aren't told of each other's names.
func preemption(view state.ReadView, w *wish, nodes, victims []string, now time.Time) *fleetv1.PlanPart {
	meta := w.svc.GetMeta()
	part := &fleetv1.PlanPart{ServiceId: meta.GetId(), ServiceGeneration: meta.GetGeneration()}
	var names []string
	others := 0
	for _, id := range victims {
		inst, by := view.Instance(id), "service "+meta.GetName()
		if inst.GetMeta().GetProject() == meta.GetProject() {
			names = append(names, inst.GetMeta().GetName())
		} else {
			by = "a service of another project"
			others++
		}
		reason := fmt.Sprintf("preempted by %s, which has priority %d", by, w.version.GetPriority())
		part.Preemptions = append(part.Preemptions, &fleetv1.Preemption{InstanceId: id, Revision: inst.GetMeta().GetRevision(), Reason: reason})
		part.Events = append(part.Events, instanceEvent(inst, view.Node(inst.GetSpec().GetNode()), now, fleetv1.EventWarning, "InstancePreempted", reason))
	}
	if others > 0 {
		names = append(names, fmt.Sprintf("%d of other projects", others))
	}
	part.Events = append(part.Events, serviceEvent(w.svc, now, fleetv1.EventNormal, "Preempting",
		fmt.Sprintf("%s stopped to make room on %s: %s", count(len(victims), "instance of less priority is", "instances of less priority are"), strings.Join(nodes, ", "), strings.Join(names, ", "))))
	return part
}
