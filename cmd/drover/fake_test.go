package main

import (
	"context"
	"errors"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
)

// fakeToken is the one that the fake lets in.
const fakeToken = "s3cret"

// started is when everything in the fake was made.
var started = time.Date(2026, 1, 31, 12, 0, 0, 0, time.UTC)

// fake is a scheduler with objects in maps and scripted behaviour: the first word of an object's name may
// be one of the faults below.
type fake struct {
	fleetv1.UnimplementedNodeServiceServer
	fleetv1.UnimplementedDeviceServiceServer
	fleetv1.UnimplementedFlavorServiceServer
	fleetv1.UnimplementedPoolServiceServer
	fleetv1.UnimplementedQuotaServiceServer
	fleetv1.UnimplementedModelServiceServer
	fleetv1.UnimplementedServiceServiceServer
	fleetv1.UnimplementedInstanceServiceServer
	fleetv1.UnimplementedEventServiceServer
	fleetv1.UnimplementedClusterServiceServer
	fleetv1.UnimplementedIdentityServiceServer
	fleetv1.UnimplementedLocalServiceServer

	mu       sync.Mutex
	flavors  map[string]*fleetv1.Flavor
	pools    map[string]*fleetv1.Pool
	models   map[string]*fleetv1.Model
	services map[string]*fleetv1.Service
	cordoned string
	cordons  []*fleetv1.DeviceCordon
	requests map[string]int // calls by request ID

	quotas      map[string]*fleetv1.Quota
	drain       *fleetv1.Drain
	drainDevice string
	drainLooks  int
	drained     bool   // nothing is left on the node
	restored    string // ID of the cluster whose backup was restored

	leaderless atomic.Bool
}

func newFake() *fake {
	return &fake{
		flavors: make(map[string]*fleetv1.Flavor), pools: make(map[string]*fleetv1.Pool), models: make(map[string]*fleetv1.Model),
		services: make(map[string]*fleetv1.Service), requests: make(map[string]int), quotas: make(map[string]*fleetv1.Quota),
	}
}

// serveFake serves a new fake over TCP and, for the agent's local service, a socket.
func serveFake(t testing.TB, socket string) (addr string) {
	t.Helper()
	f := newFake()
	s := grpc.NewServer(grpc.UnaryInterceptor(authUnary), grpc.StreamInterceptor(authStream))
	fleetv1.RegisterNodeServiceServer(s, f)
	fleetv1.RegisterDeviceServiceServer(s, f)
	fleetv1.RegisterFlavorServiceServer(s, f)
	fleetv1.RegisterPoolServiceServer(s, f)
	fleetv1.RegisterQuotaServiceServer(s, f)
	fleetv1.RegisterModelServiceServer(s, f)
	fleetv1.RegisterServiceServiceServer(s, f)
	fleetv1.RegisterInstanceServiceServer(s, f)
	fleetv1.RegisterEventServiceServer(s, f)
	fleetv1.RegisterClusterServiceServer(s, f)
	fleetv1.RegisterIdentityServiceServer(s, f)
	fleetv1.RegisterBackupServiceServer(s, fakeBackups{f: f})
	fleetv1.RegisterLookupServiceServer(s, fakeLookup{f: f})
	fleetv1.RegisterTenantServiceServer(s, fakeTenants{})
	fleetv1.RegisterCredentialServiceServer(s, &fakeCredentials{})
	jobs := &fakeJobs{f: f, jobs: make(map[string]*fleetv1.Job)}
	fleetv1.RegisterJobServiceServer(s, jobs)
	fleetv1.RegisterStorageKeyServiceServer(s, jobs)
	local := grpc.NewServer()
	fleetv1.RegisterLocalServiceServer(local, f)
	tcp := listen(t, "tcp", "127.0.0.1:0")
	var wg sync.WaitGroup
	serve := func(s *grpc.Server, l net.Listener) {
		wg.Go(func() {
			if err := s.Serve(l); err != nil && !errors.Is(err, grpc.ErrServerStopped) { // it hasn't begun
				t.Error(err)
			}
		})
	}
	serve(s, tcp)
	serve(local, listen(t, "unix", socket))
	t.Cleanup(func() { s.Stop(); local.Stop(); wg.Wait() })
	return tcp.Addr().String()
}

