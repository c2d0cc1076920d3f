package fake

import (
	"context"
	"fmt"
	"maps"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/drover-fleet/drover/runtime"
)

// Options say how a Runtime behaves; the zero value is useful.
type Options struct {
	// Now is the clock; time.Now when nil.
	Now func() time.Time
	// Listen makes containers listen for real, on loopback addresses.
	Listen bool
	// HostIP is where Publish listens; "127.0.0.1" when empty.
	HostIP string
	// Program says what a command line does; ParseProgram when nil.
	Program func(spec runtime.Spec, args []string) (Program, error)
	// Handler answers a container's requests; when nil every path answers "ok", or 503 after
	// SetHealthy(id, false).
	Handler func(spec runtime.Spec) http.Handler
	// Trace is told each operation that changes a container ("create", "start", "publish", "withdraw",
	// "SIGTERM", "SIGKILL", "delete"), before it happens; it must not call the Runtime.
	Trace func(op, id string)
}

// Runtime is the fake. It must be made by New and closed.
type Runtime struct {
	opts Options

	mu          sync.Mutex
	closed      bool
	unavailable bool
	pullErrors  []error
	images      map[string]int64
	used        []string // digests of images, least recently used first
	containers  map[string]*container
	watchers    map[*watcher]struct{}
	nextPid     int
	nextIP      int
	broken      int // rules that RepairNetwork has to put back
}

type container struct {
	spec      runtime.Spec
	status    runtime.Status
	program   Program
	unhealthy bool
	timer     *time.Timer
	own, host *http.Server
	ended     chan struct{} // closed when its process ends
}

// New makes a Runtime without containers.
func New(opts Options) *Runtime {
	if opts.Now == nil {
		opts.Now = time.Now
	}
	if opts.HostIP == "" {
		opts.HostIP = "127.0.0.1"
	}
	if opts.Program == nil {
		opts.Program = ParseProgram
	}
	if opts.Trace == nil {
		opts.Trace = func(string, string) {}
	}
	return &Runtime{
		opts: opts, images: map[string]int64{}, containers: map[string]*container{},
		watchers: map[*watcher]struct{}{}, nextPid: 1000, nextIP: 1,
	}
}

func (r *Runtime) lock(ctx context.Context, op string) (unlock func(), err error) {
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("%s: %w", op, err)
	}
	r.mu.Lock()
	if r.unavailable || r.closed {
		r.mu.Unlock()
		return nil, fmt.Errorf("%s: %w", op, runtime.ErrUnavailable)
	}
	return r.mu.Unlock, nil
}

func (r *Runtime) findLocked(op, id string) (*container, error) {
	c := r.containers[id]
	if c == nil {
		return nil, fmt.Errorf("%s %s: %w", op, id, runtime.ErrNotFound)
	}
	return c, nil
}

// Info implements runtime.Runtime.
func (r *Runtime) Info(ctx context.Context) (runtime.Info, error) {
	unlock, err := r.lock(ctx, "info")
	if err != nil {
		return runtime.Info{}, err
	}
	defer unlock()
	return runtime.Info{Name: "fake", Version: "1"}, nil
}

// Pull implements runtime.Runtime: every image exists, of 1 MiB, except those whose name ends in
// "missing".
func (r *Runtime) Pull(ctx context.Context, req runtime.PullRequest, progress func(runtime.Progress)) (runtime.Image, error) {
	unlock, err := r.lock(ctx, "pull "+req.Image)
	if err != nil {
		return runtime.Image{}, err
	}
	defer unlock()
	if len(r.pullErrors) > 0 {
		err := r.pullErrors[0]
		r.pullErrors = r.pullErrors[1:]
		return runtime.Image{}, fmt.Errorf("pull %s: %w", req.Image, err)
	}
	if strings.HasSuffix(req.Image, "missing") {
		return runtime.Image{}, fmt.Errorf("pull %s: no such image: %w", req.Image, runtime.ErrFatal)
	}
	const size = 1 << 20
	if r.images[req.Digest] == 0 && req.Allowed != nil {
		if err := req.Allowed(); err != nil {
			return runtime.Image{}, fmt.Errorf("pull %s: %w", req.Image, err)
		}
	}
	if progress != nil && r.images[req.Digest] == 0 {
		progress(runtime.Progress{DoneBytes: size / 2, TotalBytes: size})
		progress(runtime.Progress{DoneBytes: size, TotalBytes: size})
	}
	r.images[req.Digest] = size
	r.used = append(slices.DeleteFunc(r.used, func(d string) bool { return d == req.Digest }), req.Digest)
	return runtime.Image{Digest: req.Digest, Bytes: size}, nil
}

