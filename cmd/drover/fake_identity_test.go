package main

import (
	"context"
	"strings"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/drover-fleet/drover/identity"
	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
)

func (f *fake) CreateJoinToken(_ context.Context, r *fleetv1.CreateJoinTokenRequest) (*fleetv1.CreateJoinTokenResponse, error) {
	if r.GetNode() == "lost" {
		return &fleetv1.CreateJoinTokenResponse{}, nil
	}
	return &fleetv1.CreateJoinTokenResponse{
		Token: &fleetv1.JoinToken{Meta: &fleetv1.Meta{Name: "k3v9", CreatedBy: "root"}, Role: r.GetRole(), MaxUses: r.GetMaxUses(), Node: r.GetNode(),
			ExpireTime: timestamppb.New(started.Add(time.Duration(r.GetLifetimeSeconds()) * time.Second))},
		Secret: identity.NewToken([]byte("root"), strings.Repeat("A", 52)).String(), Schedulers: []string{"10.0.0.1:7400", "127.0.0.1:7400"},
	}, nil
}

func (f *fake) ListJoinTokens(context.Context, *fleetv1.ListJoinTokensRequest) (*fleetv1.ListJoinTokensResponse, error) {
	return &fleetv1.ListJoinTokensResponse{Tokens: []*fleetv1.JoinToken{{Meta: &fleetv1.Meta{Name: "k3v9", CreatedBy: "root"},
		Role: fleetv1.RoleAgent, MaxUses: 3, ExpireTime: timestamppb.New(started), Uses: []*fleetv1.JoinTokenUse{{Name: "n1"}}}}}, nil
}

func (f *fake) RevokeJoinToken(_ context.Context, r *fleetv1.RevokeJoinTokenRequest) (*fleetv1.RevokeJoinTokenResponse, error) {
	if r.GetName() != "k3v9" {
		return nil, status.Errorf(codes.NotFound, "name: there is no join token %q", r.GetName())
	}
	return &fleetv1.RevokeJoinTokenResponse{}, nil
}

func (f *fake) ListCertificates(context.Context, *fleetv1.ListCertificatesRequest) (*fleetv1.ListCertificatesResponse, error) {
	return &fleetv1.ListCertificatesResponse{Roots: []string{"bb", "aa"}, Certificates: []*fleetv1.Certificate{
		{Meta: &fleetv1.Meta{CreatedBy: "agent/n1"}, Role: fleetv1.RoleAgent, Name: "n1", Root: "aa", ExpireTime: timestamppb.New(started)},
		{Meta: &fleetv1.Meta{CreatedBy: "scheduler/s1"}, Role: fleetv1.RoleScheduler, Name: "s1", Root: "bb", ExpireTime: timestamppb.New(started)},
	}}, nil
}

func (f *fake) RevokeNode(context.Context, *fleetv1.RevokeNodeRequest) (*fleetv1.RevokeNodeResponse, error) {
	return &fleetv1.RevokeNodeResponse{}, nil
}

func (f *fake) RotateKey(context.Context, *fleetv1.RotateKeyRequest) (*fleetv1.RotateKeyResponse, error) {
	return &fleetv1.RotateKeyResponse{KeyId: "0123456789abcdef"}, nil
}

func (f *fake) RotateCA(_ context.Context, r *fleetv1.RotateCARequest) (*fleetv1.RotateCAResponse, error) {
	if r.GetFinish() && !r.GetForce() {
		return nil, status.Error(codes.FailedPrecondition, "1 members still have certificates of the old root: agent/n1")
	}
	return &fleetv1.RotateCAResponse{Roots: []string{"bb"}}, nil
}