func listen(t testing.TB, network, addr string) net.Listener {
	t.Helper()
	l, err := net.Listen(network, addr)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func authorise(ctx context.Context) error {
	md, _ := metadata.FromIncomingContext(ctx)
	if !slices.Contains(md.Get("authorization"), "Bearer "+fakeToken) {
		return status.Error(codes.Unauthenticated, "the token is not known here")
	}
	return nil
}

func authUnary(ctx context.Context, req any, _ *grpc.UnaryServerInfo, h grpc.UnaryHandler) (any, error) {
	if err := authorise(ctx); err != nil {
		return nil, err
	}
	return h(ctx, req)
}

func authStream(srv any, s grpc.ServerStream, _ *grpc.StreamServerInfo, h grpc.StreamHandler) error {
	if err := authorise(s.Context()); err != nil {
		return err
	}
	return h(srv, s)
}

// begin counts a write and plays the fault that its object's name asks for.
func (f *fake) begin(name, requestID string) error {
	f.requests[requestID]++
	if requestID == "" {
		return status.Error(codes.InvalidArgument, "request_id: is missing")
	}
	first := f.requests[requestID] == 1
	switch fault, _, _ := strings.Cut(name, "-"); {
	case fault == "lost" || (fault == "lostonce" && first):
		return status.Error(codes.Unknown, "the leader changed\nwhile it was written")
	case fault == "slow" || (fault == "slowonce" && first):
		return status.Error(codes.DeadlineExceeded, "not committed in time")
	case fault == "bad":
		return status.Error(codes.InvalidArgument, "spec.versions[0].weight: 130 is out of range: want 0 to 100")
	case fault == "down":
		return status.Error(codes.Unavailable, "the registry does not answer: try again")
	case fault == "full":
		return status.Error(codes.ResourceExhausted, "project default has 20 services already, which is its quota: delete one first")
	}
	return nil
}

func notFound(kind, name string) error {
	return status.Errorf(codes.NotFound, "%s %q does not exist; `drover %s list` shows those that do", kind, name, kind)
}

func made(m *fleetv1.Meta) *fleetv1.Meta {
	m = proto.Clone(m).(*fleetv1.Meta)
	m.Id, m.Account, m.Project = "0a1b2c3d-0000-4000-8000-"+strings.Repeat("0", 12), "default", "default"
	m.Generation, m.Revision, m.CreatedBy = 1, 7, "admin"
	m.CreateTime, m.UpdateTime = timestamppb.New(started), timestamppb.New(started)
	return m
}

func (f *fake) CreateFlavor(_ context.Context, r *fleetv1.CreateFlavorRequest) (*fleetv1.CreateFlavorResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	name := r.GetFlavor().GetMeta().GetName()
	if err := f.begin(name, r.GetRequestId()); err != nil {
		return nil, err
	}
	if f.flavors[name] != nil {
		return nil, status.Errorf(codes.AlreadyExists, "flavor %q exists already", name)
	}
	v := proto.Clone(r.GetFlavor()).(*fleetv1.Flavor)
	v.Meta = made(v.GetMeta())
	f.flavors[name] = v
	return &fleetv1.CreateFlavorResponse{Flavor: v}, nil
}

func (f *fake) GetFlavor(_ context.Context, r *fleetv1.GetFlavorRequest) (*fleetv1.GetFlavorResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if v := f.flavors[r.GetName()]; v != nil {
		return &fleetv1.GetFlavorResponse{Flavor: v}, nil
	}
	return nil, notFound("flavor", r.GetName())
}

func (f *fake) ListFlavors(context.Context, *fleetv1.ListFlavorsRequest) (*fleetv1.ListFlavorsResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	r := &fleetv1.ListFlavorsResponse{}
	for _, v := range f.flavors {
		r.Flavors = append(r.Flavors, v)
	}
	slices.SortFunc(r.Flavors, func(a, b *fleetv1.Flavor) int { return strings.Compare(a.GetMeta().GetName(), b.GetMeta().GetName()) })
	return r, nil
}

func (f *fake) DeleteFlavor(_ context.Context, r *fleetv1.DeleteFlavorRequest) (*fleetv1.DeleteFlavorResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.flavors[r.GetName()] == nil {
		return nil, notFound("flavor", r.GetName())
	}
	if len(f.services) > 0 {
		return nil, status.Errorf(codes.FailedPrecondition, "flavor %q is used by service default/iris: delete that first", r.GetName())
	}
	delete(f.flavors, r.GetName())
	return &fleetv1.DeleteFlavorResponse{}, nil
}

func (f *fake) CreatePool(_ context.Context, r *fleetv1.CreatePoolRequest) (*fleetv1.CreatePoolResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	v := proto.Clone(r.GetPool()).(*fleetv1.Pool)
	v.Meta = made(v.GetMeta())
	v.Spec.Account = "default"
	v.Nodes = []string{"dev-1"}
	f.pools[v.GetMeta().GetName()] = v
	return &fleetv1.CreatePoolResponse{Pool: v}, nil
}

func (f *fake) GetPool(_ context.Context, r *fleetv1.GetPoolRequest) (*fleetv1.GetPoolResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if v := f.pools[r.GetName()]; v != nil {
		return &fleetv1.GetPoolResponse{Pool: v}, nil
	}
	return nil, notFound("pool", r.GetName())
}

func (f *fake) ListPools(context.Context, *fleetv1.ListPoolsRequest) (*fleetv1.ListPoolsResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	r := &fleetv1.ListPoolsResponse{}
	for _, v := range f.pools {
		r.Pools = append(r.Pools, v)
	}
	return r, nil
}

func (f *fake) DeletePool(_ context.Context, r *fleetv1.DeletePoolRequest) (*fleetv1.DeletePoolResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.pools[r.GetName()] == nil {
		return nil, notFound("pool", r.GetName())
	}
	delete(f.pools, r.GetName())
	return &fleetv1.DeletePoolResponse{}, nil
}

func (f *fake) CreateModel(_ context.Context, r *fleetv1.CreateModelRequest) (*fleetv1.CreateModelResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	v := proto.Clone(r.GetModel()).(*fleetv1.Model)
	v.Meta = made(v.GetMeta())
	if v.GetSpec().GetVersion() == "" {
		v.Spec.Version = "0.0.1"
	}
	v.Spec.DeployTypes = []string{"real-time"}
	v.Status = &fleetv1.ModelStatus{State: fleetv1.ModelNormal, ImageDigest: "sha256:0123456789abcdef", Arches: []string{"amd64"}}
	f.models[v.GetMeta().GetName()] = v
	return &fleetv1.CreateModelResponse{Model: v}, nil
}

func (f *fake) GetModel(_ context.Context, r *fleetv1.GetModelRequest) (*fleetv1.GetModelResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if v := f.models[r.GetName()]; v != nil && (r.GetVersion() == "" || r.GetVersion() == v.GetSpec().GetVersion()) {
		return &fleetv1.GetModelResponse{Model: v}, nil
	}
	return nil, notFound("model", r.GetName())
}

func (f *fake) ListModels(context.Context, *fleetv1.ListModelsRequest) (*fleetv1.ListModelsResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	r := &fleetv1.ListModelsResponse{}
	for _, v := range f.models {
		r.Models = append(r.Models, v)
	}
	return r, nil
}

func (f *fake) DeleteModel(_ context.Context, r *fleetv1.DeleteModelRequest) (*fleetv1.DeleteModelResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.models[r.GetName()] == nil {
		return nil, notFound("model", r.GetName())
	}
	delete(f.models, r.GetName())
	return &fleetv1.DeleteModelResponse{}, nil
}

func (f *fake) GetClusterStatus(context.Context, *fleetv1.GetClusterStatusRequest) (*fleetv1.GetClusterStatusResponse, error) {
	return &fleetv1.GetClusterStatusResponse{
		ClusterId: "c1", LeaderId: "m1", LeaderAddress: "127.0.0.1:7402", Term: 2, CommitIndex: 40, AppliedIndex: 40, Version: "v1",
		Members:    []*fleetv1.Member{{Id: "m1", Address: "127.0.0.1:7402", Role: "voter", Leader: true}},
		NodesReady: 1, NodesTotal: 2, Services: 1, Instances: 2, StartTime: timestamppb.New(started),
	}, nil
}
