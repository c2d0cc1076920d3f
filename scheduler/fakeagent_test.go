package scheduler_test

import (
	"context"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
)

// fakeAgent is a scripted node: what it is assigned runs at once, what it is told to stop is gone at once.
type fakeAgent struct {
	t      *testing.T
	stream grpc.BidiStreamingClient[fleetv1.SessionRequest, fleetv1.SessionResponse]
	cancel context.CancelFunc
	done   sync.WaitGroup

	mu     sync.Mutex
	report uint64
	seen   map[string]*fleetv1.InstanceObserved
}

func facts() *fleetv1.NodeFacts {
	return &fleetv1.NodeFacts{BootId: "boot", Hostname: "n1", Arch: "amd64", Os: "linux", CpuMillis: 8000, MemoryBytes: 16 << 30,
		DiskBytes: 100 << 30, AdvertiseAddress: "127.0.0.1", Labels: map[string]string{"zone": "a"}, AgentVersion: "test"}
}

// connect starts a session for node n1.
func connect(t *testing.T, conn *grpc.ClientConn, token string) *fakeAgent {
	t.Helper()
	ctx, cancel := context.WithCancel(metadata.AppendToOutgoingContext(context.Background(), "authorization", "Bearer "+token))
	stream, err := fleetv1.NewAgentServiceClient(conn).Session(ctx)
	if err != nil {
		cancel()
		t.Fatal(err)
	}
	a := &fakeAgent{t: t, stream: stream, cancel: cancel, seen: map[string]*fleetv1.InstanceObserved{}}
	a.send(&fleetv1.SessionRequest{Message: &fleetv1.SessionRequest_Hello{Hello: &fleetv1.Hello{NodeName: "n1", Facts: facts()}}})
	first, err := stream.Recv()
	if err != nil || first.GetWelcome() == nil {
		cancel()
		t.Fatalf("welcome: %v, %v", first, err)
	}
	a.done.Go(a.receive)
	a.done.Go(func() { a.beat(ctx, time.Duration(first.GetWelcome().GetHeartbeatMillis())*time.Millisecond) })
	t.Cleanup(a.close)
	return a
}

func (a *fakeAgent) close() {
	a.cancel()
	a.done.Wait()
}

func (a *fakeAgent) send(m *fleetv1.SessionRequest) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.sendLocked(m)
}

// sendLocked ignores errors: receive sees the stream's end.
func (a *fakeAgent) sendLocked(m *fleetv1.SessionRequest) { _ = a.stream.Send(m) }

func (a *fakeAgent) beat(ctx context.Context, every time.Duration) {
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			a.send(&fleetv1.SessionRequest{Message: &fleetv1.SessionRequest_Heartbeat{Heartbeat: &fleetv1.Heartbeat{}}})
		}
	}
}

func (a *fakeAgent) receive() {
	for {
		msg, err := a.stream.Recv()
		if err != nil {
			return
		}
		if set := msg.GetAssignments(); set != nil {
			a.obey(set)
		}
	}
}

func (a *fakeAgent) obey(set *fleetv1.AssignmentSet) {
	a.mu.Lock()
	defer a.mu.Unlock()
	report := &fleetv1.StatusReport{}
	for _, i := range set.GetInstances() {
		id := i.GetMeta().GetId()
		last := a.seen[id]
		next := &fleetv1.InstanceObserved{State: fleetv1.InstanceRunning, Attempt: 1, Sequence: last.GetSequence() + 1, Ready: true,
			Health: fleetv1.Healthy, Ip: "127.0.0.1", Port: 30000 + int32(len(a.seen))}
		if last != nil {
			next.Port = last.GetPort()
		}
		if i.GetDesired().GetState() == fleetv1.DesiredStopped {
			next = &fleetv1.InstanceObserved{State: fleetv1.InstanceReaped, Attempt: 1, Sequence: next.Sequence, Port: next.Port}
		}
		if last.GetState() == next.GetState() {
			continue
		}
		a.seen[id] = next
		report.Instances = append(report.Instances, &fleetv1.InstanceReport{InstanceId: id, Observed: next})
	}
	if len(report.GetInstances()) > 0 {
		a.report++
		report.Id = a.report
		a.sendLocked(&fleetv1.SessionRequest{Message: &fleetv1.SessionRequest_Report{Report: report}})
	}
}
