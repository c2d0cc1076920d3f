package api

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
	"github.com/drover-fleet/drover/registry"
	"github.com/drover-fleet/drover/scheduler/auth"
	"github.com/drover-fleet/drover/scheduler/member"
	"github.com/drover-fleet/drover/scheduler/session"
	"github.com/drover-fleet/drover/scheduler/state"
	"github.com/drover-fleet/drover/storage"
)

// world is an API over a real store, with a log that applies at once; what is outside is made up.
type world struct {
	t       testing.TB
	store   *state.Store
	conn    *grpc.ClientConn
	members *members
	images  map[string]registry.Image
	broken  map[string]error      // of images that can't be resolved
	relays  map[string]*fakeRelay // by node
	jobs    *fakeJobs
	dir     string // that file:// URLs lie in

	mu      sync.Mutex
	index   uint64
	fault   error  // of the next Propose, after it has been applied
	before  func() // called once before the next Propose
	follows bool   // it isn't the leader
	reads   int    // of ReadIndex
	read    func() error
	events  []*fleetv1.Event
	onPulls map[int]func(string)
	pulls   map[string]*fleetv1.PullProgress
	filter  *fleetv1.EventFilter
}

var start = time.Date(2030, 1, 2, 3, 4, 5, 0, time.UTC)

func newWorld(t testing.TB) *world { return newWorldOf(t, 3) }

func newWorldOf(t testing.TB, servicesPerUser int) *world {
	w := &world{t: t, store: state.New(), relays: map[string]*fakeRelay{}, onPulls: map[int]func(string){},
		pulls: map[string]*fleetv1.PullProgress{}, images: map[string]registry.Image{
			"reg/iris:1": {Digest: "sha256:aa", Arches: []string{"amd64", "arm64"}},
			"reg/iris:2": {Digest: "sha256:bb", Arches: []string{"amd64"}},
		}}
	w.members = &members{w: w}
	w.jobs, w.dir = newFakeJobs(), t.TempDir()
	quiet := slog.New(slog.DiscardHandler)
	a := New(Config{Store: w.store, Log: w, Sessions: w, Events: w, Images: w, Endpoints: w, Members: w.members,
		Sealer: clearSealer{}, MaxServicesPerUser: servicesPerUser, MaxJobsPerProject: 3, MaxAppsPerProject: 3, MaxCredentialsPerUser: 10,
		Jobs: w.jobs, Storage: func(string) (*storage.Storage, error) { return storage.Open(storage.Config{Dirs: []string{w.dir}}) }, Now: func() time.Time { return start }, Logger: quiet})
	asRoot := auth.Caller{Name: "root", Role: fleetv1.RoleAdmin, Project: fleetv1.Default, Account: fleetv1.Default}
	in := auth.NewInterceptors(auth.Config{Logger: quiet, Authenticator: auth.NewAuthenticator(auth.AuthenticatorConfig{
		View: w.store.View, Sealer: clearSealer{}, Now: func() time.Time { return start }})})
	srv := grpc.NewServer(
		// Who shows a token is known by it; the others are root.
		grpc.ChainUnaryInterceptor(func(ctx context.Context, req any, info *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
			if len(metadata.ValueFromIncomingContext(ctx, "authorization")) > 0 {
				return in.Unary(ctx, req, info, next)
			}
			return next(auth.NewContext(ctx, asRoot), req)
		}, UnaryErrors(quiet)), grpc.ChainStreamInterceptor(func(srv any, ss grpc.ServerStream, info *grpc.StreamServerInfo, next grpc.StreamHandler) error {
			if len(metadata.ValueFromIncomingContext(ss.Context(), "authorization")) > 0 {
				return in.Stream(srv, ss, info, next)
			}
			return next(srv, ss)
		}, StreamErrors(quiet)))
	a.Register(srv)
	l := bufconn.Listen(1 << 20)
	go srv.Serve(l)
	t.Cleanup(srv.Stop)
	conn, err := grpc.NewClient("passthrough:world", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return l.DialContext(ctx) }))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	w.conn = conn
	return w
}

