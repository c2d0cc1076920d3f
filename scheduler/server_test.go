package scheduler_test

import (
	"context"
	"encoding/json"
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

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
	"github.com/drover-fleet/drover/scheduler"
	"github.com/google/go-containerregistry/pkg/name"
	ggcr "github.com/google/go-containerregistry/pkg/registry"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	reflectionpb "google.golang.org/grpc/reflection/grpc_reflection_v1"
	"google.golang.org/grpc/status"
)

const patience = 20 * time.Second

// running is a scheduler in this process, with a connection to it.
type running struct {
	t      *testing.T
	server *scheduler.Server
	conn   *grpc.ClientConn
	dir    string
	stop   func()
}

func testConfig(dir string) scheduler.Config {
	cfg := scheduler.DefaultConfig()
	cfg.DataDir = dir
	cfg.GRPCAddr, cfg.HTTPAddr, cfg.RaftAddr = "127.0.0.1:0", "127.0.0.1:0", "127.0.0.1:0"
	cfg.HeartbeatInterval, cfg.LeaseDuration, cfg.LookupMaxAge = 100*time.Millisecond, 5*time.Second, time.Second
	return cfg
}

func run(t *testing.T, dir string) *running {
	t.Helper()
	s, err := scheduler.New(testConfig(dir), slog.New(slog.NewTextHandler(io.Discard, nil)))
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
	r := &running{t: t, server: s, conn: conn, dir: dir}
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
func (r *running) wantPorts(n int) {
	r.t.Helper()
	deadline := time.Now().Add(patience)
	for {
		status, ports := r.lookup()
		if status == http.StatusOK && len(ports) == n {
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

func TestAccess(t *testing.T) {
	t.Parallel()
	r := run(t, t.TempDir())
	with := func(token string) context.Context {
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		t.Cleanup(cancel)
		if token == "" {
			return ctx
		}
		return metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+token)
	}
	admin, agent := r.token(scheduler.AdminTokenFile), r.token(scheduler.AgentTokenFile)
	list := func(token string) codes.Code {
		_, err := fleetv1.NewNodeServiceClient(r.conn).ListNodes(with(token), &fleetv1.ListNodesRequest{})
		return status.Code(err)
	}
	session := func(token string) codes.Code {
		stream, err := fleetv1.NewAgentServiceClient(r.conn).Session(with(token))
		if err != nil {
			return status.Code(err)
		}
		if err := stream.Send(&fleetv1.SessionRequest{Message: &fleetv1.SessionRequest_Hello{Hello: &fleetv1.Hello{NodeName: "n9", Facts: facts()}}}); err != nil && err != io.EOF {
			return status.Code(err)
		}
		_, err = stream.Recv()
		return status.Code(err)
	}
	reflect := func(token string) codes.Code {
		stream, err := reflectionpb.NewServerReflectionClient(r.conn).ServerReflectionInfo(with(token))
		if err == nil {
			err = stream.Send(&reflectionpb.ServerReflectionRequest{MessageRequest: &reflectionpb.ServerReflectionRequest_ListServices{}})
		}
		if err == nil || err == io.EOF {
			_, err = stream.Recv()
		}
		return status.Code(err)
	}
	for _, c := range []struct {
		what      string
		got, want codes.Code
	}{
		{"admin lists", list(admin), codes.OK}, {"agent lists", list(agent), codes.PermissionDenied},
		{"nobody lists", list(""), codes.Unauthenticated}, {"stranger lists", list("drover-guess"), codes.Unauthenticated},
		{"agent connects", session(agent), codes.OK}, {"admin connects", session(admin), codes.PermissionDenied},
		{"nobody connects", session(""), codes.Unauthenticated},
		{"admin reflects", reflect(admin), codes.OK}, {"nobody reflects", reflect(""), codes.Unauthenticated},
	} {
		if c.got != c.want {
			t.Errorf("%s: %v, want %v", c.what, c.got, c.want)
		}
	}
	health, err := healthpb.NewHealthClient(r.conn).Check(with(""), &healthpb.HealthCheckRequest{})
	if err != nil || health.GetStatus() != healthpb.HealthCheckResponse_SERVING {
		t.Errorf("health: %v, %v", health, err)
	}
	if err := r.server.Healthy(); err != nil || !strings.HasPrefix(r.server.Status(), "leads; ") {
		t.Errorf("healthy: %v, status %q", err, r.server.Status())
	}
}

func (r *running) page(path string) (int, string) {
	r.t.Helper()
	resp, err := http.Get("http://" + r.server.HTTPAddr() + path)
	if err != nil {
		r.t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		r.t.Fatal(err)
	}
	return resp.StatusCode, string(b)
}

func TestPages(t *testing.T) {
	t.Parallel()
	r := run(t, t.TempDir())
	code, page := r.page("/metrics")
	for _, want := range []string{"drover_build_info{", "drover_scheduler_leader 1", "drover_scheduler_raft_applied_index ", "go_goroutines ",
		`drover_scheduler_proposals_total{result="applied"} 1`, "drover_scheduler_sessions 0", "drover_scheduler_events_queued 0"} {
		if code != http.StatusOK || !strings.Contains(page, want) {
			t.Errorf("/metrics (%d) has no %q", code, want)
		}
	}
	if code, page := r.page("/healthz"); code != http.StatusOK || !strings.HasPrefix(page, "leads") {
		t.Errorf("/healthz: %d %q", code, page)
	}
	if code, _ := r.page("/elsewhere"); code != http.StatusNotFound {
		t.Errorf("/elsewhere: %d", code)
	}
}

func TestDataDirIsLocked(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	r := run(t, dir)
	_, err := scheduler.New(testConfig(dir), slog.New(slog.NewTextHandler(io.Discard, nil)))
	if err == nil || !strings.Contains(err.Error(), dir) {
		t.Fatalf("a second scheduler on %s: %v", dir, err)
	}
	if _, err := fleetv1.NewNodeServiceClient(r.conn).ListNodes(r.admin(), &fleetv1.ListNodesRequest{}); err != nil {
		t.Errorf("the first one suffers: %v", err)
	}
}

func TestPortTaken(t *testing.T) {
	t.Parallel()
	r := run(t, t.TempDir())
	cfg := testConfig(t.TempDir())
	cfg.HTTPAddr = r.server.HTTPAddr()
	if _, err := scheduler.New(cfg, slog.New(slog.NewTextHandler(io.Discard, nil))); err == nil || !strings.Contains(err.Error(), cfg.HTTPAddr) {
		t.Errorf("got %v", err)
	}
	if left, err := os.ReadDir(cfg.DataDir); err != nil || len(left) != 0 {
		t.Errorf("it left %v, %v", left, err)
	}
}

func TestBootstrapTakesUpItsTokenFiles(t *testing.T) {
	t.Parallel()
	dir := t.TempDir() // as left by a crash after the files were written and before they were committed
	if err := os.WriteFile(filepath.Join(dir, scheduler.AdminTokenFile), []byte("drover-earlier\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	r := run(t, dir)
	if got := r.token(scheduler.AdminTokenFile); got != "drover-earlier" {
		t.Errorf("the token became %q", got)
	}
	if _, err := fleetv1.NewNodeServiceClient(r.conn).ListNodes(r.admin(), &fleetv1.ListNodesRequest{}); err != nil {
		t.Error(err)
	}
}

func TestConfigValidate(t *testing.T) {
	t.Parallel()
	if err := scheduler.DefaultConfig().Validate(); err != nil {
		t.Errorf("the default: %v", err)
	}
	for _, c := range []struct {
		field string
		edit  func(*scheduler.Config)
	}{
		{"data_dir", func(c *scheduler.Config) { c.DataDir = "" }},
		{"grpc_addr", func(c *scheduler.Config) { c.GRPCAddr = "0.0.0.0:7400" }},
		{"http_addr", func(c *scheduler.Config) { c.HTTPAddr = ":7401" }},
		{"raft_addr", func(c *scheduler.Config) { c.RaftAddr = "127.0.0.1" }},
		{"raft_addr", func(c *scheduler.Config) { c.RaftAddr = "example.org:7402" }},
		{"heartbeat_interval", func(c *scheduler.Config) { c.HeartbeatInterval = 0 }},
		{"lease_duration", func(c *scheduler.Config) { c.LeaseDuration = c.HeartbeatInterval }},
		{"max_services_per_user", func(c *scheduler.Config) { c.MaxServicesPerUser = 0 }},
		{"lookup_max_age", func(c *scheduler.Config) { c.LookupMaxAge = 1500 * time.Millisecond }},
	} {
		cfg := scheduler.DefaultConfig()
		c.edit(&cfg)
		if err := cfg.Validate(); err == nil || !strings.HasPrefix(err.Error(), c.field+": ") {
			t.Errorf("%s: %v", c.field, err)
		}
		if _, err := scheduler.New(cfg, slog.Default()); err == nil {
			t.Errorf("%s: New takes it", c.field)
		}
	}
}
