package probe

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/drover-fleet/drover/devices"
)

// Config of a Backend. Vendor and Command are required.
type Config struct {
	Vendor  string
	Program string   // what is executed; Command[0] when empty
	Command []string // the child's arguments, its name first; it calls Conn and Serve
	// Present tells whether this host shows a device of the vendor; nil: always. Until it first does, there are no
	// devices and there is no child: its memory would be lost on every host without accelerators.
	Present func() bool
	// Within which the child answers. Loading a library and waking its devices is part of a child's first
	// answer, whatever it is: DiscoverWithin counts for that one. 25 s and 10 s by default.
	DiscoverWithin time.Duration
	SampleWithin   time.Duration
	// Pauses before a child is started again: from the least, doubling, to the most; a child that lived for
	// the most resets it. 1 s and 1 min by default.
	LeastPause time.Duration
	MostPause  time.Duration
	Logger     *slog.Logger // nil: none
}

// closeWithin is how long Close waits for the child to be gone.
const closeWithin = time.Second

var (
	errClosed = errors.New("the probe is closed")
	// errAnew ends a child whose library didn't find devices.
	errAnew = errors.New("the probe is started anew after its library failed")
)

// Backend is a devices.Backend whose vendor's library is in a child process.
type Backend struct {
	cfg Config

	mu       sync.Mutex
	closed   bool
	child    *child // the last one started; nil before the first
	pause    time.Duration
	notUntil time.Time // a child is not started before
	failure  error     // why the last child ended or didn't start
	watcher  *watcher
}

// watcher is a Watch that goes on.
type watcher struct {
	tell  func(devices.Signal)
	ended chan error // with room for one
}

// New answers a backend that has no child yet.
func New(cfg Config) *Backend {
	cfg.DiscoverWithin = cmp.Or(cfg.DiscoverWithin, 25*time.Second)
	cfg.SampleWithin = cmp.Or(cfg.SampleWithin, 10*time.Second)
	cfg.LeastPause = cmp.Or(cfg.LeastPause, time.Second)
	cfg.MostPause = cmp.Or(cfg.MostPause, time.Minute)
	if cfg.Program == "" {
		cfg.Program = cfg.Command[0]
	}
	cfg.Logger = cmp.Or(cfg.Logger, slog.New(slog.DiscardHandler)).With("vendor", cfg.Vendor)
	return &Backend{cfg: cfg, pause: cfg.LeastPause}
}

// Vendor implements devices.Backend.
func (b *Backend) Vendor() string { return b.cfg.Vendor }

// Discover implements devices.Backend.
func (b *Backend) Discover(ctx context.Context) ([]devices.Device, error) {
	if b.absent() {
		return nil, ctx.Err()
	}
	answer, err := b.ask(ctx, request{Call: callDiscover, Within: b.cfg.DiscoverWithin})
	if err != nil {
		return nil, fmt.Errorf("discover: %w", err)
	}
	return answer.Devices, nil
}

// Sample implements devices.Backend.
func (b *Backend) Sample(ctx context.Context, what devices.Figures) ([]devices.Sample, error) {
	if b.absent() {
		return nil, ctx.Err()
	}
	answer, err := b.ask(ctx, request{Call: callSample, Figures: what, Within: b.cfg.SampleWithin})
	if err != nil {
		return nil, fmt.Errorf("sample: %w", err)
	}
	return answer.Samples, nil
}

// absent tells whether no child is needed yet.
func (b *Backend) absent() bool {
	if b.cfg.Present == nil {
		return false
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.child == nil && !b.closed && !b.cfg.Present()
}

// Watch implements devices.Backend. It starts no child, and survives the end of one.
func (b *Backend) Watch(ctx context.Context, f func(devices.Signal)) error {
	w := &watcher{tell: f, ended: make(chan error, 1)}
	b.mu.Lock()
	b.watcher = w
	child := b.child
	b.mu.Unlock()
	defer func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		if b.watcher == w {
			b.watcher = nil
		}
	}()
	if child != nil {
		child.watch() // a child that has ended takes no notice
	}
	select {
	case <-ctx.Done():
		return ctx.Err()
	case err := <-w.ended:
		return fmt.Errorf("watch: %w", err)
	}
}

