package instance

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"strings"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/drover-fleet/drover/agent/journal"
	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
	"github.com/drover-fleet/drover/runtime"
)

// ErrRefused says that an assignment set must not be followed.
var ErrRefused = errors.New("assignment set refused")

// Config is what a Manager needs; every field but PullAllowed, Hooks, HoldChanged, Tasks, FaultPoint and those of
// Reclaim is required.
type Config struct {
	Runtime runtime.Runtime
	Journal *journal.Journal
	Logger  *slog.Logger
	// LogRoot holds <instance>/<attempt>/ with the containers' log files.
	LogRoot string
	// Address is reported as the endpoint's.
	Address string
	// PortMin–PortMax are taken as host ports.
	PortMin, PortMax int
	// Hooks change a container's specification before it is created, in order.
	Hooks []Hook
	// PullAllowed answers why no image may be fetched now; one that is present is used all the same.
	PullAllowed func() error
	// Reclaim answers why devices of an instance that is gone are not free again, by ID; Quarantine has one that wasn't
	// free within ReclaimTimeout known to the scheduler before what is reported next. Nil: they are free at once.
	Reclaim        func(ctx context.Context, ids []string) map[string]string
	Quarantine     func(id, reason string)
	ReclaimTimeout time.Duration
	// Tasks work on jobs in instances. Nil: this node works on none.
	Tasks Tasks
	// HoldChanged is called when Hold answers something else. Nil: nobody wants to know.
	HoldChanged func()
	// BootID of the host, and its time since then, suspensions included.
	BootID string
	Uptime func() time.Duration
	// FaultPoint is called at named points, for crash tests: "accepted", "created", "started", "deleted".
	FaultPoint func(name string)
}

// Manager owns all instances of the node. Its methods are safe for concurrent use.
type Manager struct {
	cfg   Config
	ports *ports

	changed  chan struct{} // a token while reports may wait
	strange  chan struct{} // a token while containers of strangers may exist
	applying sync.Mutex    // one set at a time

	mu       sync.Mutex
	machines map[string]*machine
	dirty    map[string]bool
	running  context.Context //nolint:containedctx // Run's, for machines that Apply adds
	current  bool            // a current set was received by this process
	wg       sync.WaitGroup

	// The containers that no record explains, while removals are held: as the runtime listed them after sets so
	// far were taken.
	unexplained []*fleetv1.Stranger
	sets, known uint64

	cutOff cutOff
}

// New makes a Manager of what the journal holds; nothing moves before Run.
func New(cfg Config) *Manager {
	if cfg.FaultPoint == nil {
		cfg.FaultPoint = func(string) {}
	}
	if cfg.HoldChanged == nil {
		cfg.HoldChanged = func() {}
	}
	g := &Manager{
		cfg: cfg, ports: newPorts(cfg.PortMin, cfg.PortMax), changed: make(chan struct{}, 1), strange: make(chan struct{}, 1),
		machines: map[string]*machine{}, dirty: map[string]bool{},
	}
	rebooted := g.cutOff.begin(cfg.Journal.Contact(), cfg.BootID, cfg.Uptime())
	for id, rec := range cfg.Journal.Records() {
		rec = rec.Clone()
		if rebooted { // nothing runs, whatever was true before
			rec.Instance.Observed.Ready = false
		}
		rec.Instance.Observed.Sequence = max(rec.Instance.Observed.Sequence, rec.SequenceLimit)
		if state := rec.Instance.Observed.State; state != fleetv1.InstanceReclaiming && state != fleetv1.InstanceReaped {
			g.ports.hold(int(rec.Instance.Observed.Port), id)
		}
		g.machines[id] = newMachine(g, rec)
		g.dirty[id] = true
	}
	return g
}

// Run moves instances until ctx ends, and leaves their containers alone.
func (g *Manager) Run(ctx context.Context) error {
	events := g.cfg.Runtime.Watch(ctx) // before any machine looks, so that no exit falls between
	g.mu.Lock()
	g.running = ctx
	for _, m := range g.machines {
		g.wg.Go(func() { m.run(ctx) })
	}
	g.mu.Unlock()
	g.wg.Go(func() { g.removeStrangers(ctx) })
	g.wg.Go(func() { g.watchContact(ctx) })
	for ev := range events {
		g.deliver(ev)
	}
	g.mu.Lock()
	g.running = nil
	g.mu.Unlock()
	g.wg.Wait()
	return ctx.Err()
}

func (g *Manager) deliver(ev runtime.Event) {
	if ev.Kind == runtime.EventResync {
		for _, m := range g.all() {
			m.mail(func() { m.looked = false })
		}
		notify(g.strange)
		return
	}
	instance, attempt, ok := splitID(ev.ID)
	m := g.find(instance)
	if !ok || m == nil {
		return // a stranger's
	}
	m.mail(func() {
		if m.rec.Instance.Observed.Attempt != attempt {
			return
		}
		switch ev.Kind {
		case runtime.EventExited:
			m.exit = ev.Exit
		case runtime.EventLoggerDied:
			m.loggerDied = true
		}
	})
}

// ContainerID names the container of an attempt.
func ContainerID(instance string, attempt uint32) string {
	return instance + "-" + strconv.FormatUint(uint64(attempt), 10)
}

func splitID(id string) (instance string, attempt uint32, ok bool) {
	i := strings.LastIndexByte(id, '-')
	if i < 0 {
		return "", 0, false
	}
	n, err := strconv.ParseUint(id[i+1:], 10, 32)
	return id[:i], uint32(n), err == nil
}

