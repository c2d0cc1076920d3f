package session

import (
	"context"
	"errors"
	"net"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
)

// taskServer answers exchanges.
type taskServer struct {
	fleetv1.UnimplementedTaskServiceServer
}

func (taskServer) ExchangeTask(_ context.Context, req *fleetv1.ExchangeTaskRequest) (*fleetv1.ExchangeTaskResponse, error) {
	return &fleetv1.ExchangeTaskResponse{Task: "of " + req.GetInstanceId()}, nil
}

// quiet is what a session tells of its beginning and end.
type quiet struct{ Instances }

func (quiet) Connected(bool) {}
func (quiet) MarkAll()       {}

// TestExchangeTask: tasks reach the scheduler of the session, and nobody while there is none.
func TestExchangeTask(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	srv := grpc.NewServer()
	fleetv1.RegisterTaskServiceServer(srv, taskServer{})
	done := make(chan error, 1)
	go func() { done <- srv.Serve(l) }()
	defer func() {
		srv.Stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}()
	conn, err := grpc.NewClient("passthrough:///"+l.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	c := New(Config{Instances: quiet{}})
	req := &fleetv1.ExchangeTaskRequest{InstanceId: "i"}
	if _, err := c.ExchangeTask(t.Context(), req); !errors.Is(err, ErrNotConnected) {
		t.Errorf("before a session: %v", err)
	}
	end := c.begin(conn)
	if resp, err := c.ExchangeTask(t.Context(), req); err != nil || resp.GetTask() != "of i" {
		t.Errorf("in a session: %v, %v", resp, err)
	}
	end()
	if _, err := c.ExchangeTask(t.Context(), req); !errors.Is(err, ErrNotConnected) {
		t.Errorf("after the session: %v", err)
	}
}
