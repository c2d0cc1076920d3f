package containerd

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	goruntime "runtime"
	"sync"

	client "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/pkg/namespaces"

	"github.com/drover-fleet/drover/runtime"
)

// Registry answers how a registry host is spoken to.
type Registry interface {
	Credentials(host string) (user, secret string, err error)
	PlainHTTP(host string) bool
}

// Config of the runtime. Zero values mean the defaults.
type Config struct {
	Socket    string // of containerd; /run/containerd/containerd.sock
	Namespace string // of containerd; "drover"
	DataDir   string // required: network namespaces, addresses, files of containers

	CNIBinDirs []string // /opt/cni/bin, /usr/lib/cni
	Bridge     string   // name of the bridge; "drover0"
	Subnet     string   // of the bridge; "10.83.0.0/16"

	CgroupParent string // absolute path in the cgroup hierarchies; "/drover"
	CgroupRoot   string // where they are mounted; /sys/fs/cgroup
	LoggerBinary string // required: run as "LoggerBinary logger DIR" for each container

	Registry Registry // required
	Devices  Devices  // nil: containers that ask for devices are refused
	Logger   *slog.Logger
}

// maxBridge keeps the names of the iptables chains, which end in the bridge's, below 29 bytes.
const maxBridge = 15

func (c *Config) fill() error {
	for value, def := range map[*string]string{
		&c.Socket: "/run/containerd/containerd.sock", &c.Namespace: "drover", &c.Bridge: "drover0",
		&c.Subnet: "10.83.0.0/16", &c.CgroupParent: "/drover", &c.CgroupRoot: "/sys/fs/cgroup",
	} {
		if *value == "" {
			*value = def
		}
	}
	if len(c.CNIBinDirs) == 0 {
		c.CNIBinDirs = []string{"/opt/cni/bin", "/usr/lib/cni"}
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	subnet, err := netip.ParsePrefix(c.Subnet)
	switch {
	case err != nil || !subnet.Addr().Is4() || subnet.Bits() > 29:
		return fmt.Errorf("subnet %q is not an IPv4 prefix of at most 29 bits", c.Subnet)
	case len(c.Bridge) > maxBridge:
		return fmt.Errorf("bridge name %q is longer than %d bytes", c.Bridge, maxBridge)
	case !filepath.IsAbs(c.CgroupParent):
		return fmt.Errorf("cgroup parent %q is not an absolute path", c.CgroupParent)
	case !filepath.IsAbs(c.DataDir):
		return fmt.Errorf("data directory %q is not an absolute path", c.DataDir)
	case !filepath.IsAbs(c.LoggerBinary):
		return fmt.Errorf("logger binary %q is not an absolute path", c.LoggerBinary)
	case c.Registry == nil:
		return errors.New("no registry configuration")
	}
	c.Subnet = subnet.Masked().String()
	return nil
}

// Runtime runs containers with containerd. Make it with New.
type Runtime struct {
	cfg     Config
	client  *client.Client
	cgroups cgroups
	network *network
	records *records
	holds   holds
	images  *imageCache
	pulls   *pulls
	hub     *hub
	loggers *loggerWatch
	arch    string

	stop  context.CancelFunc
	tasks sync.WaitGroup
	close func() error
}

var _ runtime.Runtime = (*Runtime)(nil)

// New makes a runtime. It asks containerd nothing, which may be away at the time: it connects when first needed
// and after each interruption. Close ends it; containers run on.
func New(_ context.Context, cfg Config) (*Runtime, error) {
	if err := cfg.fill(); err != nil {
		return nil, fmt.Errorf("containerd runtime: %w", err)
	}
	for _, dir := range []string{"containers", "netns", "cni", "ipam", "fifo"} {
		if err := os.MkdirAll(filepath.Join(cfg.DataDir, dir), 0o711); err != nil {
			return nil, fmt.Errorf("containerd runtime: %w", err)
		}
	}
	recs, err := loadRecords(filepath.Join(cfg.DataDir, "containers"))
	if err != nil {
		return nil, fmt.Errorf("containerd runtime: %w", err)
	}
	net, err := newNetwork(cfg, recs)
	if err != nil {
		return nil, fmt.Errorf("containerd runtime: %w", err)
	}
	c, err := client.New(cfg.Socket, client.WithDefaultNamespace(cfg.Namespace))
	if err != nil {
		return nil, fmt.Errorf("containerd runtime: %w", err)
	}
	ctx, stop := context.WithCancel(context.Background())
	r := &Runtime{
		cfg: cfg, client: c, cgroups: findCgroups(cfg.CgroupRoot, cfg.CgroupParent), network: net, records: recs,
		images: newImageCache(), pulls: &pulls{all: map[string]*pull{}}, hub: &hub{}, arch: goruntime.GOARCH, stop: stop,
	}
	r.loggers = newLoggerWatch(r.loggerDied)
	r.close = sync.OnceValue(r.end)
	r.tasks.Go(func() { r.listen(ctx) })
	for _, rec := range recs.list() {
		if rec.HostPort == 0 {
			continue
		}
		if err := r.holds.take(rec.HostPort); err != nil { // the rules still send it to the container
			cfg.Logger.Warn("a published port can't be held", "container", rec.ID, "error", err)
		}
	}
	return r, nil
}

// Close ends the runtime's own work; containers, their network and containerd stay. Again is no change.
func (r *Runtime) Close() error { return r.close() }

func (r *Runtime) end() error {
	r.stop()
	r.tasks.Wait()
	r.loggers.close()
	if err := errors.Join(r.client.Close(), r.holds.close()); err != nil {
		return fmt.Errorf("close the runtime: %w", err)
	}
	return nil
}

// Info answers ErrUnavailable when containerd doesn't answer.
func (r *Runtime) Info(ctx context.Context) (runtime.Info, error) {
	ctx, cancel := r.call(ctx, callTimeout)
	defer cancel()
	v, err := r.client.Version(ctx)
	if err != nil {
		return runtime.Info{}, failed("ask containerd's version", err)
	}
	dir, err := r.imageRoot(ctx)
	if err != nil {
		r.cfg.Logger.Debug("where containerd keeps images is not known", "error", err)
	}
	return runtime.Info{Name: "containerd", Version: v.Version, ImageDir: dir}, nil
}

func (r *Runtime) namespaced(ctx context.Context) context.Context {
	return namespaces.WithNamespace(ctx, r.cfg.Namespace)
}
