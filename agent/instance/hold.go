package instance

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"time"

	"google.golang.org/protobuf/proto"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
	"github.com/drover-fleet/drover/runtime"
)

// Hold answers what the node keeps though it isn't assigned, or is removing since an operator has confirmed it;
// nil when there is none and removals aren't held.
func (g *Manager) Hold() *fleetv1.NodeHold {
	header := g.cfg.Journal.Header()
	hold := &fleetv1.NodeHold{RestoreEpoch: header.RestoreEpoch, Removing: !header.HoldRemovals}
	for _, m := range g.all() {
		if s := m.stranger(); s != nil {
			hold.Strangers = append(hold.Strangers, s)
		}
	}
	g.mu.Lock()
	hold.Strangers = append(hold.Strangers, g.unexplained...)
	g.mu.Unlock()
	if hold.Removing && len(hold.Strangers) == 0 {
		return nil
	}
	slices.SortFunc(hold.Strangers, func(a, b *fleetv1.Stranger) int {
		return cmp.Or(cmp.Compare(a.GetInstanceId(), b.GetInstanceId()), cmp.Compare(a.GetInstanceName(), b.GetInstanceName()))
	})
	return hold
}

// stranger describes an instance that is kept; nil for one that isn't, or of which nothing is left.
func (m *machine) stranger() *fleetv1.Stranger {
	m.mu.Lock()
	defer m.mu.Unlock()
	in := m.rec.Instance
	if !m.rec.Kept || in.GetObserved().GetState() == fleetv1.InstanceReaped {
		return nil
	}
	s := &fleetv1.Stranger{
		InstanceId: m.id, InstanceName: in.GetMeta().GetName(), Service: in.GetSpec().GetServiceName(), Project: in.GetMeta().GetProject(),
		DeviceIds: slices.Clone(in.GetSpec().GetDeviceIds()), State: in.GetObserved().GetState(),
	}
	if in.GetObserved().GetPid() != 0 {
		s.StartTime = proto.CloneOf(in.GetObserved().GetStartTime())
	}
	return s
}

// keeps says whether something may be on the node that isn't assigned to it.
func (g *Manager) keeps() bool {
	g.mu.Lock()
	unsure := g.cfg.Journal.Header().HoldRemovals && g.known < g.sets || len(g.unexplained) > 0
	g.mu.Unlock()
	return unsure || slices.ContainsFunc(g.all(), func(m *machine) bool { return m.stranger() != nil })
}

// unassign notes that the set no longer names the instance, which is kept while removals are held. What was to go
// before that goes.
func (m *machine) unassign(held bool) (wait func() error) {
	m.mu.Lock()
	if m.rec.Absent || held && m.rec.Kept {
		m.mu.Unlock()
		return nil
	}
	if held {
		m.rec.Kept = true
	} else {
		m.rec.Absent = true
	}
	return m.wished()
}

// waitForStrangers holds an instance back that was assigned while the node kept others, whose devices and memory it
// may have been given.
func (m *machine) waitForStrangers() outcome {
	if m.g.keeps() {
		m.explain("waits for instances to go that the restored cluster doesn't know: see `drover cluster restore --pending`")
		return outcome{}
	}
	m.mu.Lock()
	m.rec.Waits = false
	m.mu.Unlock()
	m.save(func(o *fleetv1.InstanceObserved) { o.Reason = "" })
	return again
}

// holdChanged tells, and wakes those that wait.
func (g *Manager) holdChanged() {
	g.cfg.HoldChanged()
	for _, m := range g.all() {
		m.mu.Lock()
		waits := m.rec.Waits
		m.mu.Unlock()
		if waits {
			notify(m.wake)
		}
	}
}

// removeStrangers deletes containers that no record explains, once that can be known.
func (g *Manager) removeStrangers(ctx context.Context) {
	retry := time.NewTimer(0)
	defer retry.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-g.strange:
		case <-retry.C:
		}
		if err := g.removeStrangersOnce(ctx); err != nil && ctx.Err() == nil {
			g.cfg.Logger.Warn("containers can't be compared with the journal; trying again", "error", err)
			retry.Reset(5 * time.Second)
		}
	}
}

func (g *Manager) removeStrangersOnce(ctx context.Context) error {
	g.mu.Lock()
	sets, current := g.sets, g.current
	g.mu.Unlock()
	held := g.cfg.Journal.Header().HoldRemovals
	listCtx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	all, err := g.cfg.Runtime.List(listCtx)
	if err != nil {
		return err
	}
	var kept []*fleetv1.Stranger
	for _, st := range all {
		instance, attempt, ok := splitID(st.ID)
		if !ok {
			continue // not named by an agent
		}
		m := g.find(instance)
		switch {
		case m != nil && attempt == m.attempt():
			continue
		case held:
			kept = append(kept, &fleetv1.Stranger{InstanceId: instance, InstanceName: st.ID, State: "container", Service: st.Labels[runtime.LabelService]})
			continue
		case m == nil && !current:
			continue // the scheduler may know it
		}
		g.cfg.Logger.Info("removing a container that belongs to no instance of this node", "container", st.ID, "service", st.Labels[runtime.LabelService])
		deleteCtx, cancel := context.WithTimeout(ctx, patience)
		deleteErr := g.cfg.Runtime.Delete(deleteCtx, st.ID)
		cancel()
		err = errors.Join(err, deleteErr)
	}
	if err == nil { // else what is left may still be on devices
		g.mu.Lock()
		g.unexplained, g.known = kept, sets
		g.mu.Unlock()
		g.holdChanged()
	}
	return err
}
