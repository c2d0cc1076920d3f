package main

import (
	"bytes"
	"context"
	"errors"
	"io"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/timestamppb"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
	"github.com/drover-fleet/drover/scheduler/backup"
	"github.com/drover-fleet/drover/scheduler/state"
)

// fakeBackups serves the backup of a cluster "c1"; restored into, it holds what two nodes run.
type fakeBackups struct {
	fleetv1.UnimplementedBackupServiceServer
	f *fake
}

func (b fakeBackups) Backup(_ *fleetv1.BackupRequest, stream grpc.ServerStreamingServer[fleetv1.BackupResponse]) error {
	st := state.New()
	st.Apply(7, &fleetv1.Command{Time: timestamppb.New(started), Introduced: 1, Op: &fleetv1.Command_Write{Write: &fleetv1.Write{Mutations: []*fleetv1.Mutation{
		state.Put(0, &fleetv1.Cluster{Meta: &fleetv1.Meta{Name: "cluster", Id: "c1"}})}}}})
	var file bytes.Buffer
	err := backup.Write(&file, &fleetv1.BackupHeader{ClusterId: "c1", Index: 7, Term: 2, Time: timestamppb.New(started), Version: "v1",
		EncryptionKeyIds: []string{"key-1"}}, st.Snapshot())
	for file.Len() > 0 && err == nil {
		err = stream.Send(&fleetv1.BackupResponse{Data: bytes.Clone(file.Next(50))})
	}
	return err
}

func (b fakeBackups) Restore(stream grpc.ClientStreamingServer[fleetv1.RestoreRequest, fleetv1.RestoreResponse]) error {
	b.f.mu.Lock()
	again := b.f.restored != ""
	b.f.restored = "c1"
	b.f.mu.Unlock()
	if again {
		return status.Error(codes.FailedPrecondition, "this cluster isn't empty, it has 2 nodes")
	}
	var file bytes.Buffer
	for {
		m, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
		file.Write(m.GetData())
	}
	_, header, err := backup.Load(&file)
	if err != nil {
		return status.Error(codes.InvalidArgument, err.Error())
	}
	return stream.SendAndClose(&fleetv1.RestoreResponse{Header: header, RestoreEpoch: 9, Token: "restore"})
}

func (b fakeBackups) ListRemovals(context.Context, *fleetv1.ListRemovalsRequest) (*fleetv1.ListRemovalsResponse, error) {
	b.f.mu.Lock()
	defer b.f.mu.Unlock()
	if b.f.restored == "" {
		return &fleetv1.ListRemovalsResponse{}, nil
	}
	return &fleetv1.ListRemovalsResponse{RestoreEpoch: 9, Held: true, SilentNodes: []string{"n2"}, Nodes: []*fleetv1.NodeRemovals{
		{Node: "n1", Hold: &fleetv1.NodeHold{RestoreEpoch: 9, Strangers: []*fleetv1.Stranger{
			{InstanceId: "i1", InstanceName: "iris-i1", Service: "iris", State: "Running", DeviceIds: []string{"GPU-1", "GPU-2"}, StartTime: timestamppb.New(started)},
			{InstanceId: "x", InstanceName: "x-3", State: "container"},
		}}},
	}}, nil
}

func (b fakeBackups) ConfirmRemovals(_ context.Context, req *fleetv1.ConfirmRemovalsRequest) (*fleetv1.ConfirmRemovalsResponse, error) {
	if req.GetRestoreEpoch() == 0 {
		return nil, status.Error(codes.FailedPrecondition, "this cluster was never restored from a backup: there is nothing to confirm")
	}
	if ids := req.GetInstanceIds(); len(ids) != 2 || ids[0] != "i1" || ids[1] != "x" {
		return nil, status.Errorf(codes.InvalidArgument, "confirmed %v", ids)
	}
	return &fleetv1.ConfirmRemovalsResponse{Nodes: []string{"n1"}, Notes: []string{"node n2 has not reported since the restore: what it runs stays until you confirm again"}}, nil
}
