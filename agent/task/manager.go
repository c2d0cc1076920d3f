package task

import (
	"context"
	"fmt"
	"net"
	"sync"
	"time"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
)

// Config is what a Manager needs; every field but Dial and Busy is required.
type Config struct {
	// Exchange calls the scheduler.
	Exchange func(context.Context, *fleetv1.ExchangeTaskRequest) (*fleetv1.ExchangeTaskResponse, error)
	// Open answers the storage of a job, which is of the project.
	Open func(project string, setup *fleetv1.TaskSetup) (Storage, error)
	// Dir is for spools alone; it's emptied at the start.
	Dir string
	// Dial reaches containers; nil is the network's.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
	// Busy is told when there is a first task, and when there is none any more. It returns at once.
	Busy func(bool)
}

// Labels say whose task it is.
type Labels struct {
	Project, Service, Model, Version, Instance string
}

// Progress is how a task gets on.
type Progress struct {
	Labels
	Task string
	*fleetv1.TaskProgress
}

func labels(inst *fleetv1.Instance) Labels {
	spec := inst.GetSpec()
	return Labels{inst.GetMeta().GetProject(), spec.GetServiceName(), spec.GetModel(), spec.GetModelVersion(), inst.GetMeta().GetId()}
}

// Manager has a driver for each instance of a job that has been ready on this node. Its methods are safe for concurrent
// use, and but for Run return at once.
type Manager struct {
	cfg Config

	mu      sync.Mutex
	drivers map[string]*driver
	running context.Context //nolint:containedctx // Run's, for drivers that come later
	wg      sync.WaitGroup
}

// New makes a Manager that does nothing before Run.
func New(cfg Config) *Manager { return &Manager{cfg: cfg, drivers: map[string]*driver{}} }

// Run drives tasks until ctx ends.
func (m *Manager) Run(ctx context.Context) error {
	if err := emptyDir(m.cfg.Dir); err != nil {
		return fmt.Errorf("the tasks' spools: %w", err)
	}
	m.mu.Lock()
	m.running = ctx
	for _, d := range m.drivers {
		m.startLocked(d)
	}
	m.mu.Unlock()
	<-ctx.Done()
	m.mu.Lock()
	m.running = nil
	m.mu.Unlock()
	m.wg.Wait()
	return emptyDir(m.cfg.Dir)
}

func (m *Manager) startLocked(d *driver) {
	ctx, cancel := context.WithCancel(m.running)
	d.stop = cancel
	m.wg.Go(func() {
		defer cancel()
		d.run(ctx)
	})
}

// Serve tells how an instance of a job stands: at which address its container answers, "" while it isn't ready. The
// first address begins its task.
func (m *Manager) Serve(inst *fleetv1.Instance, address string) {
	m.mu.Lock()
	d := m.drivers[inst.GetMeta().GetId()]
	if d == nil && address != "" {
		d = newDriver(m, inst)
		m.drivers[d.id] = d
		if len(m.drivers) == 1 {
			m.busyLocked(true)
		}
		if m.running != nil {
			m.startLocked(d)
		}
	}
	m.mu.Unlock()
	if d != nil {
		d.serve(inst, address)
	}
}

// Leave has a task end what it has begun, for its instance is to be stopped. It answers how long that takes at most; left
// is called once, when nothing is left to wait for. Without a task that is at once.
func (m *Manager) Leave(inst *fleetv1.Instance, left func()) time.Duration {
	m.mu.Lock()
	d, running := m.drivers[inst.GetMeta().GetId()], m.running != nil
	m.mu.Unlock()
	if d == nil || !running {
		left()
		return 0
	}
	return d.quit(time.Duration(inst.GetSpec().GetGracePeriodSeconds())*time.Second, left)
}

// Drop ends a task: its container is gone, or will be whatever it does.
func (m *Manager) Drop(instance string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	d := m.drivers[instance]
	if d == nil {
		return
	}
	if delete(m.drivers, instance); len(m.drivers) == 0 {
		m.busyLocked(false)
	}
	if d.stop != nil {
		d.stop()
	}
}

func (m *Manager) busyLocked(yes bool) {
	if m.cfg.Busy != nil {
		m.cfg.Busy(yes)
	}
}

// Tasks answers how the tasks of this node get on.
func (m *Manager) Tasks() []Progress {
	m.mu.Lock()
	var drivers []*driver
	for _, d := range m.drivers {
		drivers = append(drivers, d)
	}
	m.mu.Unlock()
	var out []Progress
	for _, d := range drivers {
		out = append(out, d.progress())
	}
	return out
}
