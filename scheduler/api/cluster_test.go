package api

import (
	"slices"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
)

func TestMembers(t *testing.T) {
	w := newWorld(t)
	ctx := t.Context()
	cluster := fleetv1.NewClusterServiceClient(w.conn)
	if list, err := cluster.ListMembers(ctx, &fleetv1.ListMembersRequest{}); err != nil || list.GetMembers()[0].GetName() != "s1" {
		t.Errorf("list: %v, %v", list, err)
	}
	if _, err := cluster.TransferLeader(ctx, &fleetv1.TransferLeaderRequest{Member: "s2"}); err != nil {
		t.Error(err)
	}
	remove := &fleetv1.RemoveMemberRequest{Member: "s3", Force: true, RequestId: "r1"}
	rotate := &fleetv1.RotateGossipKeyRequest{RequestId: "r2"}
	for range 2 { // the second time of one request does nothing
		if _, err := cluster.RemoveMember(ctx, remove); err != nil {
			t.Error(err)
		}
		if resp, err := cluster.RotateGossipKey(ctx, rotate); err != nil || resp.GetKeyId() != "k" {
			t.Errorf("%v, %v", resp, err)
		}
	}
	remove.Member = "s4"
	if _, err := cluster.RemoveMember(ctx, remove); status.Code(err) != codes.FailedPrecondition {
		t.Errorf("the request ID with another body: %v", err)
	}
	if _, err := cluster.RemoveMember(ctx, &fleetv1.RemoveMemberRequest{Member: "old"}); status.Code(err) != codes.FailedPrecondition || !strings.Contains(err.Error(), "upgrade it first") {
		t.Errorf("a scheduler that doesn't know the command: %v", err)
	}
	want := []string{"transfer s2", "root removes s3 (force true)", "rotate (new true)", "rotate (new false)", "root removes old (force false)"}
	if !slices.Equal(w.members.asked, want) {
		t.Errorf("%q, want %q", w.members.asked, want)
	}
}