func (w *world) Propose(_ context.Context, cmd *fleetv1.Command) (state.Result, error) {
	w.mu.Lock()
	before := w.before
	w.before = nil
	w.mu.Unlock()
	if before != nil {
		before()
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.index++
	result, events := w.store.Apply(w.index, cmd)
	w.events = append(w.events, events...)
	err := w.fault
	w.fault = nil
	return result, err
}

func (w *world) ReadIndex(context.Context) error {
	w.mu.Lock()
	w.reads++
	read := w.read
	w.mu.Unlock()
	if read != nil {
		return read()
	}
	return nil
}

func (w *world) IsLeader() bool { return !w.follows }

func (w *world) Resolve(_ context.Context, image string) (registry.Image, error) {
	if err := w.broken[image]; err != nil {
		return registry.Image{}, err
	}
	if i, ok := w.images[image]; ok {
		return i, nil
	}
	return registry.Image{}, &registry.Error{Image: image, Host: "reg", Kind: registry.ErrNotFound, Hint: "push it"}
}

func (w *world) LastHeartbeat(string) time.Time { return start }

func (w *world) DeviceSample(node, device string) *fleetv1.DeviceSample {
	use := 0.25
	return &fleetv1.DeviceSample{DeviceId: node + " " + device, Utilisation: &use}
}

func (w *world) Pull(id string) *fleetv1.PullProgress {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.pulls[id]
}

func (w *world) OnPull(f func(string)) func() {
	w.mu.Lock()
	defer w.mu.Unlock()
	id := len(w.onPulls)
	w.onPulls[id] = f
	return func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		delete(w.onPulls, id)
	}
}

// pulled makes an instance's pull move on.
func (w *world) pulled(id string, done int64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.pulls[id] = &fleetv1.PullProgress{InstanceId: id, DoneBytes: done}
	for _, f := range w.onPulls {
		f(id)
	}
}

func (w *world) OpenRelay(_ context.Context, node string, order *fleetv1.RelayOrder) (session.Relay, error) {
	r := w.relays[node]
	if r == nil {
		return nil, status.Errorf(codes.Unavailable, "node %q is not connected", node)
	}
	r.order = order
	return r, nil
}

func (w *world) List(_ context.Context, f *fleetv1.EventFilter) ([]*fleetv1.Event, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.filter = f
	return w.events, nil
}

func (w *world) Watch(ctx context.Context, f *fleetv1.EventFilter, send func([]*fleetv1.Event) error) error {
	all, err := w.List(ctx, f)
	if err != nil {
		return err
	}
	return send(all)
}

func (w *world) Endpoints(_, service string) (*fleetv1.ListEndpointsResponse, error) {
	return &fleetv1.ListEndpointsResponse{Index: w.store.View().Index(), MaxAgeSeconds: 3,
		Endpoints: []*fleetv1.Endpoint{{InstanceId: service}}}, nil
}

// clearSealer keeps secrets as they are.
type clearSealer struct{}

func (clearSealer) Seal(secret []byte, about string) (*fleetv1.SealedKey, error) {
	return &fleetv1.SealedKey{KeyId: about, Ciphertext: secret}, nil
}

func (clearSealer) Open(sealed *fleetv1.SealedKey, _ string) ([]byte, error) {
	return sealed.GetCiphertext(), nil
}

// members are one scheduler that remembers what it was asked for.
type members struct {
	w     *world
	asked []string
}

func (*members) ClusterStatus() *fleetv1.GetClusterStatusResponse {
	return &fleetv1.GetClusterStatusResponse{LeaderId: "me", Version: "v"}
}

func (*members) List() []*fleetv1.Member { return []*fleetv1.Member{{Id: "me", Name: "s1"}} }

func (m *members) Transfer(_ context.Context, to string) (*fleetv1.Member, error) {
	m.asked = append(m.asked, "transfer "+to)
	return &fleetv1.Member{Id: to}, nil
}

func (m *members) Remove(ctx context.Context, id string, force bool, as *fleetv1.Command) (*fleetv1.Member, error) {
	m.asked = append(m.asked, fmt.Sprintf("%s removes %s (force %v)", as.GetCaller(), id, force))
	if id == "old" {
		return nil, &member.VersionError{Scheduler: "s2", Has: 2, Needs: 3}
	}
	return &fleetv1.Member{Id: id}, m.write(ctx, as)
}

