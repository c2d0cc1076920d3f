package forward

import (
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
	"github.com/drover-fleet/drover/scheduler/raftstore"
)

const callerKey = "test-caller"

// backend is a scheduler's API that says who has asked it what.
type backend struct {
	fleetv1.UnimplementedFlavorServiceServer
	fleetv1.UnimplementedEventServiceServer
	fleetv1.UnimplementedInstanceServiceServer
	name   string
	stall  chan struct{} // closed to let writes end; nil: they end at once
	writes atomic.Int32
}

func incoming(ctx context.Context, key string) string {
	return append(metadata.ValueFromIncomingContext(ctx, key), "")[0]
}

func (b *backend) CreateFlavor(ctx context.Context, req *fleetv1.CreateFlavorRequest) (*fleetv1.CreateFlavorResponse, error) {
	b.writes.Add(1)
	if b.stall != nil {
		<-b.stall
	}
	if req.GetFlavor().GetMeta().GetName() == "taken" {
		return nil, status.Error(codes.AlreadyExists, "taken")
	}
	return &fleetv1.CreateFlavorResponse{Flavor: &fleetv1.Flavor{Meta: &fleetv1.Meta{
		Name: b.name, Id: req.GetRequestId(), CreatedBy: incoming(ctx, callerKey)}}}, nil
}

func (b *backend) ListFlavors(ctx context.Context, _ *fleetv1.ListFlavorsRequest) (*fleetv1.ListFlavorsResponse, error) {
	return &fleetv1.ListFlavorsResponse{Flavors: []*fleetv1.Flavor{{Meta: &fleetv1.Meta{Name: b.name, CreatedBy: incoming(ctx, callerKey)}}}}, nil
}

func (b *backend) WatchEvents(_ *fleetv1.WatchEventsRequest, s grpc.ServerStreamingServer[fleetv1.WatchEventsResponse]) error {
	for range 3 {
		if err := s.Send(&fleetv1.WatchEventsResponse{Events: []*fleetv1.Event{{Id: b.name}}}); err != nil {
			return err
		}
	}
	return status.Error(codes.ResourceExhausted, "that is all")
}

func (b *backend) ExecInstance(s grpc.BidiStreamingServer[fleetv1.ExecInstanceRequest, fleetv1.ExecInstanceResponse]) error {
	for {
		req, err := s.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if err := s.Send(&fleetv1.ExecInstanceResponse{Output: &fleetv1.ExecOutput{Stdout: append([]byte(b.name+":"), req.GetInput().GetStdin()...)}}); err != nil {
			return err
		}
	}
}

// pair is a leader and a follower.
type pair struct {
	leader, follower *backend
	server           *grpc.Server // the leader's
	leads            atomic.Bool  // the leader does
	addr             atomic.Value // of the leader, as the follower knows it
	age              atomic.Int64
	reads            atomic.Int32 // of the leader's read index

	conn *grpc.ClientConn // to the follower
}

// mapped does for these tests what the API does for errors.
func mapped(err error) error {
	var not *raftstore.NotLeaderError
	switch {
	case errors.As(err, &not):
		return status.Error(codes.Unavailable, "no leader")
	case errors.Is(err, raftstore.ErrUnknown):
		return status.Error(codes.Unknown, err.Error())
	}
	return err
}

func serve(t *testing.T, b *backend, f *Forwarder) (*grpc.Server, string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := grpc.NewServer(
		grpc.ChainUnaryInterceptor(func(ctx context.Context, req any, _ *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
			resp, err := next(ctx, req)
			return resp, mapped(err)
		}, f.Unary),
		grpc.ChainStreamInterceptor(func(srv any, ss grpc.ServerStream, _ *grpc.StreamServerInfo, next grpc.StreamHandler) error {
			return mapped(next(srv, ss))
		}, f.Stream))
	fleetv1.RegisterFlavorServiceServer(s, b)
	fleetv1.RegisterEventServiceServer(s, b)
	fleetv1.RegisterInstanceServiceServer(s, b)
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := s.Serve(l); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(func() { s.Stop(); wg.Wait() })
	return s, l.Addr().String()
}

