package reconcile

import (
	"context"
	"maps"
	"slices"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
	"github.com/drover-fleet/drover/scheduler/state"
)

// serviceLoop makes services what they are asked to be. All but pulled is used by its one goroutine.
type serviceLoop struct {
	proposer
	dirty   map[string]bool      // IDs of services to look at
	wakeups map[string]time.Time // and when to look again at others
	memory  map[string]*memory   // by service ID

	feed        state.Feed
	forgetPulls func()
	pullWake    chan struct{} // capacity 1
	mu          sync.Mutex
	pulled      map[string]bool // IDs of instances whose pull has moved on
}

func newServiceLoop(cfg Config) *serviceLoop {
	l := &serviceLoop{proposer: proposer{cfg}, dirty: map[string]bool{}, wakeups: map[string]time.Time{},
		memory: map[string]*memory{}, feed: cfg.State.Subscribe(), pullWake: make(chan struct{}, 1), pulled: map[string]bool{}}
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
	if len(l.dirty) > 0 && ctx.Err() == nil {
		l.pass(ctx, now)
		l.collect(now)
	}
	if len(l.dirty) > 0 {
		return now
	}
	for _, at := range l.wakeups {
		next = earlier(next, at)
	}
	return next
}

// collect marks what has changed and whose time has come.
func (l *serviceLoop) collect(now time.Time) {
	sets, resync, err := l.feed.Poll()
	if err != nil {
		l.cfg.Logger.Error("the store's changes are not heard of", "error", err)
	}
	l.mark(sets, resync)
	l.pullsMoved(now)
	l.due(now)
}

// due marks the services whose time has come.
func (l *serviceLoop) due(now time.Time) {
	for id, at := range l.wakeups {
		if !now.Before(at) {
			delete(l.wakeups, id)
			l.dirty[id] = true
		}
	}
}

// wakeAt has the service looked at again then, or earlier.
func (l *serviceLoop) wakeAt(id string, at time.Time) {
	if !at.IsZero() {
		l.wakeups[id] = earlier(l.wakeups[id], at)
	}
}

// mark notes which services the changes concern.
func (l *serviceLoop) mark(sets []state.ChangeSet, resync bool) {
	if resync {
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
			l.markWaiting()
		}
	case fleetv1.KindNode:
		before, after := c.Before.GetNode(), c.After.GetNode()
		if before.GetStatus().GetState() != after.GetStatus().GetState() || after == nil {
			for _, inst := range l.cfg.State.View().InstancesOnNode(c.Key.Key) {
				l.dirty[inst.GetSpec().GetServiceId()] = true
			}
			l.markWaiting()
		} else if !proto.Equal(before.GetSpec(), after.GetSpec()) || !proto.Equal(before.GetFacts(), after.GetFacts()) {
			l.markWaiting()
		}
	case fleetv1.KindPool, fleetv1.KindFlavor, fleetv1.KindModel:
		l.markWaiting()
	}
}

// markWaiting marks the services that wait for a node: something may have become free.
func (l *serviceLoop) markWaiting() {
	for id, m := range l.memory {
		if len(m.waiting) > 0 {
			l.dirty[id] = true
		}
	}
}

// pass looks at every dirty service.
func (l *serviceLoop) pass(ctx context.Context, now time.Time) {
	ids := slices.Sorted(maps.Keys(l.dirty))
	clear(l.dirty)
	for _, id := range ids {
		l.attempt(ctx, now, id, "instances not settled", func(view state.ReadView) *fleetv1.Write { return l.settle(view, id, now) })
	}
	l.place(ctx, ids, now)
	for _, id := range ids {
		done := l.attempt(ctx, now, id, "status not written", func(view state.ReadView) *fleetv1.Write { return l.status(view, id, now) })
		if m := l.memory[id]; done && m != nil {
			m.gaveUp = ""
		}
	}
}

// attempt commits one write for a service; what fails is tried again after a while.
func (l *serviceLoop) attempt(ctx context.Context, now time.Time, id, failure string, compute func(state.ReadView) *fleetv1.Write) bool {
	done, err := l.write(ctx, compute)
	if err != nil && ctx.Err() == nil {
		l.cfg.Logger.Warn(failure, "service", id, "error", err)
	}
	if !done {
		l.wakeAt(id, now.Add(retryDelay))
	}
	return done
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
		m = &memory{waiting: map[string]string{}, remedies: map[string]string{}, clocks: map[string]*clock{}, failures: map[string]*failures{}}
		l.memory[id] = m
	}
	return m
}

// forget drops what belongs to a service that is gone.
func (l *serviceLoop) forget(id string) {
	delete(l.memory, id)
	delete(l.wakeups, id)
}
