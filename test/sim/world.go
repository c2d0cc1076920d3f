package sim

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"time"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
	"github.com/drover-fleet/drover/scheduler/reconcile"
	"github.com/drover-fleet/drover/scheduler/state"
	"github.com/drover-fleet/drover/test/sim/trace"
)

// Config is what a run is made from. Equal ones give equal runs.
type Config struct {
	Seed  uint64
	Fleet Fleet
	Trace []trace.Event
	// Chaos comes on top of the trace.
	Chaos Chaos
	// CheckEvery is how often everything is checked, in simulated time; default 10 min.
	CheckEvery time.Duration
	// Log takes the commands; the run ends with reading them back.
	Log io.ReadWriteSeeker
	// Stopwatch is a real clock with which passes are timed; nil for none. Nothing else depends on it.
	Stopwatch func() time.Time
	// Logger is the loops'; default none.
	Logger *slog.Logger
}

const (
	// lease is how long a silent node counts as alive.
	lease = 10 * time.Second
	// settling is how long repairs and jobs go on after the trace has ended; then nothing befalls the fleet any
	// more, and after calm nothing may change for as long again.
	settling = 2 * time.Hour
	calm     = time.Hour
	// mostSteps is how often the loops may have more to do at one time.
	mostSteps = 1000
	// mostFaults are kept; a run with more is not worth going on with.
	mostFaults = 20
)

// world is one run.
type world struct {
	cfg      Config
	rng, ids *rand.Rand
	start    time.Time
	now      time.Time
	queue    queue
	chaos    *chaos

	store    *state.Store
	feed     state.Feed
	log      *commandLog
	sessions *sessions
	loops    *reconcile.Loops
	term     *reconcile.Term
	wake     time.Time // when the loops have something to do; zero for never

	agents []*agent
	byName map[string]*agent
	jobs   map[string]*job // by service ID
	ledger *ledger
	meter  *meter
	over   bool     // nothing more befalls the fleet
	due    bool     // everything is to be checked when the loops have nothing to do
	faults []string // what went wrong
}

// fault notes that an invariant doesn't hold.
func (w *world) fault(format string, args ...any) {
	if len(w.faults) <= mostFaults {
		w.faults = append(w.faults, fmt.Sprintf("%s (entry %d): ", w.now.Sub(w.start), w.log.index)+fmt.Sprintf(format, args...))
	}
}

// Run simulates a fleet. The error says what kept the run from ending; invariants that don't hold are in the
// report.
func Run(ctx context.Context, cfg Config) (*Report, error) {
	w := newWorld(cfg)
	defer w.feed.Close()
	if err := w.found(); err != nil {
		return nil, err
	}
	w.term, w.wake = w.loops.Begin(), w.now
	defer func() { w.term.End() }()
	if err := w.run(ctx); err != nil {
		return nil, err
	}
	return w.meter.report()
}

// newWorld makes a world without nodes; its owner closes the feed.
func newWorld(cfg Config) *world {
	if cfg.CheckEvery <= 0 {
		cfg.CheckEvery = 10 * time.Minute
	}
	start := time.Date(2026, 1, 5, 0, 0, 0, 0, time.UTC)
	w := &world{cfg: cfg, rng: rand.New(rand.NewPCG(cfg.Seed, 1)), ids: rand.New(rand.NewPCG(cfg.Seed, 2)), start: start, now: start,
		chaos: newChaos(cfg.Chaos, cfg.Seed), store: state.New(), byName: map[string]*agent{}, jobs: map[string]*job{}}
	w.sessions = &sessions{lost: map[string]bool{}}
	w.log = newCommandLog(cfg.Log)
	w.ledger = newLedger(w)
	w.meter = newMeter(w)
	w.feed = w.store.Subscribe()
	w.loops = reconcile.New(reconcile.Config{State: w.store, Proposer: w, Sessions: w.sessions, Logger: cfg.Logger,
		Now: w.clock, NewID: w.newID})
	return w
}

// run lets the trace happen, and then waits for the fixed point.
func (w *world) run(ctx context.Context) error {
	var end time.Time
	for i := range w.cfg.Trace {
		e := &w.cfg.Trace[i]
		if err := e.Check(); err != nil {
			return fmt.Errorf("event %d of the trace: %w", i+1, err)
		}
		w.queue.add(w.start.Add(length(e.At)), func() { w.operate(e) })
		end = w.start.Add(length(e.At))
	}
	w.meter.sampleUntil(end)
	if err := w.until(ctx, end); err != nil {
		return err
	}
	if err := w.until(ctx, w.now.Add(settling)); err != nil {
		return err
	}
	w.over = true
	if err := w.until(ctx, w.now.Add(calm)); err != nil {
		return err
	}
	w.checkAll()
	return w.rest(ctx)
}

// length is a time of a trace.
func length(seconds float64) time.Duration { return time.Duration(seconds*1000) * time.Millisecond }