// Create implements runtime.Runtime.
func (r *Runtime) Create(ctx context.Context, spec runtime.Spec) (runtime.Status, error) {
	unlock, err := r.lock(ctx, "create "+spec.ID)
	if err != nil {
		return runtime.Status{}, err
	}
	defer unlock()
	if c := r.containers[spec.ID]; c != nil {
		return c.answer(), nil
	}
	if r.images[spec.Digest] == 0 {
		return runtime.Status{}, fmt.Errorf("create %s: image %s is not present", spec.ID, spec.Digest)
	}
	program, err := r.opts.Program(spec, spec.Command)
	if err != nil {
		return runtime.Status{}, fmt.Errorf("create %s: %w: %w", spec.ID, err, runtime.ErrFatal)
	}
	r.opts.Trace("create", spec.ID)
	c := &container{spec: spec, program: program, ended: make(chan struct{})}
	c.status = runtime.Status{ID: spec.ID, Labels: maps.Clone(spec.Labels), State: runtime.StateCreated, Pid: r.nextPid}
	r.nextPid++
	if !spec.HostNetwork {
		c.status.IP = r.addressLocked()
	}
	r.containers[spec.ID] = c
	return c.answer(), nil
}

func (r *Runtime) addressLocked() string {
	n := r.nextIP
	r.nextIP++
	return net.IPv4(127, byte(100+n>>16&0x3f), byte(n>>8), byte(n)).String()
}

func (c *container) answer() runtime.Status {
	st := c.status
	st.Labels = maps.Clone(st.Labels)
	if st.Exit != nil {
		exit := *st.Exit
		st.Exit = &exit
	}
	return st
}

// Start implements runtime.Runtime.
func (r *Runtime) Start(ctx context.Context, id string) (runtime.Status, error) {
	unlock, err := r.lock(ctx, "start "+id)
	if err != nil {
		return runtime.Status{}, err
	}
	defer unlock()
	c, err := r.findLocked("start", id)
	if err != nil {
		return runtime.Status{}, err
	}
	if c.status.State != runtime.StateCreated {
		return c.answer(), nil
	}
	r.opts.Trace("start", id)
	if r.opts.Listen && !c.program.Exits {
		if err := r.serveLocked(c); err != nil {
			return runtime.Status{}, fmt.Errorf("start %s: %w", id, err)
		}
	}
	c.status.State, c.status.Started = runtime.StateRunning, r.opts.Now()
	answer := c.answer()
	switch {
	case c.program.Exits && c.program.After == 0:
		r.exitLocked(c, c.program.Code, runtime.ExitNormal)
	case c.program.Exits:
		c.timer = time.AfterFunc(c.program.After, func() { r.exit(c, c.program.Code, runtime.ExitNormal) })
	}
	return answer, nil
}

func (r *Runtime) exit(c *container, code uint32, reason runtime.ExitReason) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.exitLocked(c, code, reason)
}

// exitLocked ends the container's process, if it runs, and tells the watchers.
func (r *Runtime) exitLocked(c *container, code uint32, reason runtime.ExitReason) {
	if c.status.State != runtime.StateRunning && c.status.State != runtime.StateCreated {
		return
	}
	c.status.State = runtime.StateExited
	if reason == runtime.ExitShimKilled {
		c.status.State = runtime.StateBroken
	}
	c.status.Pid = 0
	c.status.Exit = &runtime.Exit{Code: code, Reason: reason, Time: r.opts.Now()}
	c.stop()
	exit := *c.status.Exit
	r.tellLocked(runtime.Event{Kind: runtime.EventExited, ID: c.status.ID, Exit: &exit})
}

