package api

import (
	"context"
	"fmt"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
	"github.com/drover-fleet/drover/scheduler/state"
)

type nodeServer struct {
	*API
	fleetv1.UnimplementedNodeServiceServer
}

func (s *nodeServer) ListNodes(_ context.Context, req *fleetv1.ListNodesRequest) (*fleetv1.ListNodesResponse, error) {
	view := s.view()
	nodes := view.Nodes()
	if req.GetPool() != "" {
		pool := view.Pool(req.GetPool())
		if pool == nil {
			return nil, missing("pool", "pool", req.GetPool(), namesOf(view.Pools()))
		}
		nodes = view.PoolNodes(pool)
	}
	resp := &fleetv1.ListNodesResponse{}
	for _, n := range nodes {
		resp.Nodes = append(resp.Nodes, s.shownNode(view, n))
	}
	return resp, nil
}

func (s *nodeServer) GetNode(_ context.Context, req *fleetv1.GetNodeRequest) (*fleetv1.GetNodeResponse, error) {
	view := s.view()
	n, err := findNode(view, req.GetName())
	if err != nil {
		return nil, err
	}
	return &fleetv1.GetNodeResponse{Node: s.shownNode(view, n)}, nil
}

func (s *nodeServer) SetNodeCordon(ctx context.Context, req *fleetv1.SetNodeCordonRequest) (*fleetv1.SetNodeCordonResponse, error) {
	var v violations
	if !req.GetCordoned() && req.GetReason() != "" {
		v.add("reason", "is only for cordoning")
	}
	v.description("reason", req.GetReason())
	if err := v.err(); err != nil {
		return nil, err
	}
	err := s.mutate(ctx, req, func(ctx context.Context, view state.ReadView, _ time.Time) (*fleetv1.Write, error) {
		n, err := findNode(view, req.GetName())
		if err != nil {
			return nil, err
		}
		if n.GetSpec().GetCordoned() == req.GetCordoned() && n.GetSpec().GetCordonReason() == req.GetReason() {
			return nil, nil
		}
		after := proto.CloneOf(n)
		if after.Spec == nil {
			after.Spec = &fleetv1.NodeSpec{}
		}
		after.Spec.Cordoned, after.Spec.CordonReason = req.GetCordoned(), req.GetReason()
		if !req.GetCordoned() {
			after.Spec.Drain = nil // a node that takes instances isn't being drained
		}
		reason, message := "NodeUncordoned", fmt.Sprintf("%s opened it for placement again", caller(ctx).Name)
		if req.GetCordoned() {
			reason, message = "NodeCordoned", fmt.Sprintf("%s closed it for placement", caller(ctx).Name)
			if req.GetReason() != "" {
				message += ": " + req.GetReason()
			}
		}
		return &fleetv1.Write{
			Mutations: []*fleetv1.Mutation{state.Put(n.GetMeta().GetRevision(), after)},
			Events:    []*fleetv1.Event{nodeEvent(n, reason, message)},
		}, nil
	})
	if err != nil {
		return nil, err
	}
	view := s.view()
	n, err := findNode(view, req.GetName())
	if err != nil {
		return nil, err
	}
	return &fleetv1.SetNodeCordonResponse{Node: s.shownNode(view, n)}, nil
}

// nodeEvent tells of something that was done to a node by hand.
func nodeEvent(n *fleetv1.Node, reason, message string) *fleetv1.Event {
	return &fleetv1.Event{Type: fleetv1.EventNormal, Reason: reason, Message: message, Objects: []*fleetv1.ObjectRef{state.NodeRef(n.GetMeta().GetName(), n)}}
}

func findNode(view state.ReadView, name string) (*fleetv1.Node, error) {
	if name == "" {
		return nil, invalid("name", "is missing")
	}
	if n := view.Node(name); n != nil {
		return n, nil
	}
	return nil, missing("", "node", name, namesOf(view.Nodes()))
}

// shownNode adds what is not stored.
func (s *nodeServer) shownNode(view state.ReadView, n *fleetv1.Node) *fleetv1.Node {
	n = proto.CloneOf(n)
	if n.Status == nil {
		n.Status = &fleetv1.NodeStatus{}
	}
	held := view.Allocated(n.GetMeta().GetName())
	n.Status.AllocatedCpuMillis, n.Status.AllocatedMemoryBytes = held.CPUMillis, held.MemoryBytes
	n.Status.AllocatedDiskBytes, n.Status.AllocatedDevices = held.DiskBytes, held.Devices
	n.Status.Instances = held.Instances
	if heard := s.cfg.Sessions.LastHeartbeat(n.GetMeta().GetName()); !heard.IsZero() {
		n.Status.HeartbeatTime = timestamppb.New(heard)
	}
	return n
}
