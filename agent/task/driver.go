package task

import (
	"context"
	"errors"
	"maps"
	"slices"
	"sync"
	"time"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
)

const (
	// ahead is how many more items are begun than requests may be in flight: their inputs are read meanwhile.
	ahead = 16
	// maxRunning chunks, and chunks in all: what can't be published as fast as it is run isn't run.
	maxRunning, maxChunks = 2, 12
	// roomItems is how many items are asked for at most.
	roomItems = 2000
	// maxPack is the size of results from which on a chunk begins no more items.
	maxPack = 64 << 20
	// maxLarge answers above largeBytes are held at a time; inputs above it go through a spool.
	maxLarge, largeBytes = 8, 1 << 20
	// publishers write results at a time.
	publishers = 16

	exchangeTimeout = 10 * time.Second
	exchangeEvery   = time.Second
	exchangeGap     = 20 * time.Millisecond // what is done within it is told together
	firstPause      = 200 * time.Millisecond
	lastPause       = 10 * time.Second
	exchangePause   = 2 * time.Second // at most, after an exchange that failed
)

// driver runs the share of one instance. Fields below mu are shared by its goroutines.
type driver struct {
	m    *Manager
	id   string
	who  Labels
	stop context.CancelFunc // set when it runs
	wg   sync.WaitGroup
	wake chan struct{} // a token when something is to be told
	call *caller
	// answers above largeBytes that are taken in.
	answers chan struct{}

	mu      sync.Mutex
	ctx     context.Context //nolint:containedctx // run's, for what takes adds
	address string          // where the container answers, while it is ready
	exits   int             // how often it exited
	exited  uint32          // the attempt that did so last
	changed chan struct{}   // closed when one of these changes, or a chunk is published or dropped
	task    string
	work    *work
	refused string // version of a setup that can't be worked by, of which trouble tells
	stopped bool   // the scheduler wants it to end what it has begun
	leaving *leaving

	chunks    []*chunk
	manifests map[manifestKey]*manifest
	published map[string][]byte // by attempt: what its items are in a manifest
	lost      map[string]bool   // by attempt: it is to be published, and its pack isn't there

	pace     *pace
	inFlight int
	alone    bool // the request that is in flight must be alone
	waiting  []*turn
	suspects map[key]int // requests that were in flight when the container exited, and how often
	active   int         // items begun and not ended
	running  map[int64]begun
	troubles map[int]string
	trouble  int
	tally    tally
}

// begun is an item that has begun.
type begun struct {
	source string
	at     time.Time
}

// leaving is the end of a task: its instance is being stopped.
type leaving struct {
	cancel time.Time // when items that have begun are given up
	until  time.Time // when the instance waits no longer
	left   func()    // nil when it was called
}

func newDriver(m *Manager, inst *fleetv1.Instance) *driver {
	return &driver{
		m: m, id: inst.GetMeta().GetId(), who: labels(inst), wake: make(chan struct{}, 1), call: newCaller(inst.GetSpec().GetApi(), m.cfg.Dial),
		answers: make(chan struct{}, maxLarge), changed: make(chan struct{}),
		manifests: map[manifestKey]*manifest{}, published: map[string][]byte{}, lost: map[string]bool{}, pace: newPace(defaultConcurrency),
		suspects: map[key]int{}, running: map[int64]begun{}, troubles: map[int]string{}, tally: newTally(),
	}
}

// run exchanges until ctx ends.
func (d *driver) run(ctx context.Context) {
	defer d.end()
	d.mu.Lock()
	d.ctx = ctx
	d.mu.Unlock()
	var pause time.Duration
	for ctx.Err() == nil {
		req := d.request(time.Now())
		callCtx, cancel := context.WithTimeout(ctx, exchangeTimeout)
		resp, err := d.m.cfg.Exchange(callCtx, req)
		cancel()
		wake, wait := d.wake, exchangeEvery
		if err != nil {
			pause = min(max(2*pause, firstPause), exchangePause)
			wake, wait = nil, pause
		} else {
			pause = 0
			if next := time.Duration(resp.GetNextMillis()) * time.Millisecond; next > 0 {
				wait = next
			}
			d.take(req, resp)
		}
		d.leave(time.Now(), err == nil && req.GetLeaving() && !busy(req))
		if sleep(ctx, exchangeGap, nil) {
			sleep(ctx, min(wait, d.untilLeave(time.Now())), wake)
		}
	}
}

// end waits for everything that the driver began.
func (d *driver) end() {
	d.mu.Lock()
	for _, c := range slices.Clone(d.chunks) {
		d.dropLocked(c)
	}
	left := d.leaving
	d.mu.Unlock()
	d.wg.Wait()
	d.mu.Lock()
	if d.work != nil {
		d.work.store.Close()
	}
	d.mu.Unlock()
	d.call.close()
	if left != nil && left.left != nil {
		left.left()
	}
}

// sleep waits for so long, or until woken; it tells whether ctx goes on.
func sleep(ctx context.Context, d time.Duration, wake <-chan struct{}) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-wake:
	case <-timer.C:
	}
	return true
}

func (d *driver) changeLocked() {
	close(d.changed)
	d.changed = make(chan struct{})
}

func (d *driver) tell() {
	select {
	case d.wake <- struct{}{}:
	default:
	}
}

// serve takes in how the instance stands. address is empty while it isn't ready.
func (d *driver) serve(inst *fleetv1.Instance, address string) {
	o := inst.GetObserved()
	var left func()
	d.mu.Lock()
	defer func() {
		d.mu.Unlock()
		if left != nil {
			left()
		}
	}()
	exited := o.GetState() == fleetv1.InstanceExited && o.GetAttempt() != d.exited
	if exited {
		d.exited = o.GetAttempt()
		d.exits++
	}
	if o.GetState() == fleetv1.InstanceRunning && d.leaving != nil { // a restart that was asked for is over
		left, d.leaving = d.leaving.left, nil
	}
	if !exited && address == d.address {
		return
	}
	d.address = address
	d.changeLocked()
	d.feedLocked()
	d.tell()
}

