package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"path/filepath"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/drover-fleet/drover/agent/instance"
	"github.com/drover-fleet/drover/agent/journal"
	"github.com/drover-fleet/drover/agent/metrics"
	"github.com/drover-fleet/drover/agent/session"
	"github.com/drover-fleet/drover/agent/task"
	"github.com/drover-fleet/drover/devices"
	"github.com/drover-fleet/drover/identity"
	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
	"github.com/drover-fleet/drover/runtime"
)

// Deps are the parts that an agent is given. Runtime and Logger are required; the caller closes the
// Runtime after Run has returned.
type Deps struct {
	Runtime runtime.Runtime
	Devices *devices.Registry
	Logger  *slog.Logger
	// FaultPoint is called at named points, for crash tests.
	FaultPoint func(name string)
	// Busy is told when the agent begins to run items of jobs, and when it has none any more. It returns at once.
	Busy func(bool)
}

// Agent is one node's agent. It must be made by New and run once.
type Agent struct {
	cfg  Config
	deps Deps

	journal   *journal.Journal
	instances *instance.Manager
	session   *session.Client
	tasks     *task.Manager
	identity  *identity.Keeper // nil without TLS
	metrics   *metrics.Metrics
	joining   *identity.JoinFile // until there is a certificate; nil when there is one
	http      net.Listener
	local     net.Listener

	factsChanged      chan struct{}
	quarantineChanged chan struct{}
	quarantining      sync.Mutex // while the quarantine is journalled

	mu        sync.Mutex
	facts     *fleetv1.NodeFacts
	imageDir  string // where the runtime keeps images, once it has said
	pullsStop error  // why images must not be pulled now
}

// New opens the journal and the listeners; nothing moves before Run. An agent that is not run must be
// closed by running it with an ended context.
func New(cfg Config, deps Deps) (_ *Agent, err error) {
	if err := cfg.Validate(); err != nil {
		return nil, fmt.Errorf("agent configuration: %w", err)
	}
	if deps.Devices == nil {
		deps.Devices = devices.NewRegistry(deps.Logger)
	}
	a := &Agent{cfg: cfg, deps: deps, factsChanged: make(chan struct{}, 1), quarantineChanged: make(chan struct{}, 1)}
	defer func() {
		if err != nil {
			err = errors.Join(err, a.close())
		}
	}()
	if a.journal, err = journal.Open(cfg.DataDir); err != nil {
		return nil, err
	}
	if !cfg.Insecure {
		if a.identity, err = identity.Open(filepath.Join(cfg.DataDir, "identity"), deps.Logger); err != nil {
			return nil, err
		}
	}
	if err := a.prepareJoin(); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if a.facts, err = hostFacts(ctx, cfg); err != nil {
		return nil, err
	}
	if a.http, err = net.Listen("tcp", cfg.HTTPAddr); err != nil {
		return nil, fmt.Errorf("listen for metrics: %w", err)
	}
	a.facts.HttpAddress = a.HTTPAddr()
	if a.local, err = listenLocal(cfg.LocalSocket); err != nil {
		return nil, err
	}
	a.tasks = a.newTasks()
	a.instances = instance.New(instance.Config{
		Runtime: deps.Runtime, Journal: a.journal, Logger: deps.Logger, LogRoot: a.logRoot(), Address: a.facts.GetAdvertiseAddress(),
		PortMin: cfg.PortMin, PortMax: cfg.PortMax, Hooks: []instance.Hook{instance.MountHook(cfg.MountDirs), instance.DeviceHook(deps.Devices.Devices)},
		PullAllowed: a.pullAllowed, FaultPoint: deps.FaultPoint,
		Reclaim: deps.Devices.Reclaim, Quarantine: a.quarantine, ReclaimTimeout: cfg.ReclaimTimeout,
		Tasks: a.tasks, HoldChanged: func() { tellOnce(a.factsChanged) }, BootID: a.facts.GetBootId(), Uptime: uptime,
	})
	deps.Devices.Held = a.instances.Holders
	a.quarantineAgain()
	a.session = session.New(session.Config{
		Node: cfg.NodeName, Schedulers: a.schedulers, Identity: a.identity, TokenFile: cfg.TokenFile, Logger: deps.Logger, Instances: a.instances,
		Header: a.journal.Header, Facts: a.Facts, Samples: a.samples, FactsChanged: a.factsChanged, Relay: a.relay,
	})
	a.metrics = metrics.New(metrics.Sources{
		Version: a.facts.GetAgentVersion(), Node: cfg.NodeName, Declared: cfg.DeclaredDevices, DataDir: cfg.DataDir,
		Runtime: deps.Runtime, Devices: deps.Devices, Instances: a.instances.Instances, Tasks: a.tasks.Tasks,
		JournalWrites: a.journal.Writes, Connected: a.session.Connected, Generation: func() uint64 { return a.journal.Header().Generation }, Expires: a.expires,
		Logger: deps.Logger, LinesDropped: func(id string, lines uint64) {
			a.instances.Note(id, fleetv1.EventWarning, "LogLinesDropped", fmt.Sprintf("its logger has dropped %d lines that it could not write", lines))
		},
	})
	return a, nil
}

