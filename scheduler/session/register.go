package session

import (
	"context"
	"fmt"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
	"github.com/drover-fleet/drover/scheduler/state"
)

// registerTries is how often a registration is computed again because the node changed meanwhile.
const registerTries = 8

// register makes the stored node say what its agent says: that it exists, is Ready, and has these facts.
// It writes nothing when that is so already. It answers the node's ID.
func (h *Hub) register(ctx context.Context, name string, facts *fleetv1.NodeFacts) (string, error) {
	for range registerTries {
		view := h.cfg.State.View()
		stored := view.Node(name)
		if stored.GetMeta().GetName() != name {
			stored = nil // found by another's ID
		}
		node, event := Registered(stored, name, newID, facts, time.Now())
		if node == nil {
			return stored.GetMeta().GetId(), nil
		}
		write := &fleetv1.Write{Mutations: []*fleetv1.Mutation{state.Put(stored.GetMeta().GetRevision(), node)}}
		if returned(stored, facts) {
			write.Mutations = append(write.Mutations, state.Unconfirmed(view, name)...)
		}
		if event != nil {
			write.Events = append(write.Events, event)
		}
		result, err := h.propose(ctx, "agent/"+name, &fleetv1.Command{Op: &fleetv1.Command_Write{Write: write}})
		if err != nil {
			return "", unavailable("registration of node "+name, err)
		}
		if len(result.Rejections) == 0 {
			return node.GetMeta().GetId(), nil
		}
	}
	return "", unavailable("registration of node "+name, fmt.Errorf("it kept changing"))
}

// returned says that what the node has reported isn't true of now: it was away, or its host has been rebooted, which
// ends every process.
func returned(stored *fleetv1.Node, facts *fleetv1.NodeFacts) bool {
	return stored != nil && (stored.GetStatus().GetState() != fleetv1.NodeReady || stored.GetFacts().GetBootId() != facts.GetBootId())
}

// Registered is the node as it should be stored once its agent has connected or its facts have changed, and
// what to tell about it (nil for nothing); both are nil when stored says so already. stored is nil for a new
// node, which gets an ID of newID.
func Registered(stored *fleetv1.Node, name string, newID func() string, facts *fleetv1.NodeFacts, now time.Time) (*fleetv1.Node, *fleetv1.Event) {
	at := timestamppb.New(now)
	ready := &fleetv1.NodeStatus{State: fleetv1.NodeReady, StateTime: at}
	if stored == nil {
		node := &fleetv1.Node{
			Meta: &fleetv1.Meta{Name: name, Id: newID(), Account: fleetv1.Default, Generation: 1, CreateTime: at, UpdateTime: at,
				CreatedBy: "agent/" + name},
			Spec: &fleetv1.NodeSpec{}, Facts: facts, Status: ready,
		}
		return node, nodeEvent(node, at, fleetv1.EventNormal, "NodeRegistered", fmt.Sprintf("%s, %g cores, %.1f GiB, %d devices, at %s",
			facts.GetArch(), float64(facts.GetCpuMillis())/1000, float64(facts.GetMemoryBytes())/(1<<30), len(facts.GetDevices()), facts.GetAdvertiseAddress()))
	}
	back := stored.GetStatus().GetState() != fleetv1.NodeReady
	if !back && proto.Equal(stored.GetFacts(), facts) {
		return nil, nil
	}
	node := proto.Clone(stored).(*fleetv1.Node)
	node.Facts = facts
	node.Meta.UpdateTime = at
	rebooted := stored.GetFacts().GetBootId() != facts.GetBootId()
	switch {
	case back:
		ready.AssignmentGeneration = stored.GetStatus().GetAssignmentGeneration()
		node.Status = ready
		message := "its agent is connected again"
		if rebooted {
			message = "its agent is connected again after the host was rebooted"
		}
		return node, nodeEvent(node, at, fleetv1.EventNormal, "NodeReturned", message)
	case rebooted:
		return node, nodeEvent(node, at, fleetv1.EventWarning, "NodeReturned", "the host was rebooted")
	}
	return node, nil
}

func nodeEvent(n *fleetv1.Node, at *timestamppb.Timestamp, kind, reason, message string) *fleetv1.Event {
	return &fleetv1.Event{Time: at, Type: kind, Reason: reason, Message: message,
		Objects: []*fleetv1.ObjectRef{state.NodeRef(n.GetMeta().GetName(), n)}}
}