// quit has the task end what it has begun. It answers how long that takes at most; left is called once, when it's done.
func (d *driver) quit(grace time.Duration, left func()) time.Duration {
	d.mu.Lock()
	defer d.mu.Unlock()
	timeout := defaultItemTimeout
	if d.work != nil {
		timeout = d.work.timeout
	}
	now := time.Now()
	d.leaving = &leaving{cancel: now.Add(timeout), until: now.Add(timeout + grace), left: left}
	d.cutLocked()
	d.tell()
	return timeout + grace
}

// leave ends the wait for a task that leaves: when the scheduler knows that it has nothing in hand that runs, or in time.
func (d *driver) leave(now time.Time, nothing bool) {
	d.mu.Lock()
	var left func()
	if l := d.leaving; l != nil && l.left != nil {
		if !now.Before(l.cancel) {
			for _, c := range d.chunks {
				c.giveUp()
			}
		}
		if nothing || !now.Before(l.until) {
			left, l.left = l.left, nil
		}
	}
	d.mu.Unlock()
	if left != nil {
		left()
	}
}

// untilLeave answers when leave has something to do.
func (d *driver) untilLeave(now time.Time) time.Duration {
	d.mu.Lock()
	defer d.mu.Unlock()
	const never = time.Hour
	if l := d.leaving; l != nil && l.left != nil {
		for _, at := range []time.Time{l.cancel, l.until} {
			if wait := at.Sub(now); wait > 0 {
				return wait
			}
		}
	}
	return never
}

// busy tells whether a request names a chunk that is still run.
func busy(req *fleetv1.ExchangeTaskRequest) bool {
	for _, c := range req.GetChunks() {
		if c.GetState() == fleetv1.ChunkRunning {
			return true
		}
	}
	return false
}

// request answers all that the task has in hand.
func (d *driver) request(now time.Time) *fleetv1.ExchangeTaskRequest {
	d.mu.Lock()
	defer d.mu.Unlock()
	req := &fleetv1.ExchangeTaskRequest{
		InstanceId: d.id, Task: d.task, Leaving: d.leaving != nil, Progress: d.progressLocked(now),
	}
	if d.work != nil {
		req.SetupVersion = d.work.setup.GetVersion()
	}
	req.Lost = slices.Sorted(maps.Keys(d.lost))
	runs := 0
	for _, c := range d.chunks {
		req.Chunks = append(req.Chunks, c.tell())
		if c.state == fleetv1.ChunkRunning {
			runs++
		}
	}
	for _, m := range d.manifests {
		if m.written {
			req.Written = append(req.Written, &fleetv1.Manifest{Task: m.Task, Number: m.Number, Version: m.Version})
		}
	}
	if d.work != nil && d.address != "" && !d.stopped && d.leaving == nil && runs < maxRunning && len(d.chunks) < maxChunks {
		req.Room = roomItems
	}
	return req
}

func (d *driver) progressLocked(now time.Time) *fleetv1.TaskProgress {
	p := d.tally.progress(now)
	p.InFlight, p.Concurrency = int32(d.inFlight), int32(d.pace.limit)
	p.Slow = slowest(now, d.running)
	for _, text := range d.troubles {
		p.Trouble = max(p.Trouble, text) // any, and the same each time
	}
	return p
}

func (d *driver) progress() Progress {
	d.mu.Lock()
	defer d.mu.Unlock()
	return Progress{Labels: d.who, Task: d.task, TaskProgress: d.progressLocked(time.Now())}
}

// patient repeats what fails for as long as mayPass says so of its error, with growing pauses; meanwhile the task tells its trouble.
func (d *driver) patient(ctx context.Context, mayPass func(error) bool, do func() error) error {
	d.mu.Lock()
	d.trouble++
	number := d.trouble
	d.mu.Unlock()
	defer func() {
		d.mu.Lock()
		delete(d.troubles, number)
		d.mu.Unlock()
	}()
	for pause := firstPause; ; pause = min(2*pause, lastPause) {
		err := do()
		switch {
		case err == nil || ctx.Err() != nil:
			return errors.Join(err, ctx.Err())
		case !mayPass(err):
			return err
		}
		d.mu.Lock()
		d.troubles[number] = err.Error()
		d.mu.Unlock()
		if !sleep(ctx, pause, nil) {
			return ctx.Err()
		}
	}
}

// always is for what has to succeed in the end: nothing is lost by waiting.
func always(error) bool { return true }

// setUp makes a setup ready, unless it's known that it can't be.
func (d *driver) setUp(setup *fleetv1.TaskSetup) {
	d.mu.Lock()
	old, refused := d.work, d.refused
	d.mu.Unlock()
	if setup == nil || old != nil && old.setup.GetVersion() == setup.GetVersion() || refused == setup.GetVersion() {
		return
	}
	w, err := newWork(d.who.Project, setup, d.m.cfg.Open)
	d.mu.Lock()
	defer d.mu.Unlock()
	if err != nil {
		d.refused, d.troubles[0] = setup.GetVersion(), "the job can't be worked on: "+err.Error()
		return
	}
	delete(d.troubles, 0)
	d.refused = ""
	if d.work == nil || d.work.concurrency != w.concurrency {
		d.pace.most = w.concurrency
		d.pace.limit = min(d.pace.limit, w.concurrency)
	}
	d.work = w
	if old != nil {
		old.store.Close() // calls in progress go on
	}
}
