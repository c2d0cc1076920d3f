package reconcile

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
	"github.com/drover-fleet/drover/scheduler/state"
)

// drainLoop has instances leave nodes and devices that are being drained, and ends a drain that is done. The service
// loop replaces what leaves.
type drainLoop struct {
	proposer
	feed     state.Feed
	draining map[string]bool      // nodes with a drain, of their own or of a device
	dirty    map[string]bool      // nodes to look at
	later    agenda               // and when to look at others
	late     map[string]time.Time // drain → deadline of which it has been told that it has passed
}

func newDrainLoop(cfg Config) *drainLoop {
	return &drainLoop{proposer: proposer{cfg}, feed: cfg.State.Subscribe(), draining: map[string]bool{}, dirty: map[string]bool{},
		late: map[string]time.Time{}}
}

func (l *drainLoop) end() { l.feed.Close() }

func (l *drainLoop) wakes() (feed, told <-chan struct{}) { return l.feed.Ready(), nil }

func (l *drainLoop) step(ctx context.Context, now time.Time) (next time.Time) {
	l.collect(now)
	if state.RemovalsHeld(l.cfg.State.View()) {
		clear(l.dirty)
		return time.Time{}
	}
	w := &writing{proposer: l.proposer, ctx: ctx, what: "drains not carried on",
		compute: func(node string) []*fleetv1.Write {
			return []*fleetv1.Write{l.judge(l.cfg.State.View(), node, now)}
		}}
	for node := range w.all(slices.Sorted(maps.Keys(l.dirty))) {
		l.later.at(node, now.Add(retryDelay))
	}
	clear(l.dirty)
	l.collect(now)
	if len(l.dirty) > 0 && ctx.Err() == nil {
		return now
	}
	return l.later.next()
}

// collect marks the nodes that have changed or whose time has come.
func (l *drainLoop) collect(now time.Time) {
	sets, resync, err := l.feed.Poll()
	if err != nil {
		l.cfg.Logger.Error("the store's changes are not heard of", "error", err)
	}
	if resync || slices.ContainsFunc(sets, confirms) {
		l.resync()
	}
	for _, set := range sets {
		for _, c := range set.Changes {
			l.mark(c)
		}
	}
	l.later.due(now, func(name string) { l.dirty[name] = true })
}

func (l *drainLoop) resync() {
	view := l.cfg.State.View()
	clear(l.draining)
	for _, n := range view.Nodes() {
		if drains(n) {
			l.draining[n.GetMeta().GetName()], l.dirty[n.GetMeta().GetName()] = true, true
		}
	}
	for _, inst := range view.Instances() { // a drain may have been cancelled meanwhile
		if inst.GetDesired().GetLeave().GetCause() == fleetv1.LeaveDrain {
			l.dirty[inst.GetSpec().GetNode()] = true
		}
	}
}

func (l *drainLoop) mark(c state.Change) {
	switch c.Key.Kind {
	case fleetv1.KindNode:
		is := drains(c.After.GetNode())
		if is || l.draining[c.Key.Key] {
			l.dirty[c.Key.Key] = true
		}
		if delete(l.draining, c.Key.Key); is {
			l.draining[c.Key.Key] = true
		}
	case fleetv1.KindInstance:
		node := c.After.GetInstance().GetSpec().GetNode()
		if c.After == nil {
			node = c.Before.GetInstance().GetSpec().GetNode()
		}
		if l.draining[node] {
			l.dirty[node] = true
		}
	}
}

// drains says whether the node or a device of it is being drained.
func drains(n *fleetv1.Node) bool {
	return n.GetSpec().GetDrain() != nil ||
		slices.ContainsFunc(n.GetSpec().GetDeviceCordons(), func(c *fleetv1.DeviceCordon) bool { return c.GetDrain() != nil })
}

// judge is the write that has instances of the node leave, or stay when they need not, and that ends drains which
// are done. It's empty when nothing is to be done.
func (l *drainLoop) judge(view state.ReadView, name string, now time.Time) *fleetv1.Write {
	node := view.Node(name)
	if node == nil {
		return nil
	}
	drained := drainedDevices(node)
	w := &fleetv1.Write{}
	here := view.InstancesOnNode(name)
	for _, inst := range here {
		if inst.GetDesired().GetState() == fleetv1.DesiredStopped || len(w.GetMutations()) >= maxMutations {
			continue
		}
		drain, has := node.GetSpec().GetDrain(), inst.GetDesired().GetLeave()
		for _, d := range inst.GetSpec().GetDeviceIds() {
			if drain == nil {
				drain = drained[d]
			}
		}
		switch {
		case drain != nil && (has.GetCause() != fleetv1.LeaveDrain || !proto.Equal(has.GetDeadline(), drain.GetDeadline())):
			w.Mutations = append(w.Mutations, leave(inst, &fleetv1.Leave{Cause: fleetv1.LeaveDrain, Deadline: drain.GetDeadline(), Target: has.GetTarget()}))
			if has.GetCause() != fleetv1.LeaveDrain {
				w.Events = append(w.Events, instanceEvent(inst, node, now, fleetv1.EventNormal, "InstanceLeaving", "it is replaced elsewhere first: "+leaving(node, drain)))
			}
		case drain == nil && has.GetCause() == fleetv1.LeaveDrain:
			w.Mutations = append(w.Mutations, leave(inst, nil))
		}
	}
	l.finish(node, here, drained, w, now)
	return w
}