func notify(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

func (g *Manager) find(id string) *machine {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.machines[id]
}

func (g *Manager) all() []*machine {
	g.mu.Lock()
	defer g.mu.Unlock()
	all := make([]*machine, 0, len(g.machines))
	for _, m := range g.machines {
		all = append(all, m)
	}
	return all
}

// Apply takes over an assignment set; it returns when the set is in the journal. An error that wraps
// ErrRefused means that the set must not be followed, and nothing has changed.
func (g *Manager) Apply(set *fleetv1.AssignmentSet) error {
	g.applying.Lock()
	defer g.applying.Unlock()
	header := g.cfg.Journal.Header()
	next, err := accept(header, set)
	if err != nil {
		return err
	}
	assigned, err := assignedBy(set)
	if err != nil {
		return err
	}
	var waits []func() error
	var added []*machine
	for _, inst := range set.GetInstances() {
		if m := g.find(inst.GetMeta().GetId()); m != nil {
			if wait := m.assign(inst); wait != nil {
				waits = append(waits, wait)
			}
			continue
		}
		rec := g.accepted(inst)
		rec.Waits = next.HoldRemovals || g.keeps()
		m := newMachine(g, rec)
		m.made = m.rec.Instance.Observed.Attempt > 1 // else nothing can be there yet
		waits, added = append(waits, m.stage()), append(added, m)
	}
	for _, m := range g.all() {
		if !assigned[m.id] {
			if wait := m.unassign(next.HoldRemovals); wait != nil {
				waits = append(waits, wait)
			}
		}
	}
	// The header is staged last: a crash between two writes leaves records that are newer than it.
	if next != header {
		waits = append(waits, g.cfg.Journal.Stage(&next))
	}
	for _, wait := range waits {
		err = errors.Join(err, wait())
	}
	if err != nil {
		return fmt.Errorf("journal the assignment set: %w", err)
	}
	g.cfg.FaultPoint("accepted")
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, m := range added {
		g.machines[m.id] = m
		g.markLocked(m.id)
		if ctx := g.running; ctx != nil {
			g.wg.Go(func() { m.run(ctx) })
		}
	}
	g.current = !next.HoldRemovals
	g.sets++
	notify(g.strange)
	g.cfg.HoldChanged()
	return nil
}

// assignedBy answers the IDs of a set's instances.
func assignedBy(set *fleetv1.AssignmentSet) (map[string]bool, error) {
	assigned := map[string]bool{}
	for _, inst := range set.GetInstances() {
		id := inst.GetMeta().GetId()
		if id == "" || strings.ContainsAny(id, "/.") {
			return nil, fmt.Errorf("%w: an instance has the ID %q", ErrRefused, id)
		}
		assigned[id] = true
	}
	return assigned, nil
}

// accept answers the header after a set, or why the set is refused.
func accept(have journal.Header, set *fleetv1.AssignmentSet) (journal.Header, error) {
	next := journal.Header{
		ClusterID: set.GetClusterId(), RestoreEpoch: set.GetRestoreEpoch(), Generation: set.GetGeneration(),
		HoldRemovals: set.GetRestoreEpoch() > set.GetRemovalsConfirmed(),
	}
	switch {
	case next.ClusterID == "":
		return have, fmt.Errorf("%w: it names no cluster", ErrRefused)
	case have.ClusterID == "":
		return next, nil
	case next.ClusterID != have.ClusterID:
		return have, fmt.Errorf("%w: it is of cluster %s and this node belongs to %s", ErrRefused, next.ClusterID, have.ClusterID)
	case next.RestoreEpoch < have.RestoreEpoch:
		return have, fmt.Errorf("%w: its restore epoch %d is older than %d", ErrRefused, next.RestoreEpoch, have.RestoreEpoch)
	case next.RestoreEpoch == have.RestoreEpoch && next.Generation < have.Generation:
		return have, fmt.Errorf("%w: its generation %d is older than %d", ErrRefused, next.Generation, have.Generation)
	}
	return next, nil
}

// accepted answers the first record of an instance. One that was reported before was in a journal that is lost: its
// next attempt begins, since nobody knows how the last one stands, and whose container is a stranger's now.
func (g *Manager) accepted(inst *fleetv1.Instance) journal.Record {
	inst = proto.CloneOf(inst)
	inst.Observed = &fleetv1.InstanceObserved{
		State: fleetv1.InstanceAccepted, Attempt: inst.GetObserved().GetAttempt() + 1, Sequence: inst.GetObserved().GetSequence(),
		Restarted: inst.GetDesired().GetRestart(), Ip: g.cfg.Address,
	}
	if port, err := g.choosePort(inst); err != nil {
		inst.Observed.Reason = err.Error() // the machine tries again before it needs the port
	} else {
		inst.Observed.Port = int32(port)
	}
	return journal.Record{Instance: inst}
}

func (g *Manager) choosePort(inst *fleetv1.Instance) (int, error) {
	if spec := inst.GetSpec(); spec.GetNetwork() == fleetv1.NetworkHost && spec.GetApi().GetFixedPort() {
		return int(spec.GetApi().GetPort()), nil
	}
	return g.ports.take(inst.GetMeta().GetId())
}

// StopHere stops an instance by ID or name, for good, because the node's operator said so.
func (g *Manager) StopHere(name string) (*fleetv1.Instance, error) {
	for _, m := range g.all() {
		if inst := m.snapshot(); m.id == name || inst.GetMeta().GetName() == name {
			if err := m.stopHere(); err != nil {
				return nil, err
			}
			return m.snapshot(), nil
		}
	}
	return nil, fmt.Errorf("no instance %q on this node: %w", name, runtime.ErrNotFound)
}
