package main

import (
	"context"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/timestamppb"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
)

// ListMembers answers a stale read with the age that its max-stale bound says, so that scripts choose it.
func (f *fake) ListMembers(ctx context.Context, _ *fleetv1.ListMembersRequest) (*fleetv1.ListMembersResponse, error) {
	asked := func(key string) string { return strings.Join(metadata.ValueFromIncomingContext(ctx, key), ",") }
	if asked(fleetv1.MetadataConsistency) == fleetv1.ConsistencyStale {
		age := asked(fleetv1.MetadataMaxStale)
		if age == "" {
			age = fleetv1.StalenessUnknown
		}
		if err := grpc.SetHeader(ctx, metadata.Pairs(fleetv1.MetadataStaleness, age)); err != nil {
			return nil, err
		}
	}
	if f.leaderless.Load() && asked(fleetv1.MetadataConsistency) != fleetv1.ConsistencyStale {
		return nil, status.Error(codes.Unavailable, "the schedulers have no leader at the moment: try again in a few seconds")
	}
	return &fleetv1.ListMembersResponse{Members: []*fleetv1.Member{
		{Id: "11111111-aaaa", Name: "s1", Address: "10.0.0.1:7402", GrpcAddress: "10.0.0.1:7400", HttpAddress: "10.0.0.1:7401", GossipAddress: "10.0.0.1:7403",
			Role: "voter", Leader: true, State: "alive", AppliedIndex: 40, LastContact: timestamppb.New(started), Version: "v1"},
		{Id: "22222222-bbbb", Name: "s2", Address: "10.0.0.2:7402", GrpcAddress: "10.0.0.2:7400", Role: "voter", State: "unreachable",
			AppliedIndex: 38, Lag: 2, LastContact: timestamppb.New(started.Add(-time.Minute)), ClockOffsetMillis: -1250, Version: "v1"},
		{Id: "33333333-cccc", Name: "s2", Address: "10.0.0.3:7402", Role: "non-voter", State: "unknown", Note: "5 entries behind"},
	}}, nil
}

func (f *fake) TransferLeader(_ context.Context, r *fleetv1.TransferLeaderRequest) (*fleetv1.TransferLeaderResponse, error) {
	if r.GetMember() == "away" { // scripts say so
		f.leaderless.Store(true)
	}
	if r.GetMember() == "nobody" {
		return nil, status.Errorf(codes.NotFound, "there is no scheduler %q: `drover cluster members` lists them", r.GetMember())
	}
	return &fleetv1.TransferLeaderResponse{Member: &fleetv1.Member{Id: "11111111-aaaa", Name: "s1"}}, nil
}

func (f *fake) RemoveMember(_ context.Context, r *fleetv1.RemoveMemberRequest) (*fleetv1.RemoveMemberResponse, error) {
	if !r.GetForce() {
		return nil, status.Error(codes.FailedPrecondition, "without scheduler s2 only 1 of 2 voters answer")
	}
	return &fleetv1.RemoveMemberResponse{Member: &fleetv1.Member{Id: r.GetMember()}}, nil
}

func (f *fake) RotateGossipKey(context.Context, *fleetv1.RotateGossipKeyRequest) (*fleetv1.RotateGossipKeyResponse, error) {
	return &fleetv1.RotateGossipKeyResponse{KeyId: "0123456789abcdef"}, nil
}
