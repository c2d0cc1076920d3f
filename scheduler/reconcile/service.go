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
	dirty  map[string]bool      // IDs of services to look at
	wakes  map[string]time.Time // and when to look again at others
	memory map[string]*memory   // by service ID

	pullWake chan struct{} // capacity 1
	mu       sync.Mutex
	pulled   map[string]bool // IDs of instances whose pull has moved on
}

func newServiceLoop(cfg Config) *serviceLoop {
	return &serviceLoop{proposer: proposer{cfg}, dirty: map[string]bool{}, wakes: map[string]time.Time{},
		memory: map[string]*memory{}, pullWake: make(chan struct{}, 1), pulled: map[string]bool{}}
}

func (l *serviceLoop) run(ctx context.Context) error {
	defer l.cfg.Sessions.OnPull(l.onPull)()
	deliveries := make(chan delivery)
	var feedErr error
	var feeding sync.WaitGroup
	feed := l.cfg.State.Subscribe()
	feeding.Go(func() { feedErr = deliver(ctx, feed, deliveries) })
	defer feeding.Wait()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case d, ok := <-deliveries:
			if !ok {
				feeding.Wait()
				return feedErr
			}
			l.mark(d)
		case <-l.pullWake:
			l.pullsMoved()
		case <-timer.C:
		}
		for more := true; more; {
			select {
			case d, ok := <-deliveries:
				if more = ok; ok {
					l.mark(d)
				}
			default:
				more = false
			}
		}
		l.due()
		if len(l.dirty) > 0 && ctx.Err() == nil {
			l.pass(ctx)
		}
		timer.Reset(l.next())
	}
}

// due marks the services whose time has come.
func (l *serviceLoop) due() {
	now := l.cfg.Now()
	for id, at := range l.wakes {
		if !now.Before(at) {
			delete(l.wakes, id)
			l.dirty[id] = true
		}
	}
}

// next is how long nothing is due.
func (l *serviceLoop) next() time.Duration {
	wait := time.Hour
	now := l.cfg.Now()
	for _, at := range l.wakes {
		wait = min(wait, at.Sub(now))
	}
	return max(wait, 0)
}

// wakeAt has the service looked at again then, or earlier.
func (l *serviceLoop) wakeAt(id string, at time.Time) {
	if at.IsZero() {
		return
	}
	if old, ok := l.wakes[id]; !ok || at.Before(old) {
		l.wakes[id] = at
	}
}

// mark notes which services the changes concern.
func (l *serviceLoop) mark(d delivery) {
	if d.resync {
		view := l.cfg.State.View()
		for _, svc := range view.Services("") {
			l.dirty[svc.GetMeta().GetId()] = true
		}
		for _, inst := range view.Instances() { // of services that were lost with a restore, too
			l.dirty[inst.GetSpec().GetServiceId()] = true
		}
	}
	for _, set := range d.sets {
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
			for _, inst := range l.cfg.State.View().InstancesOnNode(c.Key.Key) {
				if state.FailedDevice(after, inst) != state.FailedDevice(before, inst) {
					l.dirty[inst.GetSpec().GetServiceId()] = true
				}
			}
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
func (l *serviceLoop) pass(ctx context.Context) {
	ids := slices.Sorted(maps.Keys(l.dirty))
	clear(l.dirty)
	now := l.cfg.Now()
	for _, id := range ids {
		l.attempt(ctx, id, "instances not settled", func(view state.ReadView) *fleetv1.Write { return l.settle(view, id, now) })
	}
	l.place(ctx, ids, now)
	for _, id := range ids {
		done := l.attempt(ctx, id, "status not written", func(view state.ReadView) *fleetv1.Write { return l.status(view, id, now) })
		if m := l.memory[id]; done && m != nil {
			m.gaveUp = ""
		}
	}
}

// attempt commits one write for a service; what fails is tried again after a while.
func (l *serviceLoop) attempt(ctx context.Context, id, failure string, compute func(state.ReadView) *fleetv1.Write) bool {
	done, err := l.write(ctx, compute)
	if err != nil && ctx.Err() == nil {
		l.cfg.Logger.Warn(failure, "service", id, "error", err)
	}
	if !done {
		l.wakeAt(id, l.cfg.Now().Add(retryDelay))
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
func (l *serviceLoop) pullsMoved() {
	l.mu.Lock()
	ids := slices.Sorted(maps.Keys(l.pulled))
	clear(l.pulled)
	l.mu.Unlock()
	view := l.cfg.State.View()
	for _, id := range ids {
		s := view.Instance(id).GetSpec()
		if m := l.memory[s.GetServiceId()]; m != nil {
			m.clock(versionKey(s.GetModel(), s.GetModelVersion())).progress(l.cfg.Now())
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
	delete(l.wakes, id)
}