func leave(inst *fleetv1.Instance, to *fleetv1.Leave) *fleetv1.Mutation {
	desired := proto.CloneOf(inst.GetDesired())
	desired.Leave = to
	return order(inst, desired)
}

// leaving says what is being drained, and why.
func leaving(node *fleetv1.Node, drain *fleetv1.Drain) string {
	what := "a device of it is being drained"
	if drain == node.GetSpec().GetDrain() {
		what = "its node " + node.GetMeta().GetName() + " is being drained"
	}
	if drain.GetReason() != "" {
		what += " (" + drain.GetReason() + ")"
	}
	return what
}

// drainedDevices are the drains by device; a slice is drained with the device that it is cut from.
func drainedDevices(n *fleetv1.Node) map[string]*fleetv1.Drain {
	all := map[string]*fleetv1.Drain{}
	for _, c := range n.GetSpec().GetDeviceCordons() {
		if c.GetDrain() != nil {
			all[c.GetDeviceId()] = c.GetDrain()
		}
	}
	for _, d := range n.GetFacts().GetDevices() {
		if drain := all[d.GetParentId()]; drain != nil && all[d.GetId()] == nil {
			all[d.GetId()] = drain
		}
	}
	return all
}

// finish ends the drains of which nothing is left, and tells of those whose deadline has passed. The cordons stay.
func (l *drainLoop) finish(node *fleetv1.Node, here []*fleetv1.Instance, drained map[string]*fleetv1.Drain, w *fleetv1.Write, now time.Time) {
	name := node.GetMeta().GetName()
	next := proto.CloneOf(node)
	tell := func(kind, reason, message string) {
		w.Events = append(w.Events, &fleetv1.Event{Time: timestamppb.New(now), Type: kind, Reason: reason, Message: message,
			Objects: []*fleetv1.ObjectRef{state.NodeRef(name, node)}})
	}
	changed := false
	if drain := node.GetSpec().GetDrain(); drain != nil {
		if len(here) == 0 {
			next.Spec.Drain, changed = nil, true
			tell(fleetv1.EventNormal, "NodeDrained", "nothing is left on it"+after(drain, now))
		} else if l.overdue(name, "", drain, now) {
			tell(fleetv1.EventWarning, "DrainOverdue", fmt.Sprintf("the deadline has passed; %s left, and waits to be replaced unless it is preemptible", count(len(here), "instance is", "instances are")))
		}
	}
	for i, c := range node.GetSpec().GetDeviceCordons() {
		if c.GetDrain() == nil {
			continue
		}
		holders := 0
		for _, inst := range here {
			if slices.ContainsFunc(inst.GetSpec().GetDeviceIds(), func(d string) bool { return drained[d] == c.GetDrain() }) {
				holders++
			}
		}
		if holders == 0 {
			next.Spec.DeviceCordons[i].Drain, changed = nil, true
			tell(fleetv1.EventNormal, "DeviceDrained", "nobody holds device "+c.GetDeviceId()+after(c.GetDrain(), now))
		} else if l.overdue(name, c.GetDeviceId(), c.GetDrain(), now) {
			tell(fleetv1.EventWarning, "DrainOverdue", fmt.Sprintf("the deadline for device %s has passed; %s there", c.GetDeviceId(), count(holders, "instance is", "instances are")))
		}
	}
	if changed {
		w.Mutations = append(w.Mutations, state.Put(node.GetMeta().GetRevision(), next))
	}
}

// after says how long a drain took.
func after(d *fleetv1.Drain, now time.Time) string {
	if d.GetStartTime() == nil {
		return ""
	}
	return " after " + now.Sub(d.GetStartTime().AsTime()).Round(time.Second).String()
}

// overdue says, once, that the deadline of a drain has passed, and otherwise notes to look again then.
func (l *drainLoop) overdue(node, device string, drain *fleetv1.Drain, now time.Time) bool {
	if drain.GetDeadline() == nil {
		return false
	}
	key, at := node+"/"+device, drain.GetDeadline().AsTime()
	if now.Before(at) {
		l.later.at(node, at)
		return false
	}
	if l.late[key].Equal(at) {
		return false
	}
	l.late[key] = at
	return true
}
