package instance

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/drover-fleet/drover/agent/health"
	"github.com/drover-fleet/drover/agent/journal"
	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
	"github.com/drover-fleet/drover/runtime"
)

const (
	// patience bounds one call of the runtime, except a pull.
	patience = 60 * time.Second
	// pullStall is how long a pull may fetch nothing before it is begun again.
	pullStall = 10 * time.Minute
	// maxEvents that wait for a scheduler; the oldest go first.
	maxEvents = 100
	// sequences are reserved in the journal in blocks of this size.
	sequenceBlock = 1000
	// reportTime is how long a lost readiness may take until the look-up no longer answers the endpoint.
	reportTime = time.Second
)

// machine moves one instance. Fields below mu are shared; those below "own" belong to run's goroutine.
type machine struct {
	g    *Manager
	id   string
	wake chan struct{}

	mu         sync.Mutex
	rec        journal.Record
	seen       uint64             // sequence of the last report that was taken
	interrupt  context.CancelFunc // cuts the running step short
	looked     bool               // the container was compared with the record
	known      bool               // it has been, by this process: the record says what is there
	exit       *runtime.Exit
	loggerDied bool
	taskLeft   uint32 // attempt whose task has ended what it had begun
	result     *health.Result
	pull       *fleetv1.PullProgress

	// own
	held        bool // this process started or adopted the container of this attempt
	healthy     bool
	published   bool
	readySince  time.Time
	leftAnswers time.Time // by when the look-up no longer answered the endpoint, once it did
	stopProbe   func()
	drainUntil  time.Time
	address     string    // where the container of this attempt listens
	taskUntil   time.Time // by when its task has ended what it has begun
	killAt      time.Time
	killed      bool
	ended       bool   // the process of this attempt has ended
	fatal       string // why the instance has to fail
	failures    int    // of the present step, for its back-off
	made        bool   // a container may have been made: there may be something on its devices
	// reclaimUntil is when devices that aren't free are given up; reason is what was told before that.
	reclaimUntil time.Time
	reason       string
}

// outcome of a step: again at once, or when woken and at the latest after wait (when above 0), or gone.
type outcome struct {
	again, gone bool
	wait        time.Duration
}

var again = outcome{again: true}

func newMachine(g *Manager, rec journal.Record) *machine {
	return &machine{g: g, id: rec.ID(), wake: make(chan struct{}, 1), rec: rec, stopProbe: func() {}, made: true}
}

func (m *machine) run(ctx context.Context) {
	defer func() { m.stopProbe() }()
	for ctx.Err() == nil {
		stepCtx, cancel := context.WithCancel(ctx)
		m.mu.Lock()
		m.interrupt = cancel
		m.mu.Unlock()
		out := m.step(stepCtx)
		cancel()
		m.tellTask()
		switch {
		case out.gone:
			return
		case out.again:
			continue
		}
		m.sleep(ctx, out.wait)
	}
}

// sleep waits until the machine is woken, and when wait is above 0 no longer than that.
func (m *machine) sleep(ctx context.Context, wait time.Duration) {
	var timeout <-chan time.Time
	if wait > 0 {
		timer := time.NewTimer(wait)
		defer timer.Stop()
		timeout = timer.C
	}
	select {
	case <-ctx.Done():
	case <-m.wake:
	case <-timeout:
	}
}

// mail changes shared fields and wakes the machine.
func (m *machine) mail(change func()) {
	m.mu.Lock()
	change()
	m.mu.Unlock()
	notify(m.wake)
}

// update changes what is observed and lets it be reported.
func (m *machine) update(change func(o *fleetv1.InstanceObserved)) {
	m.mu.Lock()
	change(m.rec.Instance.Observed)
	m.mu.Unlock()
	m.g.mark(m.id)
}

// noteLocked adds an event to the next report.
func (m *machine) noteLocked(kind, reason, message string) {
	m.rec.Events = append(m.rec.Events, &fleetv1.ReportedEvent{
		TimeUnixNano: time.Now().UnixNano(), Type: kind, Reason: reason, Message: message,
	})
	if n := len(m.rec.Events); n > maxEvents {
		m.rec.Events = m.rec.Events[n-maxEvents:]
	}
}

// stage hands the record to the journal; wait returns when it is on the disk.
func (m *machine) stage() (wait func() error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.stageLocked()
}

func (m *machine) stageLocked() (wait func() error) {
	m.rec.SequenceLimit = m.rec.Instance.Observed.Sequence + sequenceBlock
	return m.g.cfg.Journal.Stage(nil, m.rec.Clone())
}

// save updates, lets it be reported and waits until it is on the disk. A journal that cannot be written
// makes the agent unhealthy; the machine goes on, for what runs must be served.
func (m *machine) save(change func(o *fleetv1.InstanceObserved)) {
	m.update(change)
	m.wait(m.stage())
}

