package reconcile

import (
	"context"
	"maps"
	"slices"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
	"github.com/drover-fleet/drover/scheduler/place"
	"github.com/drover-fleet/drover/scheduler/state"
)

// serviceLoop makes services what they are asked to be. All but pulled is used by its one goroutine.
type serviceLoop struct {
	proposer
	feed    state.Feed
	dirty   map[string]bool    // IDs of services to look at
	wakeups agenda             // of others: when to look again
	memory  map[string]*memory // by service ID
	looks   map[string]*look   // of the present pass
	gone    absences

	index     *place.Index                 // nil before the first plan and after a resync
	changes   []state.ChangeSet            // that the index has not heard of
	wishes    map[*wish]bool               // what services lack
	turns     map[string]*Turn             // at reserving, by pool
	planned   time.Time                    // when the line was planned last
	freed     bool                         // something may have become free: wishes that wait are planned again
	preempter func(*place.Index) preempter // the index itself but in tests
	ahead     bool                         // entries of a plan are made while others are being committed

	forgetPulls func()
	pullWake    chan struct{} // capacity 1
	mu          sync.Mutex
	pulled      map[string]bool // IDs of instances whose pull has moved on
}

func newServiceLoop(cfg Config) *serviceLoop {
	l := &serviceLoop{proposer: proposer{cfg}, dirty: map[string]bool{},
		memory: map[string]*memory{}, looks: map[string]*look{}, gone: absences{}, wishes: map[*wish]bool{}, turns: map[string]*Turn{}, feed: cfg.State.Subscribe(), pullWake: make(chan struct{}, 1), pulled: map[string]bool{}}
	l.preempter = func(x *place.Index) preempter { return x }
	l.forgetPulls = cfg.Sessions.OnPull(l.onPull)
	return l
}

func (l *serviceLoop) end() {
	l.forgetPulls()
	l.feed.Close()
}

func (l *serviceLoop) wakes() (feed, told <-chan struct{}) { return l.feed.Ready(), l.pullWake }

func (l *serviceLoop) step(ctx context.Context, now time.Time) (next time.Time) {
	l.collect(now)
	if ids := l.turn(now); len(ids) > 0 || l.unplanned(now) {
		l.pass(ctx, now, ids)
		l.collect(now)
	}
	switch {
	case ctx.Err() != nil:
		return time.Time{}
	case len(l.dirty) > 0 || l.unplanned(now):
		return now
	case l.freed:
		return earlier(l.wakeups.next(), l.planAgain())
	}
	return l.wakeups.next()
}

// turn answers the dirty services whose turn it is. A big service is not looked at again at once, so that its
// instances' reports are taken in together: looking costs what it has instances.
func (l *serviceLoop) turn(now time.Time) []string {
	var ids []string
	for id := range l.dirty {
		if m := l.memory[id]; m != nil {
			if at := m.looked.Add(pauseAfter(m.instances)); now.Before(at) {
				l.wakeAt(id, at)
				continue
			}
		}
		ids = append(ids, id)
	}
	clear(l.dirty)
	slices.Sort(ids)
	return ids
}

// collect marks what has changed and whose time has come.
func (l *serviceLoop) collect(now time.Time) {
	l.poll()
	l.pullsMoved(now)
	l.wakeups.due(now, func(id string) { l.dirty[id] = true })
}

// poll takes in what the store tells.
func (l *serviceLoop) poll() {
	sets, resync, err := l.feed.Poll()
	if err != nil {
		l.cfg.Logger.Error("the store's changes are not heard of", "error", err)
	}
	if resync {
		l.index, l.changes = nil, nil
	}
	if l.index != nil {
		if l.changes = append(l.changes, sets...); len(l.changes) > maxChanges {
			l.index.Refresh(l.cfg.State.View(), l.changes)
			l.changes = nil
		}
	}
	l.mark(sets, resync)
}

// wakeAt has the service looked at again then, or earlier.
func (l *serviceLoop) wakeAt(id string, at time.Time) { l.wakeups.at(id, at) }

// mark notes which services the changes concern.
func (l *serviceLoop) mark(sets []state.ChangeSet, resync bool) {
	if resync || slices.ContainsFunc(sets, confirms) {
		view := l.cfg.State.View()
		for _, svc := range view.Services("") {
			l.dirty[svc.GetMeta().GetId()] = true
		}
		for _, inst := range view.Instances() { // of services that were lost with a restore, too
			l.dirty[inst.GetSpec().GetServiceId()] = true
		}
	}
	for _, set := range sets {
		for _, c := range set.Changes {
			l.markChange(c)
		}
	}
}

// confirms says whether the loops may go on after a restore.
func confirms(set state.ChangeSet) bool {
	return slices.ContainsFunc(set.Changes, func(c state.Change) bool {
		return c.Key.Kind == fleetv1.KindCluster && c.Before.GetCluster().GetRemovalsConfirmed() != c.After.GetCluster().GetRemovalsConfirmed()
	})
}

