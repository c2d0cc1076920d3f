package containerdtest

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/drover-fleet/drover/registry"
	"github.com/drover-fleet/drover/runtime/containerd"
	"github.com/drover-fleet/drover/runtime/containerd/daemon"
)

// Env is a containerd with a runtime on it, and an image that it can pull.
type Env struct {
	Daemon   *daemon.Daemon
	Runtime  *containerd.Runtime
	Config   containerd.Config // of Runtime, to make another one
	Registry *Registry
	Programs string // directory of the built programs

	Image, Digest string // of the app

	PortMin, PortMax int // host ports that no other test on this machine uses
}

// Need skips the test, saying why, on a machine that cannot run containers.
func Need(t testing.TB) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("SKIPPED: needs root: containers, network namespaces and iptables")
	}
	for _, program := range []string{"containerd", "runc", "iptables", "ip"} {
		if _, err := exec.LookPath(program); err != nil {
			t.Skipf("SKIPPED: needs %s: apt-get install containerd runc containernetworking-plugins iptables iproute2", program)
		}
	}
	for _, dir := range []string{"/opt/cni/bin", "/usr/lib/cni"} {
		if _, err := os.Stat(filepath.Join(dir, "bridge")); err == nil {
			return
		}
	}
	t.Skip("SKIPPED: needs the CNI plugins: apt-get install containernetworking-plugins")
}

// New makes an Env. Cleaning up deletes every container of its runtime, and fails the test when
// something cannot be removed.
func New(t testing.TB) *Env {
	t.Helper()
	Need(t)
	e := &Env{Programs: Programs(t), Registry: NewRegistry(t)}
	e.Image, e.Digest = e.Registry.PushApp(t, e.Programs)
	place := takePlace(t)
	e.PortMin, e.PortMax = portsAt+place*portsEach, portsAt+place*portsEach+portsEach-1
	dir := t.TempDir()
	logger := slog.New(slog.NewTextHandler(t.Output(), nil))
	var err error
	if e.Daemon, err = daemon.Start(t.Context(), daemon.Config{DataDir: filepath.Join(dir, "containerd"), NoRestart: true, Logger: logger}); err != nil {
		t.Fatal(err)
	}
	e.Config = containerd.Config{
		Socket: e.Daemon.Socket(), DataDir: filepath.Join(dir, "runtime"),
		Bridge: fmt.Sprintf("drt%d", place), Subnet: fmt.Sprintf("10.213.%d.0/24", place),
		CgroupParent: fmt.Sprintf("/drover-test-%d", place), LoggerBinary: filepath.Join(e.Programs, "logger"),
		Registry: registry.New(registry.Config{}), Logger: logger,
	}
	if e.Runtime, err = containerd.New(t.Context(), e.Config); err != nil {
		t.Fatal(errors.Join(err, e.Daemon.Remove()))
	}
	t.Cleanup(func() { e.remove(t) })
	return e
}

func (e *Env) remove(t testing.TB) {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	if e.Daemon.Pid() == 0 {
		if err := e.Daemon.Restart(ctx); err != nil {
			t.Errorf("start containerd again to clean up: %v", err)
		}
	}
	rt, err := containerd.New(ctx, e.Config) // the test may have closed its own
	if err != nil {
		t.Errorf("clean up: %v", err)
		return
	}
	list, err := rt.List(ctx)
	if err != nil {
		t.Errorf("clean up: %v", err)
	}
	var ids []string
	for _, st := range list {
		ids = append(ids, st.ID)
	}
	// An agent that was stopped while it took a container away may have left its network alone.
	left, err := filepath.Glob(filepath.Join(e.Config.DataDir, "netns", "*"))
	if err != nil {
		t.Errorf("clean up: %v", err)
	}
	for _, path := range left {
		if id := filepath.Base(path); !slices.Contains(ids, id) {
			ids = append(ids, id)
		}
	}
	for _, id := range ids {
		if err := rt.Delete(ctx, id); err != nil {
			t.Errorf("clean up: %v", err)
		}
	}
	err = errors.Join(rt.RemoveNetwork(ctx), rt.Close(), e.Runtime.Close(), e.Daemon.Remove(), e.removeCgroups())
	if err != nil {
		t.Errorf("clean up: %v", err)
	}
}

func (e *Env) removeCgroups() error {
	var errs []error
	for _, pattern := range []string{"/sys/fs/cgroup" + e.Config.CgroupParent, "/sys/fs/cgroup/*" + e.Config.CgroupParent} {
		dirs, err := filepath.Glob(pattern)
		errs = append(errs, err)
		for _, dir := range dirs {
			errs = append(errs, os.Remove(dir))
		}
	}
	return errors.Join(errs...)
}