func newPair(t *testing.T) *pair {
	t.Helper()
	p := &pair{leader: &backend{name: "leader"}, follower: &backend{name: "follower"}}
	p.leads.Store(true)
	conns := map[string]*grpc.ClientConn{}
	dial := func(addr string) (*grpc.ClientConn, error) {
		if c := conns[addr]; c != nil {
			return c, nil
		}
		c, err := grpc.NewClient("passthrough:///"+addr, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithStatsHandler(Sent{}))
		if err == nil {
			conns[addr] = c
			t.Cleanup(func() { c.Close() })
		}
		return c, err
	}
	config := Config{
		Conn: dial,
		As: func(ctx context.Context) (context.Context, error) {
			return metadata.AppendToOutgoingContext(ctx, callerKey, incoming(ctx, "user")), nil
		},
		Staleness: func() (time.Duration, bool) { return time.Duration(p.age.Load()), p.age.Load() >= 0 },
	}
	atLeader, atFollower := config, config
	atLeader.Leads = p.leads.Load
	atLeader.Leader = func() string { return p.addr.Load().(string) }
	atLeader.ReadIndex = func(context.Context) error { p.reads.Add(1); return nil }
	atFollower.Leads = func() bool { return false }
	atFollower.Leader = func() string { return p.addr.Load().(string) }
	server, addr := serve(t, p.leader, New(atLeader))
	p.server = server
	p.addr.Store(addr)
	_, at := serve(t, p.follower, New(atFollower))
	conn, err := dial(at)
	if err != nil {
		t.Fatal(err)
	}
	p.conn = conn
	return p
}

func with(t *testing.T, kv ...string) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	t.Cleanup(cancel)
	return metadata.AppendToOutgoingContext(ctx, kv...)
}

func TestFollowersPassOn(t *testing.T) {
	p := newPair(t)
	flavors := fleetv1.NewFlavorServiceClient(p.conn)
	made, err := flavors.CreateFlavor(with(t, "user", "ada"), &fleetv1.CreateFlavorRequest{RequestId: "r1", Flavor: &fleetv1.Flavor{}})
	if m := made.GetFlavor().GetMeta(); err != nil || m.GetName() != "leader" || m.GetId() != "r1" || m.GetCreatedBy() != "ada" {
		t.Errorf("write: %v, %v", made, err)
	}
	if p.reads.Load() != 0 {
		t.Error("a write waits for the read index before it does so itself")
	}
	list, err := flavors.ListFlavors(with(t, "user", "ada"), &fleetv1.ListFlavorsRequest{})
	if err != nil || list.GetFlavors()[0].GetMeta().GetName() != "leader" || p.reads.Load() != 1 {
		t.Errorf("read: %v, %v after %d read indexes", list, err, p.reads.Load())
	}
	_, err = flavors.CreateFlavor(with(t), &fleetv1.CreateFlavorRequest{Flavor: &fleetv1.Flavor{Meta: &fleetv1.Meta{Name: "taken"}}})
	if status.Code(err) != codes.AlreadyExists || status.Convert(err).Message() != "taken" {
		t.Errorf("the leader's refusal: %v", err)
	}
}

func TestStreamsArePassedOn(t *testing.T) {
	p := newPair(t)
	watch, err := fleetv1.NewEventServiceClient(p.conn).WatchEvents(with(t), &fleetv1.WatchEventsRequest{})
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if m, err := watch.Recv(); err != nil || m.GetEvents()[0].GetId() != "leader" {
			t.Fatalf("%v, %v", m, err)
		}
	}
	if _, err := watch.Recv(); status.Code(err) != codes.ResourceExhausted {
		t.Errorf("the stream ended with %v", err)
	}
	exec, err := fleetv1.NewInstanceServiceClient(p.conn).ExecInstance(with(t))
	if err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{"one", "two"} {
		if err := exec.Send(&fleetv1.ExecInstanceRequest{Input: &fleetv1.ExecInput{Stdin: []byte(text)}}); err != nil {
			t.Fatal(err)
		}
		if m, err := exec.Recv(); err != nil || string(m.GetOutput().GetStdout()) != "leader:"+text {
			t.Fatalf("%v, %v", m, err)
		}
	}
	if err := exec.CloseSend(); err != nil {
		t.Fatal(err)
	}
	if _, err := exec.Recv(); err == nil {
		t.Error("the stream goes on after its end")
	}
}