// Close kills the child. One that can't be killed ends with the agent at the latest.
func (b *Backend) Close() error {
	b.mu.Lock()
	b.closed = true
	child := b.child
	b.mu.Unlock()
	if child == nil {
		return nil
	}
	child.end(errClosed)
	timer := time.NewTimer(closeWithin)
	defer timer.Stop()
	select {
	case <-child.gone:
		return nil
	case <-timer.C:
		return fmt.Errorf("the probe (PID %d) was killed and is still there", child.pid())
	}
}

// ask sends a request to the child, which it starts if need be, and waits for the answer.
func (b *Backend) ask(ctx context.Context, req request) (*reply, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	child, first, err := b.living()
	if err != nil {
		return nil, err
	}
	if first {
		req.Within = max(req.Within, b.cfg.DiscoverWithin)
	}
	missed := fmt.Errorf("%w to %s within %s", devices.ErrUnresponsive, req.Call, req.Within)
	callCtx, cancel := context.WithTimeoutCause(ctx, req.Within, missed)
	defer cancel()
	answer, err := child.ask(callCtx, req)
	if errors.Is(callCtx.Err(), context.DeadlineExceeded) && answer == nil {
		if ctx.Err() != nil {
			missed = fmt.Errorf("%w to %s in time", devices.ErrUnresponsive, req.Call)
		}
		child.end(missed)
		return nil, missed
	}
	if err != nil {
		return nil, err
	}
	if err = answer.err(); err != nil && req.Call == callDiscover {
		child.end(errAnew)
	}
	return answer, err
}

// living answers a child that isn't known to have ended, and whether it is yet to answer its first call.
func (b *Backend) living() (_ *child, first bool, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return nil, false, errClosed
	}
	if b.child != nil && b.child.ended() == nil {
		return b.child, !b.child.answered.Load(), nil
	}
	if wait := time.Until(b.notUntil); wait > 0 {
		return nil, false, fmt.Errorf("%w; the next probe starts in %s", b.failure, wait.Round(time.Millisecond))
	}
	if b.child != nil && !b.child.isGone() {
		return nil, false, fmt.Errorf("%w: the probe (PID %d) was killed and is still there", devices.ErrUnresponsive, b.child.pid())
	}
	started := time.Now()
	c, err := start(b.cfg, b.signal, b.watchEnded, func(c *child, err error) { b.childEnded(c, started, err) })
	if err != nil {
		err = fmt.Errorf("start the probe: %w", err)
		b.backOffLocked(err)
		return nil, false, err
	}
	b.child = c
	if b.watcher != nil {
		b.child.watch()
	}
	return b.child, true, nil
}

func (b *Backend) backOffLocked(err error) {
	b.failure, b.notUntil = err, time.Now().Add(b.pause)
	b.pause = min(2*b.pause, b.cfg.MostPause)
}

// childEnded is called once for each child.
func (b *Backend) childEnded(c *child, started time.Time, err error) {
	if errors.Is(err, errAnew) {
		return // no fault of the child's
	}
	b.mu.Lock()
	closed := b.closed
	if time.Since(started) >= b.cfg.MostPause {
		b.pause = b.cfg.LeastPause
	}
	pause := b.pause
	b.backOffLocked(err)
	b.mu.Unlock()
	if !closed {
		b.cfg.Logger.Error("device probe ended", "pid", c.pid(), "error", err, "pause", pause)
	}
}

func (b *Backend) current() *watcher {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.watcher
}

func (b *Backend) signal(s devices.Signal) {
	if w := b.current(); w != nil {
		w.tell(s)
	}
}

func (b *Backend) watchEnded(err error) {
	if w := b.current(); w != nil {
		select {
		case w.ended <- err:
		default:
		}
	}
}
