package scheduler_test

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	ggcr "github.com/google/go-containerregistry/pkg/registry"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
	"github.com/drover-fleet/drover/scheduler"
)

const patience = 20 * time.Second

// running is a scheduler in this process, with a connection to it.
type running struct {
	t      *testing.T
	server *scheduler.Server
	conn   *grpc.ClientConn
	dir    string
	end    func() // asks the server to stop, without waiting
	stop   func()
}

func testConfig(dir string) scheduler.Config {
	cfg := scheduler.DefaultConfig()
	cfg.DataDir, cfg.Insecure = dir, true
	cfg.GRPCAddr, cfg.HTTPAddr, cfg.RaftAddr = "127.0.0.1:0", "127.0.0.1:0", "127.0.0.1:0"
	cfg.StorageDirs = []string{filepath.Join(dir, "shared")}
	cfg.LookupsPerUser = 0 // tests ask until an answer has what they wait for
	cfg.HeartbeatInterval, cfg.LeaseDuration, cfg.LookupMaxAge = 100*time.Millisecond, 5*time.Second, time.Second
	return cfg
}

func run(t *testing.T, dir string) *running {
	t.Helper()
	s, err := scheduler.New(testConfig(dir), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	conn, err := grpc.NewClient(s.GRPCAddr(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	r := &running{t: t, server: s, conn: conn, dir: dir, end: cancel}
	stopped := false
	r.stop = func() {
		if stopped {
			return
		}
		stopped = true
		conn.Close()
		cancel()
		select {
		case err := <-ended:
			if err != nil {
				t.Errorf("Run: %v", err)
			}
		case <-time.After(patience):
			t.Error("Run does not end")
		}
	}
	t.Cleanup(r.stop)
	select {
	case <-s.Ready():
	case <-time.After(patience):
		t.Fatal("the scheduler does not become ready")
	}
	return r
}

func (r *running) token(file string) string {
	r.t.Helper()
	path := filepath.Join(r.dir, file)
	b, err := os.ReadFile(path)
	if err != nil {
		r.t.Fatal(err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		r.t.Errorf("%s: mode %v, %v", file, info.Mode(), err)
	}
	return strings.TrimSpace(string(b))
}

func (r *running) admin() context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	r.t.Cleanup(cancel)
	return metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+r.token(scheduler.AdminTokenFile))
}

// until watches the service until it is in the state.
func (r *running) until(state string) *fleetv1.WatchServiceResponse {
	r.t.Helper()
	stream, err := fleetv1.NewServiceServiceClient(r.conn).WatchService(r.admin(), &fleetv1.WatchServiceRequest{Name: "iris"})
	if err != nil {
		r.t.Fatal(err)
	}
	var last *fleetv1.WatchServiceResponse
	for {
		resp, err := stream.Recv()
		if err != nil {
			r.t.Fatalf("waiting for %s: %v; last %v", state, err, last.GetService().GetStatus())
		}
		last = resp
		if resp.GetService().GetStatus().GetState() == state {
			return resp
		}
	}
}

// lookup answers status and ports of the HTTP look-up.
func (r *running) lookup() (int, []int) {
	r.t.Helper()
	req, err := http.NewRequest(http.MethodGet, "http://"+r.server.HTTPAddr()+"/v1/default/services/iris/predict/endpoints?type=host_endpoints", nil)
	if err != nil {
		r.t.Fatal(err)
	}
	req.Header.Set("X-Auth-Token", r.token(scheduler.AdminTokenFile))
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		r.t.Fatal(err)
	}
	defer resp.Body.Close()
	var out struct {
		HostEndpoints []struct{ Port int } `json:"host_endpoints"`
	}
	if err := json.NewDecoder(resp.Body).Decode(&out); err != nil {
		r.t.Fatal(err)
	}
	var ports []int
	for _, e := range out.HostEndpoints {
		ports = append(ports, e.Port)
	}
	return resp.StatusCode, ports
}

// wantPorts polls the look-up, which follows the store without telling when.
// wantPorts waits for an answer with so many; of a stopped service there is none.
func (r *running) wantPorts(n int) {
	r.t.Helper()
	want := http.StatusOK
	if n == 0 {
		want = http.StatusConflict
	}
	deadline := time.Now().Add(patience)
	for {
		status, ports := r.lookup()
		if status == want && len(ports) == n {
			return
		}
		if time.Now().After(deadline) {
			r.t.Fatalf("look-up: %d %v, want %d endpoints", status, ports, n)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// image pushes one to a registry of the test's own and answers its reference.
func image(t *testing.T) string {
	t.Helper()
	srv := httptest.NewServer(ggcr.New(ggcr.Logger(log.New(io.Discard, "", 0))))
	t.Cleanup(srv.Close)
	img, err := random.Image(64, 1)
	if err != nil {
		t.Fatal(err)
	}
	cfg, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	cfg = cfg.DeepCopy()
	cfg.OS, cfg.Architecture = "linux", "amd64"
	if img, err = mutate.ConfigFile(img, cfg); err != nil {
		t.Fatal(err)
	}
	ref := strings.TrimPrefix(srv.URL, "http://") + "/models/iris:1"
	tag, err := name.ParseReference(ref)
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.Write(tag, img); err != nil {
		t.Fatal(err)
	}
	return ref
}

// declare makes everything that the service needs.
func (r *running) declare() {
	r.t.Helper()
	ctx := r.admin()
	_, err := fleetv1.NewFlavorServiceClient(r.conn).CreateFlavor(ctx, &fleetv1.CreateFlavorRequest{Flavor: &fleetv1.Flavor{
		Meta: &fleetv1.Meta{Name: "cpu.1"}, Spec: &fleetv1.FlavorSpec{CpuMillis: 1000, MemoryBytes: 1 << 30}}})
	if err != nil {
		r.t.Fatal(err)
	}
	_, err = fleetv1.NewPoolServiceClient(r.conn).CreatePool(ctx, &fleetv1.CreatePoolRequest{Pool: &fleetv1.Pool{
		Meta: &fleetv1.Meta{Name: "own"}, Spec: &fleetv1.PoolSpec{Type: "dedicated", Selector: map[string]string{"zone": "a"}}}})
	if err != nil {
		r.t.Fatal(err)
	}
	m, err := fleetv1.NewModelServiceClient(r.conn).CreateModel(ctx, &fleetv1.CreateModelRequest{Model: &fleetv1.Model{
		Meta: &fleetv1.Meta{Name: "iris"}, Spec: &fleetv1.ModelSpec{Image: image(r.t)}}})
	if err != nil {
		r.t.Fatal(err)
	}
	if s := m.GetModel().GetStatus(); s.GetState() != "Normal" || !strings.HasPrefix(s.GetImageDigest(), "sha256:") {
		r.t.Fatalf("model %v", m)
	}
}

func (r *running) deploy(instances int32) {
	r.t.Helper()
	_, err := fleetv1.NewServiceServiceClient(r.conn).DeployService(r.admin(), &fleetv1.DeployServiceRequest{Service: &fleetv1.Service{
		Meta: &fleetv1.Meta{Name: "iris"}, Spec: &fleetv1.ServiceSpec{Pool: "own",
			Versions: []*fleetv1.ServiceVersion{{Model: "iris", Flavor: "cpu.1", Instances: instances}}}}})
	if err != nil {
		r.t.Fatal(err)
	}
}

func TestDeployLookUpStopRestart(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	r := run(t, dir)
	r.declare()
	agent := connect(t, r.conn, r.token(scheduler.AgentTokenFile))
	r.deploy(2)
	r.until("Running")
	r.wantPorts(2)

	cluster, err := fleetv1.NewClusterServiceClient(r.conn).GetClusterStatus(r.admin(), &fleetv1.GetClusterStatusRequest{})
	if err != nil || cluster.GetNodesReady() != 1 || cluster.GetServices() != 1 || cluster.GetInstances() != 2 || len(cluster.GetMembers()) != 1 {
		t.Errorf("cluster status: %v, %v", cluster, err)
	}
	nodes, err := fleetv1.NewNodeServiceClient(r.conn).ListNodes(r.admin(), &fleetv1.ListNodesRequest{Pool: "own"})
	if err != nil || len(nodes.GetNodes()) != 1 || nodes.GetNodes()[0].GetStatus().GetAllocatedCpuMillis() != 2000 {
		t.Errorf("nodes: %v, %v", nodes, err)
	}

	// A restart of the scheduler keeps everything; the agent comes back with what it runs.
	agent.close()
	r.stop()
	r = run(t, dir)
	if again := r.until("Running"); len(again.GetInstances()) != 2 {
		t.Errorf("after the restart: %v", again)
	}
	r.wantPorts(2) // the node has a full lease from the election
	connect(t, r.conn, r.token(scheduler.AgentTokenFile))
	services := fleetv1.NewServiceServiceClient(r.conn)
	if _, err := services.StopService(r.admin(), &fleetv1.StopServiceRequest{Name: "iris", RequestId: "stop"}); err != nil {
		t.Fatal(err)
	}
	r.wantPorts(0)
	r.until("Stopped")
	if _, err := services.StopService(r.admin(), &fleetv1.StopServiceRequest{Name: "iris", RequestId: "stop"}); err != nil {
		t.Errorf("the same stop again: %v", err)
	}
	if _, err := services.StartService(r.admin(), &fleetv1.StartServiceRequest{Name: "iris"}); err != nil {
		t.Fatal(err)
	}
	r.until("Running")
	r.wantPorts(2)

	found, err := fleetv1.NewEventServiceClient(r.conn).ListEvents(r.admin(), &fleetv1.ListEventsRequest{
		Filter: &fleetv1.EventFilter{Kind: "service", Name: "iris"}})
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]int{}
	for _, e := range found.GetEvents() {
		seen[e.GetReason()]++
	}
	for _, reason := range []string{"DeploymentStarted", "ServiceRunning", "Stopping", "Stopped", "Starting"} {
		if seen[reason] == 0 {
			t.Errorf("no event %s among %v", reason, seen)
		}
	}
	if seen["DeploymentStarted"] != 1 || seen["Stopped"] != 1 {
		t.Errorf("events told twice: %v", seen)
	}
	r.deleted()
}

// deleted deletes the service and waits until it is gone.
func (r *running) deleted() {
	r.t.Helper()
	services := fleetv1.NewServiceServiceClient(r.conn)
	stream, err := services.WatchService(r.admin(), &fleetv1.WatchServiceRequest{Name: "iris"})
	if err != nil {
		r.t.Fatal(err)
	}
	if _, err := services.DeleteService(r.admin(), &fleetv1.DeleteServiceRequest{Name: "iris"}); err != nil {
		r.t.Fatal(err)
	}
	for err == nil {
		_, err = stream.Recv()
	}
	if status.Code(err) != codes.NotFound {
		r.t.Fatalf("waiting for the deletion: %v", err)
	}
	deadline := time.Now().Add(patience)
	for code, _ := r.lookup(); code != http.StatusNotFound; code, _ = r.lookup() {
		if time.Now().After(deadline) {
			r.t.Fatalf("look-up of a deleted service: %d", code)
		}
		time.Sleep(5 * time.Millisecond)
	}
	if _, err := fleetv1.NewModelServiceClient(r.conn).DeleteModel(r.admin(), &fleetv1.DeleteModelRequest{Name: "iris"}); err != nil {
		r.t.Errorf("an unused model: %v", err)
	}
}

func TestWatchersDoNotDelayTheEnd(t *testing.T) {
	t.Parallel()
	r := run(t, t.TempDir())
	r.declare()
	r.deploy(1)
	stream, err := fleetv1.NewServiceServiceClient(r.conn).WatchService(r.admin(), &fleetv1.WatchServiceRequest{Name: "iris"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Recv(); err != nil {
		t.Fatal(err)
	}
	r.end()
	for err == nil {
		_, err = stream.Recv()
	}
	if status.Code(err) != codes.Unavailable {
		t.Errorf("the watcher's end: %v", err)
	}
}

// A request ID takes effect once, and for one request alone, also when the scheduler was restarted in between.
func TestRequestIDsOutliveARestart(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	r := run(t, dir)
	r.declare()
	r.deploy(1)
	flavor := func(name string) error {
		_, err := fleetv1.NewFlavorServiceClient(r.conn).CreateFlavor(r.admin(), &fleetv1.CreateFlavorRequest{RequestId: "flavor",
			Flavor: &fleetv1.Flavor{Meta: &fleetv1.Meta{Name: name}, Spec: &fleetv1.FlavorSpec{CpuMillis: 1000, MemoryBytes: 1 << 30}}})
		return err
	}
	stop := func(id string) error {
		_, err := fleetv1.NewServiceServiceClient(r.conn).StopService(r.admin(), &fleetv1.StopServiceRequest{Name: "iris", RequestId: id})
		return err
	}
	model := func(ref string) (*fleetv1.Model, error) {
		resp, err := fleetv1.NewModelServiceClient(r.conn).CreateModel(r.admin(), &fleetv1.CreateModelRequest{RequestId: "model",
			Model: &fleetv1.Model{Meta: &fleetv1.Meta{Name: "other"}, Spec: &fleetv1.ModelSpec{Image: ref}}})
		return resp.GetModel(), err
	}
	ref := image(t)
	first, err := model(ref)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(flavor("a"), stop("stop")); err != nil {
		t.Fatal(err)
	}
	r.until("Stopped")

	r.stop()
	r = run(t, dir)
	if err := errors.Join(flavor("a"), stop("stop")); err != nil {
		t.Errorf("the same again: %v", err)
	}
	if again, err := model(ref); err != nil || again.GetMeta().GetId() != first.GetMeta().GetId() {
		t.Errorf("the same model again: %v, %v", again, err)
	}
	if err := stop("stop2"); status.Code(err) != codes.FailedPrecondition || !strings.Contains(err.Error(), "is Stopped") {
		t.Errorf("another stop: %v", err)
	}
	if err := flavor("b"); status.Code(err) != codes.FailedPrecondition || !strings.Contains(err.Error(), `request ID "flavor"`) {
		t.Errorf("another body: %v", err)
	}
	flavors, err := fleetv1.NewFlavorServiceClient(r.conn).ListFlavors(r.admin(), &fleetv1.ListFlavorsRequest{})
	if err != nil || len(flavors.GetFlavors()) != 2 {
		t.Errorf("flavors %v, %v", flavors.GetFlavors(), err)
	}
}