// rest checks that nothing changes any more, for a new leader neither.
func (w *world) rest(ctx context.Context) error {
	for _, who := range []string{"the leader", "a new leader"} {
		before := w.log.index
		if err := w.until(ctx, w.now.Add(calm)); err != nil {
			return err
		}
		if n := w.log.index - before; n > 0 {
			w.fault("no fixed point: %s made %d changes within %s though nothing happened, the last one %s", who, n, calm, w.log.last)
		}
		w.term.End()
		w.term = w.loops.Begin()
		w.wake = w.now
	}
	w.checkAll()
	return nil
}

// until lets everything happen up to a time, including it.
func (w *world) until(ctx context.Context, end time.Time) error {
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		if len(w.faults) > mostFaults {
			return nil
		}
		at, some := w.queue.next()
		if !w.wake.IsZero() && (!some || w.wake.Before(at)) {
			at, some = w.wake, true
		}
		if !some || at.After(end) {
			w.now = end
			return nil
		}
		if at.After(w.now) {
			w.now = at
		}
		for next, ok := w.queue.next(); ok && !next.After(w.now); next, ok = w.queue.next() {
			w.queue.take()()
		}
		if err := w.step(ctx); err != nil {
			return err
		}
	}
}

// step has the loops do all that they have to do now.
func (w *world) step(ctx context.Context) error {
	for range mostSteps {
		w.elect()
		stop := w.meter.pass()
		next := w.term.Step(ctx, w.clock())
		stop()
		if w.log.err != nil {
			return w.log.err
		}
		if w.chaos.deposed {
			continue
		}
		if next.IsZero() || next.After(w.clock()) {
			if w.wake = next; !next.IsZero() {
				w.wake = next.Add(-w.chaos.offset)
			}
			w.ledger.quiet()
			if w.due {
				w.due = false
				w.checkAll()
			}
			return nil
		}
	}
	return fmt.Errorf("%s: the loops are not done after %d steps; the last entry was %s", w.now.Sub(w.start), mostSteps, w.log.last)
}

// at has something done then, after with a delay.
func (w *world) at(t time.Time, do func()) { w.queue.add(t, do) }

func (w *world) after(d time.Duration, do func()) {
	w.at(w.now.Add(d).Truncate(time.Millisecond), do)
}

// befall has something happen to the fleet then, unless the run is over by then.
func (w *world) befall(d time.Duration, do func()) {
	w.after(d, func() {
		if !w.over {
			do()
		}
	})
}

// newID makes an ID that looks like a UUID.
func (w *world) newID() string {
	a, b := w.ids.Uint64(), w.ids.Uint64()
	return fmt.Sprintf("%08x-%04x-4%03x-8%03x-%012x", a>>32, a>>16&0xffff, a&0xfff, b>>52, b&0xffffffffffff)
}

// lead has another leader take over; with restart it has just read its snapshot.
func (w *world) lead(restart bool) {
	w.term.End()
	if restart {
		var b bytes.Buffer
		_, err := w.store.Snapshot().WriteTo(&b)
		if err == nil {
			err = w.store.Restore(&b)
		}
		if _, resync, lost := w.feed.Poll(); err != nil || lost != nil || !resync {
			w.fault("snapshot and restore: %v, feed: %v", err, lost)
		}
		w.audit()
	}
	w.sessions.forget()
	w.term = w.loops.Begin()
	for _, a := range w.agents {
		if a.linked {
			a.connect()
		} else if !w.sessions.lost[a.name] {
			a.awaitLease()
		}
	}
}

// sessions are the leases, as the loops see them.
type sessions struct {
	lost  map[string]bool
	lease func(node string)
}

// LeaseValid implements reconcile.Sessions.
func (s *sessions) LeaseValid(node string) bool { return !s.lost[node] }

// OnLease implements reconcile.Sessions.
func (s *sessions) OnLease(f func(string)) (cancel func()) {
	s.lease = f
	return func() {}
}

// OnPull implements reconcile.Sessions. Progress within a pull isn't simulated.
func (s *sessions) OnPull(func(string)) (cancel func()) { return func() {} }

func (s *sessions) forget() { s.lease = nil }

func (s *sessions) set(node string, lost bool) {
	if s.lost[node] == lost {
		return
	}
	if s.lost[node] = lost; !lost {
		delete(s.lost, node)
	}
	if s.lease != nil {
		s.lease(node)
	}
}

// write commits mutations as the API would.
func (w *world) write(caller string, write *fleetv1.Write) bool {
	result, err := w.insist(&fleetv1.Command{Caller: caller, Op: &fleetv1.Command_Write{Write: write}})
	if err != nil || len(result.Rejections) > 0 {
		w.fault("write of %s refused: %v %v", caller, result.Rejections, err)
		return false
	}
	return true
}
