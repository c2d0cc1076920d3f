package agent

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
	"github.com/drover-fleet/drover/runtime"
)

// listenLocal makes the local socket. The journal's lock says that no other agent runs on the data
// directory, so a socket that is there already is a dead one's.
func listenLocal(path string) (net.Listener, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, fmt.Errorf("make the local socket: %w", err)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("replace the local socket: %w", err)
	}
	l, err := net.Listen("unix", path)
	if err != nil {
		return nil, fmt.Errorf("make the local socket: %w", err)
	}
	if err := os.Chmod(path, 0o600); err != nil {
		return nil, errors.Join(fmt.Errorf("protect the local socket: %w", err), l.Close())
	}
	return l, nil
}

func (a *Agent) serveLocal(ctx context.Context) error {
	srv := grpc.NewServer(grpc.ConnectionTimeout(10 * time.Second))
	fleetv1.RegisterLocalServiceServer(srv, &localService{a: a})
	stop := context.AfterFunc(ctx, srv.Stop)
	defer stop()
	if err := srv.Serve(a.local); err != nil && ctx.Err() == nil {
		return err
	}
	return nil
}

type localService struct {
	fleetv1.UnimplementedLocalServiceServer
	a *Agent
}

func (s *localService) ListLocalInstances(context.Context, *fleetv1.ListLocalInstancesRequest) (*fleetv1.ListLocalInstancesResponse, error) {
	return &fleetv1.ListLocalInstancesResponse{Instances: s.a.instances.Instances(), Connected: s.a.session.Connected()}, nil
}

func (s *localService) GetLocalLogs(req *fleetv1.GetLocalLogsRequest, stream grpc.ServerStreamingServer[fleetv1.GetLocalLogsResponse]) error {
	in := s.a.find(req.GetName())
	if in == nil {
		return status.Errorf(codes.NotFound, "no instance %q on this node", req.GetName())
	}
	err := s.a.readLogs(stream.Context(), in.GetMeta().GetId(), req.GetQuery(), func(lines []*fleetv1.LogLine) error {
		return stream.Send(&fleetv1.GetLocalLogsResponse{Lines: lines})
	})
	if errors.Is(err, errBadQuery) {
		return status.Error(codes.InvalidArgument, err.Error())
	}
	return err
}

func (s *localService) StopLocalInstance(_ context.Context, req *fleetv1.StopLocalInstanceRequest) (*fleetv1.StopLocalInstanceResponse, error) {
	in, err := s.a.instances.StopHere(req.GetName())
	switch {
	case errors.Is(err, runtime.ErrNotFound):
		return nil, status.Errorf(codes.NotFound, "no instance %q on this node", req.GetName())
	case err != nil:
		return nil, status.Error(codes.Internal, err.Error())
	}
	return &fleetv1.StopLocalInstanceResponse{Instance: in}, nil
}

// find answers an instance by ID or name; nil when there is none.
func (a *Agent) find(name string) *fleetv1.Instance {
	for _, in := range a.instances.Instances() {
		if in.GetMeta().GetId() == name || in.GetMeta().GetName() == name {
			return in
		}
	}
	return nil
}
