package scheduler_test

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	reflectionpb "google.golang.org/grpc/reflection/grpc_reflection_v1"
	"google.golang.org/grpc/status"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
	"github.com/drover-fleet/drover/scheduler"
)

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
		if err := stream.Send(&fleetv1.SessionRequest{Message: &fleetv1.SessionRequest_Hello{Hello: &fleetv1.Hello{NodeName: "n9", Facts: facts()}}}); err != nil && !errors.Is(err, io.EOF) {
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
		if err == nil || errors.Is(err, io.EOF) {
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
	_, err := scheduler.New(testConfig(dir), slog.New(slog.DiscardHandler))
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
	if _, err := scheduler.New(cfg, slog.New(slog.DiscardHandler)); err == nil || !strings.Contains(err.Error(), cfg.HTTPAddr) {
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
	anywhere := scheduler.DefaultConfig()
	anywhere.GRPCAddr, anywhere.HTTPAddr, anywhere.RaftAddr, anywhere.AdvertiseAddress = ":7400", "0.0.0.0:7401", "10.0.0.1:7402", "s1.example.org"
	if err := anywhere.Validate(); err != nil {
		t.Errorf("any address: %v", err)
	}
	for _, c := range []struct {
		field string
		edit  func(*scheduler.Config)
	}{
		{"data_dir", func(c *scheduler.Config) { c.DataDir = "" }},
		{"grpc_addr", func(c *scheduler.Config) { c.GRPCAddr = "0.0.0.0:7400" }},
		{"http_addr", func(c *scheduler.Config) { c.HTTPAddr = ":7401" }},
		{"raft_addr", func(c *scheduler.Config) { c.RaftAddr = "127.0.0.1" }},
		{"raft_addr", func(c *scheduler.Config) { c.Insecure, c.RaftAddr = true, "example.org:7402" }},
		{"http_addr", func(c *scheduler.Config) { c.Insecure, c.HTTPAddr = true, "10.0.0.1:7401" }},
		{"advertise_address", func(c *scheduler.Config) { c.AdvertiseAddress = "10.0.0.1:7400" }},
		{"certificate_lifetime", func(c *scheduler.Config) { c.CertificateLifetime = time.Second }},
		{"join_file", func(c *scheduler.Config) { c.Insecure, c.JoinFile = true, "x" }},
		{"heartbeat_interval", func(c *scheduler.Config) { c.HeartbeatInterval = 0 }},
		{"lease_duration", func(c *scheduler.Config) { c.LeaseDuration = c.HeartbeatInterval }},
		{"max_services_per_user", func(c *scheduler.Config) { c.MaxServicesPerUser = 0 }},
		{"max_apps_per_project", func(c *scheduler.Config) { c.MaxAppsPerProject = 0 }},
		{"max_credentials_per_user", func(c *scheduler.Config) { c.MaxCredentialsPerUser = -1 }},
		{"max_jobs_per_project", func(c *scheduler.Config) { c.MaxJobsPerProject = 0 }},
		{"storage_dirs", func(c *scheduler.Config) { c.StorageDirs = []string{"data"} }},
		{"storage_dirs", func(c *scheduler.Config) { c.StorageDirs = []string{"/srv/{project}", "/srv/all"} }},
		{"stores.s3", func(c *scheduler.Config) { c.Stores.S3.Endpoint = "https://h" }},
		{"stores.s3", func(c *scheduler.Config) { c.Stores.S3 = scheduler.Store{Endpoint: "h", CAFile: "/nowhere"} }},
		{"stores.obs.endpoint", func(c *scheduler.Config) { c.Stores.OBS.Region = "r" }},
		{"reserve_after", func(c *scheduler.Config) { c.ReserveAfter = 0 }},
		{"snapshot_interval", func(c *scheduler.Config) { c.SnapshotInterval = 0 }},
		{"snapshot_entries", func(c *scheduler.Config) { c.SnapshotEntries = 0 }},
		{"trailing_entries", func(c *scheduler.Config) { c.TrailingEntries = -1 }},
		{"dns_addr", func(c *scheduler.Config) { c.DNSAddr = "10.0.0.1" }},
		{"dns_addr", func(c *scheduler.Config) { c.Insecure, c.DNSAddr = true, "10.0.0.1:53" }},
		{"lookups_per_account", func(c *scheduler.Config) { c.LookupsPerAccount = -1 }},
		{"lookups_per_user", func(c *scheduler.Config) { c.LookupsPerUser = 100_000_001 }},
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
