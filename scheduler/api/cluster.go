package api

import (
	"context"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
	"github.com/drover-fleet/drover/scheduler/state"
)

type clusterServer struct {
	*API
	fleetv1.UnimplementedClusterServiceServer
}

func (s *clusterServer) GetClusterStatus(context.Context, *fleetv1.GetClusterStatusRequest) (*fleetv1.GetClusterStatusResponse, error) {
	resp, view := s.cfg.Members.ClusterStatus(), s.view()
	resp.ClusterId, resp.RestoreEpoch = view.Cluster().GetMeta().GetId(), view.Cluster().GetRestoreEpoch()
	resp.RemovalsHeld = state.RemovalsHeld(view)
	for _, n := range view.Nodes() {
		resp.NodesTotal++
		if n.GetStatus().GetState() == fleetv1.NodeReady {
			resp.NodesReady++
		}
	}
	resp.Services, resp.Instances = int64(len(realTime(view.Services("")))), int64(len(view.Instances()))
	return resp, nil
}

func (s *clusterServer) ListMembers(context.Context, *fleetv1.ListMembersRequest) (*fleetv1.ListMembersResponse, error) {
	return &fleetv1.ListMembersResponse{Members: s.cfg.Members.List()}, nil
}

func (s *clusterServer) TransferLeader(ctx context.Context, req *fleetv1.TransferLeaderRequest) (*fleetv1.TransferLeaderResponse, error) {
	m, err := s.cfg.Members.Transfer(ctx, req.GetMember())
	if err != nil {
		return nil, err
	}
	return &fleetv1.TransferLeaderResponse{Member: m}, nil
}

func (s *clusterServer) RemoveMember(ctx context.Context, req *fleetv1.RemoveMemberRequest) (*fleetv1.RemoveMemberResponse, error) {
	as, err := s.as(ctx, req)
	if err != nil {
		return nil, err
	}
	if as == nil {
		return &fleetv1.RemoveMemberResponse{Member: &fleetv1.Member{Id: req.GetMember()}}, nil
	}
	m, err := s.cfg.Members.Remove(ctx, req.GetMember(), req.GetForce(), as)
	if err != nil {
		return nil, err
	}
	return &fleetv1.RemoveMemberResponse{Member: m}, nil
}

func (s *clusterServer) RotateGossipKey(ctx context.Context, req *fleetv1.RotateGossipKeyRequest) (*fleetv1.RotateGossipKeyResponse, error) {
	as, err := s.as(ctx, req)
	if err != nil {
		return nil, err
	}
	id, err := s.cfg.Members.RotateKey(ctx, as)
	if err != nil {
		return nil, err
	}
	return &fleetv1.RotateGossipKeyResponse{KeyId: id}, nil
}

// as is in whose name the members write, nil when the request was carried out before.
func (s *clusterServer) as(ctx context.Context, req request) (*fleetv1.Command, error) {
	digest, err := begin(req)
	if err == nil {
		err = s.cfg.Log.ReadIndex(ctx)
	}
	if err != nil {
		return nil, err
	}
	if done, err := repeated(ctx, s.view(), req.GetRequestId(), digest); done || err != nil {
		return nil, err
	}
	return &fleetv1.Command{Caller: caller(ctx).Name, RequestId: req.GetRequestId(), RequestScope: requestScope(ctx, req.GetRequestId()), RequestDigest: digest}, nil
}
