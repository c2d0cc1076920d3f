package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"github.com/drover-fleet/drover/agent"
	"github.com/drover-fleet/drover/client"
	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
	"github.com/drover-fleet/drover/registry"
	"github.com/drover-fleet/drover/runtime"
	"github.com/drover-fleet/drover/runtime/containerd/daemon"
	fakeruntime "github.com/drover-fleet/drover/runtime/fake"
	"github.com/drover-fleet/drover/scheduler"
)

// devStart bounds how long each part of `drover dev` may take to be ready.
const devStart = 60 * time.Second

// devConfig is what `drover dev` is asked for.
type devConfig struct {
	dataDir     string
	devices     string
	nodes       int
	mountDirs   []string
	storageDirs []string
	freePorts   bool
	cleanup     bool
	registry    registry.Config
}

func (a *app) devCommand() *cobra.Command {
	var cfg devConfig
	level := slog.LevelInfo
	cmd := &cobra.Command{
		Use: "dev", Short: "Run everything on this machine: scheduler, agent and a private containerd",
		Long: "Run everything on this machine: a scheduler, an agent, and a containerd of their own. Node dev-1 runs containers for\n" +
			"real; with --nodes the others, dev-2 and so on, only pretend. Two nodes each share a value of the label rack. Other\n" +
			"commands find this scheduler by themselves.\n\n" +
			"Ctrl-C ends scheduler and agents; containers and containerd run on, and the next `drover dev` takes them over.\n" +
			"`drover dev stop`, or --cleanup, removes everything.",
		Example: "  drover dev\n  drover dev --devices fake:8xH100-80GB --nodes 3\n  drover dev stop",
		Args:    cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				return missingVerb(cmd, args)
			}
			if cfg.nodes < 1 || cfg.nodes > 1000 {
				return usagef(cmd, "--nodes %d: want 1 to 1000", cfg.nodes)
			}
			if cfg.devices != "" {
				if _, err := deviceBackends(agentConfig{Devices: []string{cfg.devices}}, slog.New(slog.DiscardHandler)); err != nil {
					return usagef(cmd, "--devices: %v", err)
				}
			}
			d, err := a.newDev(cfg.dataDir, level)
			if err != nil {
				return err
			}
			defer d.close()
			return d.run(cmd.Context(), cfg)
		},
	}
	f := cmd.Flags()
	dataDirFlag(cmd, &cfg.dataDir)
	f.StringVar(&cfg.devices, "devices", "", "made-up `accelerators` of each node, such as fake:8xH100-80GB, or none; without it dev-1 has the real ones")
	f.IntVar(&cfg.nodes, "nodes", 1, "`number` of nodes; all but the first only pretend to run containers")
	f.StringSliceVar(&cfg.mountDirs, "mount-dir", nil, "host `directory` below which services may mount; may be given several times")
	f.StringSliceVar(&cfg.storageDirs, "storage-dir", nil, "host `directory` in which jobs may read and write, as file:// URLs; may be given several times")
	f.StringSliceVar(&cfg.registry.PlainHTTP, "plain-http", nil, "`hosts` of registries that speak plain HTTP; those on this machine do anyway")
	f.StringVar(&cfg.registry.DockerConfig, "docker-config", "", "Docker configuration `file` with credentials of registries")
	f.BoolVar(&cfg.freePorts, "free-ports", false, "listen on free ports instead of 7400, 7401, 7402 and 7410")
	f.BoolVar(&cfg.cleanup, "cleanup", false, "remove everything at the end, like drover dev stop")
	f.TextVar(&level, "log-level", slog.LevelInfo, "`level`: debug, info, warn or error")
	cmd.AddCommand(a.devStopCommand())
	return cmd
}

func dataDirFlag(cmd *cobra.Command, dir *string) {
	cmd.Flags().StringVar(dir, "data-dir", "/var/lib/drover-dev", "`directory` that everything is kept in")
	must(cmd.MarkFlagDirname("data-dir"))
}

// say tells the user how far it is.
func (d *dev) say(format string, args ...any) { fmt.Fprintf(d.a.out, format+"\n", args...) }

// run starts everything, waits for ctx to end or a part to fail, and ends everything but the containers.
func (d *dev) run(ctx context.Context, cfg devConfig) (err error) {
	ctx, cancel := context.WithCancelCause(ctx)
	var parts sync.WaitGroup
	part := func(name string, run func(context.Context) error) {
		parts.Go(func() {
			if err := run(ctx); err != nil {
				cancel(fmt.Errorf("%s: %w", name, err))
			}
		})
	}
	d.say("starting in %s (log: %s)", d.dir, d.logPath())
	defer func() {
		cancel(nil)
		parts.Wait()
		err = errors.Join(err, d.leave(cfg.cleanup))
	}()
	s, err := d.startScheduler(cfg, part)
	if err != nil {
		return err
	}
	if d.containerd, err = daemon.Start(ctx, daemon.Config{DataDir: d.path("containerd"), Logger: d.log}); err != nil {
		return err
	}
	d.say("  containerd   process %d", d.containerd.Pid())
	if err := d.await(ctx, "the scheduler to lead", s.Ready()); err != nil {
		return err
	}
	d.say("  scheduler    gRPC %s, HTTP %s", s.GRPCAddr(), s.HTTPAddr())
	if err := d.startAgents(ctx, cfg, s.GRPCAddr(), part); err != nil {
		return err
	}
	saved := savedContext{
		Addr: s.GRPCAddr(), HTTPAddr: "http://" + s.HTTPAddr(),
		TokenFile:   filepath.Join(d.path("scheduler"), scheduler.AdminTokenFile),
		AgentSocket: filepath.Join(d.nodeDir(1), "agent.sock"),
	}
	if err := d.awaitNodes(ctx, saved, cfg.nodes); err != nil {
		return err
	}
	if err := d.saveContexts(saved); err != nil {
		return err
	}
	d.ready(cfg)
	<-ctx.Done()
	if cause := context.Cause(ctx); !errors.Is(cause, context.Canceled) {
		return about(cause.Error(), fmt.Errorf("see %s", d.logPath()))
	}
	return nil
}