func (m *machine) wait(staged func() error) {
	if err := staged(); err != nil && !errors.Is(err, journal.ErrClosed) {
		m.g.cfg.Logger.Error("the journal can't be written", "instance", m.id, "error", err)
	}
}

func (m *machine) snapshot() *fleetv1.Instance {
	m.mu.Lock()
	defer m.mu.Unlock()
	return proto.CloneOf(m.rec.Instance)
}

func (m *machine) attempt() uint32 {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.rec.Instance.Observed.Attempt
}

func (m *machine) container() string { return ContainerID(m.id, m.attempt()) }

// report answers a report under a new sequence number.
func (m *machine) report() (*fleetv1.InstanceReport, error) {
	m.mu.Lock()
	o := m.rec.Instance.Observed
	o.Sequence++
	var wait func() error
	if o.Sequence > m.rec.SequenceLimit {
		wait = m.stageLocked()
	}
	r := &fleetv1.InstanceReport{InstanceId: m.id, Observed: proto.CloneOf(o)}
	for _, ev := range m.rec.Events {
		if ev.Sequence == 0 {
			ev.Sequence = o.Sequence
		}
		r.Events = append(r.Events, proto.CloneOf(ev))
	}
	m.seen = o.Sequence
	m.mu.Unlock()
	if wait != nil {
		if err := wait(); err != nil {
			return nil, err
		}
	}
	return r, nil
}

// acknowledge drops the events that a committed report carried.
func (m *machine) acknowledge(sequence uint64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	kept := m.rec.Events[:0:0]
	for _, ev := range m.rec.Events {
		if ev.Sequence == 0 || ev.Sequence > sequence {
			kept = append(kept, ev)
		}
	}
	m.rec.Events = kept
}

// assign takes over what the scheduler's loops wish now; wait is nil when nothing changed.
func (m *machine) assign(inst *fleetv1.Instance) (wait func() error) {
	m.mu.Lock()
	if !m.rec.Absent && !m.rec.Kept && proto.Equal(m.rec.Instance.Desired, inst.GetDesired()) {
		m.mu.Unlock()
		return nil
	}
	m.rec.Absent, m.rec.Kept = false, false
	m.rec.Instance.Desired = proto.CloneOf(inst.GetDesired())
	return m.wished()
}

func (m *machine) stopHere() error {
	m.mu.Lock()
	m.rec.StoppedHere = true
	return m.wished()()
}

// wished journals a changed wish, cuts a step short that it makes pointless, wakes, and unlocks.
func (m *machine) wished() (wait func() error) {
	wait = m.stageLocked()
	if m.intentLocked() != keepRunning && m.interrupt != nil {
		m.interrupt()
	}
	m.mu.Unlock()
	notify(m.wake)
	return wait
}

type intent int

const (
	keepRunning intent = iota
	restart
	stop
)

func (m *machine) intentLocked() intent {
	d := m.rec.Instance.GetDesired()
	switch {
	case m.rec.Absent, m.rec.StoppedHere, m.rec.CutOff, d.GetState() == fleetv1.DesiredStopped:
		return stop
	case d.GetRestart() > m.rec.Instance.Observed.Restarted:
		return restart
	}
	return keepRunning
}

// step does one operation.
func (m *machine) step(ctx context.Context) outcome {
	m.mu.Lock()
	var (
		looked, exit, result = m.looked, m.exit, m.result
		loggerDied, broken   = m.loggerDied, m.rec.Broken
		waits                = m.rec.Waits
		want, state          = m.intentLocked(), m.rec.Instance.Observed.State
	)
	m.exit, m.result, m.loggerDied = nil, nil, false
	m.mu.Unlock()
	switch {
	case !looked:
		m.keepMail(exit, result, loggerDied)
		return m.look(ctx, state)
	case exit != nil:
		return m.exited(*exit, state)
	case m.fatal != "":
		return m.fail(ctx)
	case broken != "" && !leftDevices(state):
		return m.leaveDevice(broken)
	case loggerDied && (state == fleetv1.InstanceStarting || state == fleetv1.InstanceRunning):
		return m.loggerGone()
	case result != nil:
		m.judge(*result)
		return again
	case state == fleetv1.InstanceReaped:
		return m.reaped()
	case state == fleetv1.InstanceReclaiming:
		return m.reclaim(ctx)
	case state == fleetv1.InstanceFailed:
		if want == stop {
			return m.reap(ctx)
		}
		return outcome{}
	case want != keepRunning || state == fleetv1.InstanceDraining || state == fleetv1.InstanceStopping:
		return m.stop(ctx, want, state)
	case state == fleetv1.InstanceExited:
		return m.backOff(ctx)
	case waits && state == fleetv1.InstanceAccepted:
		return m.waitForStrangers()
	case !ran(state) && m.needsScheduler():
		m.explain("waits for a scheduler: the host was rebooted, and the instance may have been replaced elsewhere")
		return outcome{}
	}
	return m.up(ctx, state)
}