// stop closes what the process had open.
func (c *container) stop() {
	if c.timer != nil {
		c.timer.Stop()
	}
	if c.own != nil {
		closeServer(c.own)
		c.own = nil
	}
	select {
	case <-c.ended:
	default:
		close(c.ended)
	}
}

// Signal implements runtime.Runtime.
func (r *Runtime) Signal(ctx context.Context, id string, sig syscall.Signal) error {
	unlock, err := r.lock(ctx, "signal "+id)
	if err != nil {
		return err
	}
	defer unlock()
	c, err := r.findLocked("signal", id)
	if err != nil {
		return err
	}
	if c.status.State != runtime.StateRunning {
		return fmt.Errorf("signal %s: no process runs: %w", id, runtime.ErrNotFound)
	}
	switch sig {
	case syscall.SIGTERM:
		r.opts.Trace("SIGTERM", id)
		if !c.program.IgnoreTerm {
			r.exitLocked(c, 0, runtime.ExitNormal)
		}
	case syscall.SIGKILL:
		r.opts.Trace("SIGKILL", id)
		r.exitLocked(c, 137, runtime.ExitNormal)
	}
	return nil
}

// Delete implements runtime.Runtime.
func (r *Runtime) Delete(ctx context.Context, id string) error {
	unlock, err := r.lock(ctx, "delete "+id)
	if err != nil {
		return err
	}
	defer unlock()
	c := r.containers[id]
	if c == nil {
		return nil
	}
	r.opts.Trace("delete", id)
	r.exitLocked(c, 137, runtime.ExitNormal)
	c.withdraw()
	delete(r.containers, id)
	return nil
}

// Status implements runtime.Runtime.
func (r *Runtime) Status(ctx context.Context, id string) (runtime.Status, error) {
	unlock, err := r.lock(ctx, "status "+id)
	if err != nil {
		return runtime.Status{}, err
	}
	defer unlock()
	c, err := r.findLocked("status", id)
	if err != nil {
		return runtime.Status{}, err
	}
	return c.answer(), nil
}

// List implements runtime.Runtime; the answer is ordered by ID.
func (r *Runtime) List(ctx context.Context) ([]runtime.Status, error) {
	unlock, err := r.lock(ctx, "list")
	if err != nil {
		return nil, err
	}
	defer unlock()
	var all []runtime.Status
	for _, id := range slices.Sorted(maps.Keys(r.containers)) {
		all = append(all, r.containers[id].answer())
	}
	return all, nil
}

// CollectImages implements runtime.Runtime: images always fill the whole disk.
func (r *Runtime) CollectImages(ctx context.Context, high, low float64, keep func(string) bool) ([]runtime.Image, error) {
	unlock, err := r.lock(ctx, "collect images")
	if err != nil {
		return nil, err
	}
	defer unlock()
	var removed []runtime.Image
	if high > 1 {
		return nil, nil
	}
	for _, digest := range slices.Sorted(maps.Keys(r.images)) {
		if !keep(digest) {
			removed = append(removed, runtime.Image{Digest: digest, Bytes: r.images[digest]})
			delete(r.images, digest)
		}
	}
	r.used = slices.DeleteFunc(r.used, func(d string) bool { return r.images[d] == 0 })
	return removed, nil
}

// Images implements runtime.Runtime.
func (r *Runtime) Images(ctx context.Context) ([]runtime.Image, error) {
	unlock, err := r.lock(ctx, "list images")
	if err != nil {
		return nil, err
	}
	defer unlock()
	var list []runtime.Image
	for _, digest := range slices.Backward(r.used) {
		list = append(list, runtime.Image{Digest: digest, Bytes: r.images[digest]})
	}
	return list, nil
}

// RepairNetwork implements runtime.Runtime.
func (r *Runtime) RepairNetwork(ctx context.Context) (int, error) {
	unlock, err := r.lock(ctx, "repair network")
	if err != nil {
		return 0, err
	}
	defer unlock()
	n := r.broken
	r.broken = 0
	return n, nil
}

// Close ends every container and watch.
func (r *Runtime) Close() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.closed = true
	for _, c := range r.containers {
		c.stop()
		c.withdraw()
	}
	for w := range r.watchers {
		w.cancel()
	}
	return nil
}
