package reconcile

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
	"github.com/drover-fleet/drover/scheduler/state"
)

// livenessLoop writes node states from leases.
type livenessLoop struct {
	proposer
	forget func()
	wake   chan struct{} // capacity 1
	later  agenda        // nodes whose state could not be written, and when to try again

	mu    sync.Mutex
	dirty map[string]bool // names of nodes to look at
}

func newLivenessLoop(cfg Config) *livenessLoop {
	l := &livenessLoop{proposer: proposer{cfg}, wake: make(chan struct{}, 1), dirty: map[string]bool{}}
	l.forget = cfg.Sessions.OnLease(l.mark)
	for _, n := range cfg.State.View().Nodes() {
		l.mark(n.GetMeta().GetName())
	}
	return l
}

func (l *livenessLoop) end() { l.forget() }

func (l *livenessLoop) wakes() (feed, told <-chan struct{}) { return nil, l.wake }

func (l *livenessLoop) mark(node string) {
	l.mu.Lock()
	l.dirty[node] = true
	l.mu.Unlock()
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

func (l *livenessLoop) take(now time.Time) []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.later.due(now, func(node string) { l.dirty[node] = true })
	names := slices.Sorted(maps.Keys(l.dirty))
	clear(l.dirty)
	return names
}

func (l *livenessLoop) step(ctx context.Context, now time.Time) (next time.Time) {
	w := &writing{proposer: l.proposer, ctx: ctx, what: "node states not written",
		compute: func(node string) []*fleetv1.Write {
			return []*fleetv1.Write{l.judge(l.cfg.State.View(), node, now)}
		}}
	for node := range w.all(l.take(now)) {
		l.later.at(node, now.Add(retryDelay))
	}
	return l.later.next()
}

// judge is the write that brings the node's state in line with its lease, or nil.
func (l *livenessLoop) judge(view state.ReadView, name string, now time.Time) *fleetv1.Write {
	stored := view.Node(name)
	if stored == nil {
		return nil
	}
	want := fleetv1.NodeUnreachable
	if l.cfg.Sessions.LeaseValid(name) {
		want = fleetv1.NodeReady
	}
	if stored.GetStatus().GetState() == want {
		return nil
	}
	node := proto.CloneOf(stored)
	node.Status = &fleetv1.NodeStatus{State: want, StateTime: timestamppb.New(now)}
	w := &fleetv1.Write{Mutations: []*fleetv1.Mutation{state.Put(stored.GetMeta().GetRevision(), node)}}
	event := &fleetv1.Event{Time: timestamppb.New(now), Type: fleetv1.EventNormal, Reason: "NodeReturned", Message: "it is heard of again",
		Objects: []*fleetv1.ObjectRef{state.NodeRef(name, node)}}
	w.Events = append(w.Events, event)
	if want == fleetv1.NodeReady {
		w.Mutations = append(w.Mutations, state.Unconfirmed(view, name)...)
		return w
	}
	instances := view.InstancesOnNode(name)
	node.Status.Reason = "its agent has been silent for longer than its lease"
	event.Type, event.Reason = fleetv1.EventWarning, "NodeUnreachable"
	event.Message = fmt.Sprintf("%s; %d instances are on it", node.Status.Reason, len(instances))
	for _, inst := range instances {
		if inst.GetDesired().GetState() == fleetv1.DesiredRunning {
			w.Events = append(w.Events, instanceEvent(inst, node, now, fleetv1.EventWarning, "InstanceLost",
				fmt.Sprintf("node %s is unreachable; it may still run there", name)))
		}
	}
	return w
}