// keepMail puts back what a step took and did not use.
func (m *machine) keepMail(exit *runtime.Exit, result *health.Result, loggerDied bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.exit == nil {
		m.exit = exit
	}
	if m.result == nil {
		m.result = result
	}
	m.loggerDied = m.loggerDied || loggerDied
}

// troubled says how a failed operation goes on: later, with a growing delay, for the runtime may be away
// or the trouble may pass; at once when the step was cut short; never when it is fatal.
func (m *machine) troubled(ctx context.Context, err error) outcome {
	switch {
	case ctx.Err() != nil:
		return again
	case errors.Is(err, runtime.ErrFatal):
		m.fatal = err.Error()
		return again
	}
	return m.later(err)
}

// later repeats the step after a growing delay.
func (m *machine) later(err error) outcome {
	limit := 30 * time.Second
	if errors.Is(err, runtime.ErrUnavailable) {
		limit = 2 * time.Second
	}
	delay := min(200*time.Millisecond<<min(m.failures, 20), limit)
	m.failures++
	m.explain(err.Error())
	return outcome{wait: delay}
}

// explain says what the instance waits for, once.
func (m *machine) explain(reason string) {
	m.mu.Lock()
	same := m.rec.Instance.Observed.Reason == reason
	m.mu.Unlock()
	if !same {
		m.update(func(o *fleetv1.InstanceObserved) { o.Reason = reason })
	}
}

// complain says what the instance waits for, with an event when that is new.
func (m *machine) complain(event string, err error) {
	m.mu.Lock()
	same := m.rec.Instance.Observed.Reason == err.Error()
	m.mu.Unlock()
	if !same {
		m.update(func(o *fleetv1.InstanceObserved) {
			o.Reason = err.Error()
			m.noteLocked(fleetv1.EventWarning, event, err.Error())
		})
	}
}

// look compares the container with the record: after a start of the agent, and after the runtime was away.
func (m *machine) look(ctx context.Context, state string) outcome {
	id := m.container()
	m.setLooked(true) // before asking: a resync that comes meanwhile makes it look again
	callCtx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	st, err := m.g.cfg.Runtime.Status(callCtx, id)
	absent := errors.Is(err, runtime.ErrNotFound)
	if err != nil && !absent {
		m.setLooked(false)
		return m.troubled(ctx, err)
	}
	m.failures = 0
	switch {
	case state == fleetv1.InstanceExited, leftDevices(state):
	case absent && ran(state):
		m.notReady()
		m.keepMail(&runtime.Exit{Reason: runtime.ExitShimKilled, Code: 255, Time: time.Now()}, nil, false)
	case absent:
	case st.State == runtime.StateExited || st.State == runtime.StateBroken:
		exit := st.Exit
		if exit == nil {
			exit = &runtime.Exit{Reason: runtime.ExitShimKilled, Code: 255, Time: time.Now()}
		}
		m.notReady()
		m.keepMail(exit, nil, false)
	case st.State == runtime.StateRunning && !m.held:
		m.adopt(st, state)
	}
	m.mu.Lock()
	m.known = true
	m.mu.Unlock()
	m.g.mark(m.id)
	return again
}

// notReady is before anything else is known of an exit: an endpoint must not come back with the next report.
func (m *machine) notReady() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.rec.Instance.Observed.Ready = false
}

func (m *machine) setLooked(looked bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.looked = looked
}

// adopt takes over a running container. What was ready stays ready: it is the probes' to say otherwise.
func (m *machine) adopt(st runtime.Status, state string) {
	m.held = true
	m.save(func(o *fleetv1.InstanceObserved) {
		if state != fleetv1.InstanceDraining && state != fleetv1.InstanceStopping {
			o.State = fleetv1.InstanceRunning
		}
		o.Pid, o.StartTime = int32(st.Pid), timestamppb.New(st.Started)
		m.healthy = o.Ready
		if o.Ready {
			m.readySince = st.Started
		}
		m.noteLocked(fleetv1.EventNormal, "InstanceAdopted", fmt.Sprintf("found container %s running with PID %d", st.ID, st.Pid))
	})
	m.published = m.hostNetwork() || st.HostPort != 0 && st.HostPort == m.port()
	if state != fleetv1.InstanceDraining && state != fleetv1.InstanceStopping {
		m.probe(st)
	}
}