func (l *serviceLoop) markChange(c state.Change) {
	switch c.Key.Kind {
	case fleetv1.KindService:
		for _, o := range []*fleetv1.Object{c.Before, c.After} {
			if svc := o.GetService(); svc != nil {
				l.dirty[svc.GetMeta().GetId()] = true
			}
		}
	case fleetv1.KindInstance:
		before, after := c.Before.GetInstance(), c.After.GetInstance()
		l.dirty[after.GetSpec().GetServiceId()] = true
		l.dirty[before.GetSpec().GetServiceId()] = true
		delete(l.dirty, "")
		if after == nil || after.GetObserved().GetState() == fleetv1.InstanceReaped {
			l.freed = true
		}
	case fleetv1.KindNode:
		l.markNode(c.Key.Key, c.Before.GetNode(), c.After.GetNode())
	case fleetv1.KindPool, fleetv1.KindFlavor, fleetv1.KindModel:
		for id := range l.waiting() {
			l.dirty[id] = true
		}
		l.freed = true
	case fleetv1.KindQuota:
		l.quotaChanged()
	}
}

func (l *serviceLoop) markNode(name string, before, after *fleetv1.Node) {
	switch st := after.GetStatus(); {
	case before.GetStatus().GetState() != st.GetState() || after == nil:
		for _, inst := range l.cfg.State.View().InstancesOnNode(name) {
			l.dirty[inst.GetSpec().GetServiceId()] = true
		}
		l.freed = true
	case st.GetAssignmentGeneration() == after.GetMeta().GetRevision():
		// Only what is placed on it has changed: instances tell that themselves.
	default:
		for _, inst := range l.cfg.State.View().InstancesOnNode(name) {
			if state.FailedDevice(after, inst) != state.FailedDevice(before, inst) {
				l.dirty[inst.GetSpec().GetServiceId()] = true
			}
		}
		l.freed = l.freed || !sameRoom(before, after)
	}
}

// sameRoom says whether a node takes what it took before. Which images it has decides nothing.
func sameRoom(a, b *fleetv1.Node) bool {
	f, g := a.GetFacts(), b.GetFacts()
	return proto.Equal(a.GetSpec(), b.GetSpec()) && state.Allocatable(a) == state.Allocatable(b) && f.GetArch() == g.GetArch() && state.KeepsStrangers(a) == state.KeepsStrangers(b) &&
		maps.Equal(f.GetLabels(), g.GetLabels()) && slices.Equal(f.GetMountDirs(), g.GetMountDirs()) &&
		slices.EqualFunc(f.GetDevices(), g.GetDevices(), func(d, e *fleetv1.Device) bool { return d == e || proto.Equal(d, e) })
}

// pass looks at the services, and places what is missing anywhere.
func (l *serviceLoop) pass(ctx context.Context, now time.Time, ids []string) {
	clear(l.looks)
	if !state.RemovalsHeld(l.cfg.State.View()) {
		l.writeEach(ctx, now, ids, "instances not settled", l.settle)
		for _, id := range ids {
			l.wish(l.look(id, now), now)
		}
		ids = append(ids, l.place(ctx, now)...)
	}
	slices.Sort(ids)
	ids = slices.DeleteFunc(slices.Compact(ids), func(id string) bool { return l.goesOn(id, now) })
	failed := l.writeEach(ctx, now, ids, "status not written", l.status)
	for _, id := range ids {
		if m := l.memory[id]; m != nil && !failed[id] {
			m.gaveUp = ""
		}
	}
	clear(l.looks)
}

// goesOn says whether more of a service is placed at once: its status can wait for that.
func (l *serviceLoop) goesOn(id string, now time.Time) bool {
	m := l.memory[id]
	if m == nil {
		return false
	}
	for _, w := range m.wishes {
		if w.fresh && w.missing > 0 && !w.held(now) && !begins(w.svc) {
			return true
		}
	}
	return false
}

func (l *serviceLoop) onPull(instance string) {
	l.mu.Lock()
	l.pulled[instance] = true
	l.mu.Unlock()
	select {
	case l.pullWake <- struct{}{}:
	default:
	}
}

// pullsMoved stops the clocks of versions whose images are on their way.
func (l *serviceLoop) pullsMoved(now time.Time) {
	l.mu.Lock()
	ids := slices.Sorted(maps.Keys(l.pulled))
	clear(l.pulled)
	l.mu.Unlock()
	view := l.cfg.State.View()
	for _, id := range ids {
		s := view.Instance(id).GetSpec()
		if m := l.memory[s.GetServiceId()]; m != nil {
			m.clock(versionKey(s.GetModel(), s.GetModelVersion())).progress(now)
		}
	}
}

// remembered is what the loop knows of a service besides the store.
func (l *serviceLoop) remembered(id string) *memory {
	m := l.memory[id]
	if m == nil {
		m = &memory{clocks: map[string]*clock{}, failures: map[string]*failures{}}
		l.memory[id] = m
	}
	return m
}

// forget drops what belongs to a service that is gone.
func (l *serviceLoop) forget(id string) {
	l.unwish(id)
	delete(l.memory, id)
	l.wakeups.drop(id)
}