func (m *members) RotateKey(ctx context.Context, as *fleetv1.Command) (string, error) {
	m.asked = append(m.asked, fmt.Sprintf("rotate (new %v)", as != nil))
	return "k", m.write(ctx, as)
}

// write leaves the request ID.
func (m *members) write(ctx context.Context, as *fleetv1.Command) error {
	if as == nil {
		return nil
	}
	cmd := &fleetv1.Command{Time: timestamppb.New(start), RequestId: as.GetRequestId(), RequestScope: as.GetRequestScope(), RequestDigest: as.GetRequestDigest(),
		Op: &fleetv1.Command_Write{Write: &fleetv1.Write{}}}
	cmd.Introduced = state.Introduced(cmd)
	_, err := m.w.Propose(ctx, cmd)
	return err
}

// put stores objects past the API.
func (w *world) put(objects ...proto.Message) {
	w.t.Helper()
	for _, o := range objects {
		w.write(state.Put(0, o))
	}
}

func (w *world) write(m *fleetv1.Mutation) {
	w.t.Helper()
	cmd := &fleetv1.Command{Time: timestamppb.New(start), Op: &fleetv1.Command_Write{Write: &fleetv1.Write{Mutations: []*fleetv1.Mutation{m}}}}
	cmd.Introduced = state.Introduced(cmd)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.index++
	if r, _ := w.store.Apply(w.index, cmd); len(r.Rejections) > 0 {
		w.t.Fatalf("rejected: %+v", r.Rejections)
	}
}

// setState makes the service loop's part of a service.
func (w *world) setState(name, to string) {
	w.t.Helper()
	s := w.store.View().Service(fleetv1.Default, name)
	after := proto.CloneOf(s)
	after.Status = &fleetv1.ServiceStatus{State: to, DeployTime: s.GetDesired().GetStartTime()}
	w.write(state.Put(s.GetMeta().GetRevision(), after))
}

func meta(name string) *fleetv1.Meta {
	return &fleetv1.Meta{Name: name, Id: name + "-id", Project: fleetv1.Default, Account: fleetv1.Default}
}

// furnish makes what a service needs.
func (w *world) furnish() {
	w.t.Helper()
	w.put(
		&fleetv1.Node{Meta: meta("n1"), Facts: &fleetv1.NodeFacts{Arch: "amd64", CpuMillis: 4000, MemoryBytes: 8 << 30, DiskBytes: 100 << 30,
			MountDirs: []string{"/data/models"}, Labels: map[string]string{"zone": "a"},
			Devices: []*fleetv1.Device{{Id: "GPU-0", Vendor: "fake", Model: "H100-80GB", Health: fleetv1.Healthy, MemoryBytes: 80 << 30}}},
			Status: &fleetv1.NodeStatus{State: fleetv1.NodeReady}},
		&fleetv1.Pool{Meta: meta("own"), Spec: &fleetv1.PoolSpec{Type: fleetv1.PoolDedicated, Account: fleetv1.Default, Nodes: []string{"n1"}}},
		&fleetv1.Pool{Meta: meta("shared"), Spec: &fleetv1.PoolSpec{Type: fleetv1.PoolPublic, Nodes: []string{"n1"}}},
		&fleetv1.Pool{Meta: meta("theirs"), Spec: &fleetv1.PoolSpec{Type: fleetv1.PoolDedicated, Account: "acme", Nodes: []string{"n1"}}},
		flavor("cpu.1u1g", nil), flavor("cpu.huge", func(s *fleetv1.FlavorSpec) { s.CpuMillis = 64000 }),
		flavor("arm", func(s *fleetv1.FlavorSpec) { s.Arch = "arm64" }),
		flavor("gpu.1", func(s *fleetv1.FlavorSpec) { s.Accelerator = &fleetv1.Accelerator{Vendor: "fake", Count: 1} }),
		model("iris", "0.0.1", nil), model("iris", "0.0.2", nil),
		model("batch", "0.0.1", func(m *fleetv1.Model) { m.Spec.DeployTypes = []string{"batch"} }),
		model("broken", "0.0.1", func(m *fleetv1.Model) { m.Status.State, m.Status.Reason = fleetv1.ModelAbnormal, "gone" }),
		model("needy", "0.0.1", func(m *fleetv1.Model) { m.Spec.Accelerator = "nvidia" }),
		model("x86", "0.0.1", func(m *fleetv1.Model) { m.Status.Arches = []string{"amd64"} }),
	)
}

