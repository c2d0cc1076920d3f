package cluster

import (
	"context"
	"io"
	"log"
	"log/slog"
	"net/http/httptest"
	"os"
	"path/filepath"
	goruntime "runtime"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"github.com/drover-fleet/drover/agent"
	"github.com/drover-fleet/drover/client"
	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
	"github.com/drover-fleet/drover/scheduler"
)

// limit is how long anything may take before the test fails: far more than it needs on a busy machine.
const limit = time.Minute

// Options of Start. The zero value is one node without devices.
type Options struct {
	Nodes   int    // 0: one; -1: none
	TLS     bool   // as in production: nodes join with files
	Devices string // of each node, in the notation of `drover dev --devices`: "8xH100-80GB"

	// Scheduler and Agent may change a configuration before it's used, each time it is.
	Scheduler func(cfg *scheduler.Config)
	Agent     func(node int, cfg *agent.Config)
	// FaultPoint is handed to every agent.
	FaultPoint func(node int, name string)
}

// Cluster is a running scheduler and its nodes. Its methods fail the test, and are for the test's own
// goroutine.
type Cluster struct {
	// Client carries the administrator's token.
	Client *client.Client
	// Token is the administrator's, for the HTTP lookup at http://HTTPAddr().
	Token string
	// Image is a reference that resolves; fake runtimes pull anything.
	Image string
	Nodes []*Node

	t      testing.TB
	opts   Options
	dir    string
	logger *slog.Logger

	grpcAddr string // of the first start; later ones take it again
	sched    *scheduler.Server
	daemon   daemon
}

// Start starts a cluster and waits until every node has registered.
func Start(t testing.TB, opts Options) *Cluster {
	t.Helper()
	c := &Cluster{t: t, opts: opts, dir: t.TempDir(), Image: serveImage(t)}
	c.logger = testLogger(t, c.dir)
	c.StartScheduler()
	t.Cleanup(func() { c.daemon.stop(t) })

	token, err := os.ReadFile(filepath.Join(c.dir, "scheduler", "admin.token"))
	if err != nil {
		t.Fatalf("read the administrator's token: %v", err)
	}
	c.Token = strings.TrimSpace(string(token))
	c.Client, err = client.Dial(client.Config{Addr: c.grpcAddr, Token: c.Token, CAFile: c.CAFile()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Client.Close(); err != nil {
			t.Errorf("close the client: %v", err)
		}
	})
	n := opts.Nodes
	if n == 0 {
		n = 1
	}
	for i := range max(n, 0) {
		node := newNode(c, i)
		c.Nodes = append(c.Nodes, node)
		node.Start()
		t.Cleanup(func() { node.close() })
	}
	for _, node := range c.Nodes {
		c.WaitNodeState(node.Name, fleetv1.NodeReady)
	}
	return c
}

// StartScheduler starts the scheduler, again on the address of its first start, and waits until it leads.
func (c *Cluster) StartScheduler() {
	c.t.Helper()
	cfg := scheduler.DefaultConfig()
	cfg.DataDir = filepath.Join(c.dir, "scheduler")
	cfg.Bootstrap, cfg.Insecure = true, !c.opts.TLS
	cfg.GRPCAddr, cfg.HTTPAddr, cfg.RaftAddr = "127.0.0.1:0", "127.0.0.1:0", "127.0.0.1:0"
	cfg.LookupMaxAge = time.Second // every stop takes as long
	cfg.LookupsPerUser = 0         // tests ask until an answer has what they wait for
	if c.grpcAddr != "" {
		cfg.GRPCAddr = c.grpcAddr
	}
	if c.opts.Scheduler != nil {
		c.opts.Scheduler(&cfg)
	}
	s, err := scheduler.New(cfg, c.logger.With("daemon", "scheduler"))
	if err != nil {
		c.t.Fatalf("make the scheduler: %v", err)
	}
	c.sched = s
	c.daemon.start("scheduler", s.Run)
	timeout := time.NewTimer(limit)
	defer timeout.Stop()
	select {
	case <-s.Ready():
	case <-c.daemon.done:
		c.t.Fatalf("the scheduler ended before it was ready: %v", c.daemon.err)
	case <-timeout.C:
		c.t.Fatalf("the scheduler isn't ready after %v", limit)
	}
	c.grpcAddr = s.GRPCAddr()
}

// StopScheduler stops the scheduler in order.
func (c *Cluster) StopScheduler() {
	c.t.Helper()
	c.daemon.stop(c.t)
}

// CAFile holds the certificates that the scheduler is checked by; "" without TLS.
func (c *Cluster) CAFile() string { return c.sched.CAPath() }

// HTTPAddr is where the lookup is answered now.
func (c *Cluster) HTTPAddr() string { return c.sched.HTTPAddr() }

// daemon is a Run(ctx) with an owner.
type daemon struct {
	what   string
	cancel context.CancelFunc
	done   chan struct{} // closed when Run returned; err is set before
	err    error
}

func (d *daemon) start(what string, run func(context.Context) error) {
	ctx, cancel := context.WithCancel(context.Background())
	*d = daemon{what: what, cancel: cancel, done: make(chan struct{})}
	done := d.done
	go func() {
		d.err = run(ctx)
		close(done)
	}()
}

// stop ends the daemon if it runs; an error of its Run fails the test.
func (d *daemon) stop(t testing.TB) {
	t.Helper()
	if d.cancel == nil {
		return
	}
	d.cancel()
	d.cancel = nil
	timeout := time.NewTimer(limit)
	defer timeout.Stop()
	select {
	case <-d.done:
		if d.err != nil {
			t.Errorf("%s: %v", d.what, d.err)
		}
	case <-timeout.C:
		t.Errorf("%s hasn't stopped after %v", d.what, limit)
	}
}

// serveImage serves one image on loopback until the test ends, and returns its reference.
func serveImage(t testing.TB) string {
	t.Helper()
	server := httptest.NewServer(registry.New(registry.Logger(log.New(io.Discard, "", 0))))
	t.Cleanup(server.Close)
	image, err := random.Image(64, 1)
	if err != nil {
		t.Fatal(err)
	}
	image, err = mutate.ConfigFile(image, imageConfig(t, image))
	if err != nil {
		t.Fatal(err)
	}
	ref, err := name.ParseReference(strings.TrimPrefix(server.URL, "http://")+"/echo:1", name.Insecure)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	if err := remote.Write(ref, image, remote.WithContext(ctx)); err != nil {
		t.Fatalf("push the image: %v", err)
	}
	return ref.String()
}

func imageConfig(t testing.TB, image v1.Image) *v1.ConfigFile {
	t.Helper()
	cfg, err := image.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	cfg = cfg.DeepCopy()
	cfg.OS, cfg.Architecture = "linux", goruntime.GOARCH
	return cfg
}

// testLogger keeps what the daemons log and shows it when the test failed.
func testLogger(t testing.TB, dir string) *slog.Logger {
	t.Helper()
	file, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			if b, err := os.ReadFile(file.Name()); err == nil {
				t.Logf("the daemons' log:\n%s", b)
			}
		}
		if err := file.Close(); err != nil {
			t.Errorf("close the log: %v", err)
		}
	})
	return slog.New(slog.NewTextHandler(file, &slog.HandlerOptions{Level: slog.LevelDebug}))
}
