package scheduler_test

import (
	"context"
	"io"
	"net"
	goruntime "runtime"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
)

// perClient is how many streams a client may have.
const perClient = 256

// A client that opens watches without end, and reads none, gets so many; what more it opens costs the scheduler nothing.
func TestAFloodOfWatchesIsBounded(t *testing.T) {
	s := run(t, t.TempDir())
	ctx, cancel := context.WithCancel(s.admin())
	defer cancel()
	const more = 44
	ended := make(chan error, perClient+more)
	watch := func() error {
		stream, err := fleetv1.NewEventServiceClient(s.conn).WatchEvents(ctx, &fleetv1.WatchEventsRequest{Filter: &fleetv1.EventFilter{Kind: "node", Name: "nobody"}})
		if err == nil {
			_, err = stream.Recv() // nothing comes
		}
		return err
	}
	for range perClient + more {
		go func() { ended <- watch() }()
	}
	for range more {
		if err := <-ended; status.Code(err) != codes.ResourceExhausted {
			t.Fatalf("a stream ended with %v", err)
		}
	}
	before, heap := goruntime.NumGoroutine(), heapInUse()
	for range 1000 {
		err := watch()
		if status.Code(err) != codes.ResourceExhausted || !strings.Contains(err.Error(), "admin@127.0.0.1 has 256 streams open already: end some of them") {
			t.Fatalf("one more is answered with %v", err)
		}
	}
	if after := goruntime.NumGoroutine(); after > before+20 {
		t.Errorf("%d goroutines, %d before", after, before)
	}
	if after := heapInUse(); after > heap+4<<20 {
		t.Errorf("%d bytes of heap, %d before", after, heap)
	}
	if _, err := fleetv1.NewClusterServiceClient(s.conn).GetClusterStatus(ctx, &fleetv1.GetClusterStatusRequest{}); err != nil {
		t.Errorf("a call that is no stream: %v", err)
	}
	cancel()
	for range perClient {
		if err := <-ended; status.Code(err) != codes.Canceled {
			t.Errorf("a watch ended with %v", err)
		}
	}
}

// heapInUse is what this process, caller and scheduler, really uses.
func heapInUse() uint64 {
	goruntime.GC()
	var m goruntime.MemStats
	goruntime.ReadMemStats(&m)
	return m.HeapAlloc
}

// Operators' requests may have 4 MiB, whether they are one message or one of a stream.
func TestLongRequestsAreRefused(t *testing.T) {
	s := run(t, t.TempDir())
	long := strings.Repeat("x", 5<<20)
	_, err := fleetv1.NewNodeServiceClient(s.conn).GetNode(s.admin(), &fleetv1.GetNodeRequest{Name: long})
	if status.Code(err) != codes.ResourceExhausted || !strings.Contains(err.Error(), "at most 4194304 are taken") {
		t.Errorf("a call: %v", err)
	}
	stream, err := fleetv1.NewBackupServiceClient(s.conn).Restore(s.admin())
	if err != nil {
		t.Fatal(err)
	}
	if err := stream.Send(&fleetv1.RestoreRequest{Data: []byte(long)}); err != nil {
		t.Log(err) // the answer says why
	}
	if _, err := stream.CloseAndRecv(); status.Code(err) != codes.ResourceExhausted || !strings.Contains(err.Error(), "at most 4194304 are taken") {
		t.Errorf("a stream: %v", err)
	}
	if _, err := fleetv1.NewNodeServiceClient(s.conn).GetNode(s.admin(), &fleetv1.GetNodeRequest{Name: long[:1<<20]}); status.Code(err) == codes.ResourceExhausted {
		t.Errorf("one of a MiB: %v", err)
	}
}

// Both ports of a scheduler are guarded against who shows no credential.
func TestStrangersAreBounded(t *testing.T) {
	s := run(t, t.TempDir())
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	// Those of the tests are known on their connection: this is another.
	conn, err := grpc.NewClient("passthrough:///"+s.server.GRPCAddr(), grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithDisableRetry())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := fleetv1.NewJoinServiceClient(conn).Join(ctx, &fleetv1.JoinRequest{Csr: make([]byte, 1<<20)}); status.Code(err) != codes.Unavailable {
		t.Errorf("a long message: %v", err)
	}
	const perSource = 1024
	for i := range perSource + 100 {
		c, err := net.Dial("tcp", s.server.HTTPAddr())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		if i < perSource {
			continue
		}
		if err := c.SetDeadline(time.Now().Add(patience)); err != nil {
			t.Fatal(err)
		}
		if answer, err := io.ReadAll(c); err != nil || !strings.HasPrefix(string(answer), "HTTP/1.1 429 ") {
			t.Fatalf("connection %d is answered %q, %v", i, answer, err)
		}
	}
}