func (a *Agent) logRoot() string { return filepath.Join(a.cfg.DataDir, "logs") }

// HTTPAddr answers where metrics and health are really served.
func (a *Agent) HTTPAddr() string { return a.http.Addr().String() }

// Facts answers what the host has now.
func (a *Agent) Facts() *fleetv1.NodeFacts {
	a.mu.Lock()
	f := proto.CloneOf(a.facts)
	a.mu.Unlock()
	all := a.deps.Devices.Devices()
	f.Devices, f.DeviceShortfall, f.Hold = deviceFacts(all), a.shortfall(all), a.instances.Hold()
	return f
}

// Healthy answers why the agent should be restarted; nil when it works. A scheduler or runtime that is
// away is no reason: restarting does not help.
func (a *Agent) Healthy() error { return a.journal.Err() }

// Status answers one line for people.
func (a *Agent) Status() string {
	ready, all := 0, a.instances.Instances()
	for _, in := range all {
		if in.GetObserved().GetReady() {
			ready++
		}
	}
	link := "no scheduler connected"
	if a.session.Connected() {
		link = "connected"
	}
	return fmt.Sprintf("%s, %d instances, %d ready", link, len(all), ready)
}

// Run works until ctx ends; containers stay as they are. It closes what New opened.
func (a *Agent) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var wg sync.WaitGroup
	part := func(name string, run func(context.Context) error) {
		wg.Go(func() {
			if err := run(ctx); err != nil && ctx.Err() == nil {
				cancel(fmt.Errorf("%s: %w", name, err))
			}
		})
	}
	part("devices", a.deps.Devices.Run)
	a.findRuntime(ctx)
	a.noteImages(ctx)
	a.checkDisk(ctx)
	a.deps.Devices.Settle(ctx, deviceSettle) // so that the first facts name the devices
	notes := newDeviceNotes(a.journal.Quarantined())
	a.noteDevices(notes) // before a scheduler hears of instances whose devices are gone
	part("device changes", func(ctx context.Context) error { return a.deviceLoop(ctx, notes) })
	part("quarantine", a.quarantineLoop)
	part("instances", a.instances.Run)
	part("tasks", a.tasks.Run)
	part("session", a.connect)
	part("http", a.serveHTTP)
	part("local socket", a.serveLocal)
	part("node", a.nodeLoop)
	part("network", a.networkLoop)
	wg.Wait()
	err := context.Cause(ctx)
	if errors.Is(err, context.Canceled) {
		err = nil
	}
	return errors.Join(err, a.close())
}

func (a *Agent) close() error {
	var errs []error
	for _, l := range []net.Listener{a.http, a.local} {
		if l == nil {
			continue
		}
		if err := l.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
			errs = append(errs, err)
		}
	}
	if a.journal != nil {
		errs = append(errs, a.journal.Close())
	}
	return errors.Join(errs...)
}

func (a *Agent) serveHTTP(ctx context.Context) error {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", a.metrics.Handler())
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		if err := a.Healthy(); err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
			return
		}
		if _, err := fmt.Fprintln(w, "ok"); err != nil {
			a.deps.Logger.Debug("a health answer could not be written", "error", err)
		}
	})
	srv := &http.Server{
		Handler: mux, ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 10 * time.Second, WriteTimeout: 30 * time.Second, IdleTimeout: 2 * time.Minute,
	}
	stop := context.AfterFunc(ctx, func() {
		if err := srv.Close(); err != nil {
			a.deps.Logger.Debug("the HTTP server could not be closed", "error", err)
		}
	})
	defer stop()
	if err := srv.Serve(a.http); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}