func flavor(name string, edit func(*fleetv1.FlavorSpec)) *fleetv1.Flavor {
	f := &fleetv1.Flavor{Meta: meta(name), Spec: &fleetv1.FlavorSpec{CpuMillis: 1000, MemoryBytes: 1 << 30}}
	if edit != nil {
		edit(f.Spec)
	}
	return f
}

func model(name, version string, edit func(*fleetv1.Model)) *fleetv1.Model {
	m := &fleetv1.Model{Meta: meta(name), Spec: &fleetv1.ModelSpec{Version: version, Image: "reg/iris:1", DeployTypes: []string{"real-time"}},
		Status: &fleetv1.ModelStatus{State: fleetv1.ModelNormal, ImageDigest: "sha256:aa", Arches: []string{"amd64", "arm64"}}}
	if edit != nil {
		edit(m)
	}
	return m
}

// iris is a valid service.
func iris(edit func(*fleetv1.Service)) *fleetv1.Service {
	s := &fleetv1.Service{Meta: &fleetv1.Meta{Name: "iris"}, Spec: &fleetv1.ServiceSpec{Pool: "own",
		Versions: []*fleetv1.ServiceVersion{{Model: "iris", Flavor: "cpu.1u1g"}}}}
	if edit != nil {
		edit(s)
	}
	return s
}

func (w *world) services() fleetv1.ServiceServiceClient {
	return fleetv1.NewServiceServiceClient(w.conn)
}

func (w *world) deploy(s *fleetv1.Service, requestID string) (*fleetv1.DeployServiceResponse, error) {
	return w.services().DeployService(w.t.Context(), &fleetv1.DeployServiceRequest{Service: s, RequestId: requestID})
}

func (w *world) mustDeploy(s *fleetv1.Service) *fleetv1.Service {
	w.t.Helper()
	resp, err := w.deploy(s, "")
	if err != nil {
		w.t.Fatal(err)
	}
	return resp.GetService()
}

// refused checks an error: its code, that it is one line that has the words, that it names the field
// (unless empty), and that the store is as it was.
func (w *world) refused(name string, err error, code codes.Code, field, words string, before uint64) {
	w.t.Helper()
	s := status.Convert(err)
	if s.Code() != code || !strings.Contains(s.Message(), words) || strings.ContainsAny(s.Message(), "\n\r") {
		w.t.Errorf("%s: got %v %q; want %v and one line with %q", name, s.Code(), s.Message(), code, words)
	}
	if field != "" {
		if !strings.HasPrefix(s.Message(), field+": ") {
			w.t.Errorf("%s: %q does not start with the field %s", name, s.Message(), field)
		}
		named := false
		for _, d := range s.Details() {
			if b, ok := d.(*errdetails.BadRequest); ok {
				named = len(b.GetFieldViolations()) > 0 && b.GetFieldViolations()[0].GetField() == field
			}
		}
		if !named {
			w.t.Errorf("%s: the details don't name the field %s: %v", name, field, s.Details())
		}
	}
	if now := w.store.View().Index(); now != before {
		w.t.Errorf("%s: the store went from index %d to %d", name, before, now)
	}
}

type fakeRelay struct {
	order  *fleetv1.RelayOrder
	out    chan *fleetv1.RelayRequest
	in     chan *fleetv1.RelayResponse
	closed chan struct{}
	once   sync.Once
}

func newRelay() *fakeRelay {
	return &fakeRelay{out: make(chan *fleetv1.RelayRequest, 8), in: make(chan *fleetv1.RelayResponse, 8), closed: make(chan struct{})}
}

func (r *fakeRelay) Recv() (*fleetv1.RelayRequest, error) {
	select {
	case m, ok := <-r.out:
		if !ok {
			return nil, io.EOF
		}
		return m, nil
	case <-r.closed:
		return nil, status.Error(codes.Canceled, "closed")
	}
}

func (r *fakeRelay) Send(m *fleetv1.RelayResponse) error { r.in <- m; return nil }
func (r *fakeRelay) Close()                              { r.once.Do(func() { close(r.closed) }) }