func (d *dev) startScheduler(cfg devConfig, part func(string, func(context.Context) error)) (*scheduler.Server, error) {
	sc := scheduler.DefaultConfig()
	sc.Insecure = true // all is on this machine
	sc.DataDir, sc.Registry, sc.Version, sc.StorageDirs = d.path("scheduler"), cfg.registry, programVersion(), cfg.storageDirs
	if cfg.freePorts {
		sc.GRPCAddr, sc.HTTPAddr, sc.RaftAddr = anyPort, anyPort, anyPort
	}
	s, err := scheduler.New(sc, d.log.With("daemon", "scheduler"))
	if err != nil {
		if strings.Contains(err.Error(), "address already in use") {
			return nil, fmt.Errorf("%w; does another scheduler run here? --free-ports takes others", err)
		}
		return nil, err
	}
	part("scheduler", s.Run)
	return s, nil
}

const anyPort = "127.0.0.1:0"

func (d *dev) startAgents(ctx context.Context, cfg devConfig, schedulerAddr string, part func(string, func(context.Context) error)) error {
	for n := 1; n <= cfg.nodes; n++ {
		ac := agentConfig{Config: agent.DefaultConfig(), Containerd: d.containerdConfig(), Registry: cfg.registry}
		ac.NodeName, ac.DataDir, ac.MountDirs = fmt.Sprintf("dev-%d", n), d.nodeDir(n), cfg.mountDirs
		ac.StorageDirs = cfg.storageDirs
		ac.Labels = map[string]string{"rack": fmt.Sprintf("r%d", (n+1)/2)} // two nodes each, to try rules with
		ac.Insecure, ac.Schedulers, ac.TokenFile = true, []string{schedulerAddr}, filepath.Join(d.path("scheduler"), scheduler.AgentTokenFile)
		if n > 1 || cfg.freePorts {
			ac.HTTPAddr = anyPort
		}
		if cfg.devices != "" {
			ac.Devices = []string{cfg.devices}
		} else if n > 1 {
			ac.Devices = []string{noDevices}
		}
		log := d.log.With("daemon", "agent", "node", ac.NodeName)
		accelerators, err := newRegistry(ac, log)
		if err != nil {
			return err
		}
		var rt runtime.Runtime
		if n == 1 {
			real, err := newContainerd(ctx, ac, accelerators.Devices, log)
			if err != nil {
				return err
			}
			rt = real
		} else {
			ac.AdvertiseAddress = "127.0.0.1"
			rt = fakeruntime.New(fakeruntime.Options{Listen: true})
		}
		ag, err := newAgent(ac, agent.Deps{Runtime: rt, Devices: accelerators, Logger: log})
		if err != nil {
			return errors.Join(err, rt.Close())
		}
		part("agent "+ac.NodeName, func(ctx context.Context) error {
			return errors.Join(ag.Run(ctx), rt.Close())
		})
	}
	return nil
}

// newAgent puts an agent together.
func newAgent(cfg agentConfig, deps agent.Deps) (*agent.Agent, error) {
	if err := cfg.Validate(); err != nil {
		return nil, about("configuration", err)
	}
	cfg.Version = programVersion()
	return agent.New(cfg.Config, deps)
}

// await waits for one part with a deadline.
func (d *dev) await(ctx context.Context, what string, done <-chan struct{}) error {
	limit := time.NewTimer(devStart)
	defer limit.Stop()
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-limit.C:
		return fmt.Errorf("waited %s for %s: see %s", duration(devStart), what, d.logPath())
	}
}

// awaitNodes asks until every node is Ready and heard from in this run: there is nothing to watch nodes with,
// and after a restart nodes of the run before count as Ready for a while.
func (d *dev) awaitNodes(ctx context.Context, saved savedContext, nodes int) error {
	cl, err := client.Dial(client.Config{Addr: saved.Addr, TokenFile: saved.TokenFile})
	if err != nil {
		return err
	}
	defer cl.Close()
	limited, cancel := context.WithTimeout(ctx, devStart)
	defer cancel()
	for {
		ready := 0
		var err error
		for n := 1; n <= nodes && err == nil; n++ {
			var resp *fleetv1.GetNodeResponse
			resp, err = cl.Nodes.GetNode(limited, &fleetv1.GetNodeRequest{Name: fmt.Sprintf("dev-%d", n)})
			if s := resp.GetNode().GetStatus(); s.GetState() == fleetv1.NodeReady && s.GetHeartbeatTime().AsTime().After(d.started) {
				ready++
			}
		}
		if ready >= nodes {
			break
		}
		if pause(limited, 50*time.Millisecond) != nil {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			return errors.Join(fmt.Errorf("%d of %d nodes are ready after %s: see %s", ready, nodes, duration(devStart), d.logPath()), err)
		}
	}
	d.say("  agents       %d, all ready", nodes)
	return nil
}

func (d *dev) ready(cfg devConfig) {
	d.say("ready")
	d.say("")
	d.say("  drover node list                              what there is")
	d.say("  drover pool create mine --type dedicated --nodes dev-1")
	d.say("  drover apply -f FILE --wait                   deploy something")
	if cfg.cleanup {
		d.say("Ctrl-C ends and removes everything.")
		return
	}
	d.say("Ctrl-C ends scheduler and agents and leaves containers running; `drover dev stop` removes everything.")
}