func TestStaleReads(t *testing.T) {
	p := newPair(t)
	flavors := fleetv1.NewFlavorServiceClient(p.conn)
	p.addr.Store("") // no leader
	for _, c := range []struct {
		age   time.Duration
		kv    []string
		code  codes.Code
		stale string
	}{
		{0, nil, codes.Unavailable, ""},
		{0, []string{fleetv1.MetadataConsistency, "linearizable"}, codes.Unavailable, ""},
		{1500 * time.Millisecond, []string{fleetv1.MetadataConsistency, "stale"}, codes.OK, "1500"},
		{time.Minute, []string{fleetv1.MetadataConsistency, "stale"}, codes.OK, "60000"},
		{-1, []string{fleetv1.MetadataConsistency, "stale"}, codes.OK, "unknown"},
		{time.Minute, []string{fleetv1.MetadataConsistency, "stale", fleetv1.MetadataMaxStale, "60001"}, codes.OK, "60000"},
		{time.Minute, []string{fleetv1.MetadataConsistency, "stale", fleetv1.MetadataMaxStale, "5000"}, codes.Unavailable, ""},
		{-1, []string{fleetv1.MetadataConsistency, "stale", fleetv1.MetadataMaxStale, "5000"}, codes.Unavailable, ""},
		{0, []string{fleetv1.MetadataConsistency, "often"}, codes.InvalidArgument, ""},
		{0, []string{fleetv1.MetadataMaxStale, "soon"}, codes.InvalidArgument, ""},
	} {
		p.age.Store(int64(c.age))
		var header metadata.MD
		list, err := flavors.ListFlavors(with(t, c.kv...), &fleetv1.ListFlavorsRequest{}, grpc.Header(&header))
		if got := append(header.Get(fleetv1.MetadataStaleness), "")[0]; status.Code(err) != c.code || got != c.stale {
			t.Errorf("%v, %v: %v with staleness %q, want %v with %q", c.age, c.kv, err, got, c.code, c.stale)
		}
		if err == nil && list.GetFlavors()[0].GetMeta().GetName() != "follower" {
			t.Errorf("%v: %v answered", c.kv, list)
		}
	}
	// A write is never stale.
	if _, err := flavors.CreateFlavor(with(t, fleetv1.MetadataConsistency, "stale"), &fleetv1.CreateFlavorRequest{}); status.Code(err) != codes.Unavailable || p.follower.writes.Load() != 0 {
		t.Errorf("a stale write: %v", err)
	}
}

func TestLeaderChanges(t *testing.T) {
	p := newPair(t)
	flavors := fleetv1.NewFlavorServiceClient(p.conn)
	p.leads.Store(false) // it passes nothing on: the call has been already
	if _, err := flavors.CreateFlavor(with(t), &fleetv1.CreateFlavorRequest{}); status.Code(err) != codes.Unavailable || p.leader.writes.Load() != 0 {
		t.Errorf("a leader that no longer leads: %v after %d writes", err, p.leader.writes.Load())
	}
	// One that leads within a second does what it was asked.
	addr := p.addr.Swap("")
	back := time.AfterFunc(leaderWait/4, func() { p.addr.Store(addr); p.leads.Store(true) })
	defer back.Stop()
	if _, err := flavors.CreateFlavor(with(t), &fleetv1.CreateFlavorRequest{}); err != nil || p.leader.writes.Swap(0) != 1 {
		t.Errorf("while another takes over: %v", err)
	}
	// Sent, and the answer is lost: nobody knows.
	p.leads.Store(true)
	p.leader.stall = make(chan struct{})
	defer close(p.leader.stall)
	done := make(chan error, 1)
	go func() {
		_, err := flavors.CreateFlavor(with(t), &fleetv1.CreateFlavorRequest{})
		done <- err
	}()
	for deadline := time.Now().Add(10 * time.Second); p.leader.writes.Load() == 0; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the write doesn't reach the leader")
		}
	}
	go p.server.Stop() // cuts connections, and then waits for the write
	if err := <-done; status.Code(err) != codes.Unknown {
		t.Errorf("a write whose answer is lost: %v", err)
	}
	// Not sent: nothing was done.
	if _, err := flavors.CreateFlavor(with(t), &fleetv1.CreateFlavorRequest{}); status.Code(err) != codes.Unavailable {
		t.Errorf("a write to a leader that is gone: %v", err)
	}
}

func TestMethods(t *testing.T) {
	all := methods()
	for name, want := range map[string][2]bool{ // write, stale
		"/fleet.v1.FlavorService/CreateFlavor":      {true, false},
		"/fleet.v1.ServiceService/ListServices":     {false, true},
		"/fleet.v1.ServiceService/WatchService":     {false, true},
		"/fleet.v1.InstanceService/GetInstanceLogs": {false, false},
		"/fleet.v1.InstanceService/ExecInstance":    {false, false},
		"/fleet.v1.ClusterService/TransferLeader":   {false, false},
		"/fleet.v1.ClusterService/RemoveMember":     {true, false},
	} {
		m, ok := all[name]
		if !ok || m.write != want[0] || m.stale != want[1] {
			t.Errorf("%s: known %v, write %v, stale %v", name, ok, m.write, m.stale)
		}
	}
	for _, name := range []string{"/fleet.v1.AgentService/Session", "/fleet.v1.PeerService/Probe", "/fleet.v1.LookupService/Get", "/fleet.v1.LookupService/Watch", "/grpc.health.v1.Health/Check"} {
		if _, ok := all[name]; ok {
			t.Errorf("%s is passed on", name)
		}
	}
}
