package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/drover-fleet/drover/agent"
	"github.com/drover-fleet/drover/devices"
	"github.com/drover-fleet/drover/devices/attach"
	"github.com/drover-fleet/drover/devices/health"
	"github.com/drover-fleet/drover/devices/kernellog"
	"github.com/drover-fleet/drover/registry"
	"github.com/drover-fleet/drover/runtime/containerd"
)

// agentConfig is the agent's file: the agent's own fields, and those of the implementations chosen here.
type agentConfig struct {
	agent.Config `yaml:",inline"`
	Containerd   containerdConfig `yaml:"containerd"`
	Registry     registry.Config  `yaml:"registry"`
	// Devices to look for: vendors, "none", or made-up ones such as "fake:8xH100-80GB". Empty means those of
	// every vendor.
	Devices []string `yaml:"devices"`
	// DeviceLibraries of vendors, where they aren't in their usual place.
	DeviceLibraries map[string]string `yaml:"device_libraries"`
	// KernelLog is where the kernel's log is read; empty means kernellog's default.
	KernelLog string `yaml:"kernel_log"`
	// CDIDirs hold the host's specifications of how containers get devices; empty means attach's default.
	CDIDirs []string `yaml:"cdi_dirs"`
}

// containerdConfig is the part of containerd.Config that an operator sets; empty means its default.
type containerdConfig struct {
	Socket       string   `yaml:"socket"`
	Namespace    string   `yaml:"namespace"`
	CNIBinDirs   []string `yaml:"cni_bin_dirs"`
	Bridge       string   `yaml:"bridge"`
	Subnet       string   `yaml:"subnet"`
	CgroupParent string   `yaml:"cgroup_parent"`
}

func (a *app) agentCommand() *cobra.Command {
	cfg := agentConfig{Config: agent.DefaultConfig()}
	cmd := a.noun("agent", "Run this node's agent, or reach it without a scheduler", a.localCommands()...)
	cmd.Use = "agent --config FILE"
	cmd.Long = "Run this node's agent until SIGTERM; its containers run on. Its configuration is the defaults, then the file, then\n" +
		"the environment, then flags; a field that doesn't exist is refused. The commands below reach an agent that runs on\n" +
		"this node through its local socket, with or without a scheduler."
	cmd.Example = "  drover agent --config /etc/drover/agent.yaml\n  drover agent --join-file join.yaml\n  drover agent list"
	load, logger := a.configFlags(cmd, &cfg), a.loggerFlags(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if len(args) > 0 {
			return missingVerb(cmd, args)
		}
		if err := load(); err != nil {
			return err
		}
		if err := cfg.Validate(); err != nil {
			return about("configuration", err)
		}
		log, err := logger()
		if err != nil {
			return err
		}
		cfg.Stdin = a.in
		return a.runAgent(cmd.Context(), cfg, log)
	}
	return cmd
}

// keepSmall collects garbage sooner than Go does by itself, unless the environment says how: what runs beside the
// instances allocates little, and the memory is theirs. Not so while it is busy: then it would take a fifth of the time.
func keepSmall(getenv func(string) string) (busy func(bool)) {
	if getenv("GOGC") != "" {
		return func(bool) {}
	}
	busy = func(yes bool) {
		if yes {
			debug.SetGCPercent(100)
		} else {
			debug.SetGCPercent(25)
		}
	}
	busy(false)
	return busy
}

func (a *app) runAgent(ctx context.Context, cfg agentConfig, log *slog.Logger) (err error) {
	busy := keepSmall(a.getenv)
	accelerators, err := newRegistry(cfg, log)
	if err != nil {
		return err
	}
	rt, err := newContainerd(ctx, cfg, accelerators.Devices, log)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, rt.Close()) }()
	ag, err := newAgent(cfg, agent.Deps{
		Runtime: rt, Devices: accelerators, Logger: log, FaultPoint: faultPoint(a.getenv("DROVER_FAULT_POINT")), Busy: busy,
	})
	if err != nil {
		return err
	}
	return serve(ctx, ag)
}

// newRegistry makes the registry of the node's devices; the agent runs it.
func newRegistry(cfg agentConfig, log *slog.Logger) (*devices.Registry, error) {
	backends, err := deviceBackends(cfg, log)
	if err != nil {
		return nil, err
	}
	r := devices.NewRegistry(log, backends...)
	r.Judge = health.New()
	if slices.ContainsFunc(backends, func(b devices.Backend) bool { return b.Vendor() == "nvidia" }) {
		r.Listen = func(ctx context.Context, heard func(string, devices.Signal)) error {
			return kernellog.Follow(ctx, kernellog.Config{Path: cfg.KernelLog, Logger: log}, func(m kernellog.Message) {
				heard(m.PCIAddress, devices.Signal{Kind: m.Kind, Code: m.Code, Time: time.Now(), Text: m.Text})
			})
		}
	}
	return r, nil
}

// newContainerd makes the runtime; its containers get devices that known answers.
func newContainerd(ctx context.Context, cfg agentConfig, known func() []devices.Device, log *slog.Logger) (*containerd.Runtime, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("find this program: %w", err)
	}
	dir, err := filepath.Abs(cfg.DataDir)
	if err != nil {
		return nil, fmt.Errorf("data directory: %w", err)
	}
	attacher, err := attach.New(attach.Config{SpecDirs: cfg.CDIDirs, Dir: filepath.Join(dir, "cdi"), Devices: known, Logger: log})
	if err != nil {
		return nil, err
	}
	c := cfg.Containerd
	return containerd.New(ctx, containerd.Config{
		Socket: c.Socket, Namespace: c.Namespace, DataDir: filepath.Join(dir, "runtime"),
		CNIBinDirs: c.CNIBinDirs, Bridge: c.Bridge, Subnet: c.Subnet, CgroupParent: c.CgroupParent,
		LoggerBinary: self, Registry: registry.New(cfg.Registry), Devices: attacher, Logger: log,
	})
}

// faultPoint is for tests of crashes: the process kills itself when it comes to the named point.
func faultPoint(name string) func(string) {
	return func(at string) {
		if name == "" || at != name {
			return
		}
		_ = syscall.Kill(os.Getpid(), syscall.SIGKILL) // can't fail for one's own process
		select {}
	}
}
