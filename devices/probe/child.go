package probe

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/drover-fleet/drover/devices"
)

const (
	// writeWithin bounds the sending of a request: it fits the socket's buffer unless the child reads nothing.
	writeWithin = time.Second
	// tellWithin is how long the end of a child is held back for its exit status.
	tellWithin = 200 * time.Millisecond
)

// child is one process. It is living until end was called, and gone when the kernel says so.
type child struct {
	cmd        *exec.Cmd
	conn       net.Conn
	signal     func(devices.Signal)
	watchEnded func(error)
	onEnd      func(*child, error)
	answered   atomic.Bool

	done chan struct{} // closed when it has ended
	gone chan struct{} // closed when it was reaped

	writing sync.Mutex

	mu      sync.Mutex
	err     error // why it ended
	status  string
	nextID  uint64
	watchID uint64
	waiting map[uint64]chan *reply
}

// start starts a child and the goroutines that belong to it; they end when it is gone.
func start(cfg Config, signal func(devices.Signal), watchEnded func(error), onEnd func(*child, error)) (*child, error) {
	conn, far, err := socketPair()
	if err != nil {
		return nil, err
	}
	defer far.Close()
	out, printed, err := os.Pipe()
	if err != nil {
		return nil, errors.Join(fmt.Errorf("make a pipe: %w", err), conn.Close())
	}
	defer printed.Close()
	c := &child{
		conn: conn, signal: signal, watchEnded: watchEnded, onEnd: onEnd,
		done: make(chan struct{}), gone: make(chan struct{}), waiting: map[uint64]chan *reply{},
	}
	// No context: it would be waited for in the caller's path.
	c.cmd = &exec.Cmd{
		Path: cfg.Program, Args: cfg.Command, Stdout: printed, Stderr: printed, ExtraFiles: []*os.File{far},
		SysProcAttr: &syscall.SysProcAttr{Setsid: true, Pdeathsig: syscall.SIGKILL},
	}
	started := make(chan error, 1)
	go c.supervise(started)
	if err := <-started; err != nil {
		return nil, errors.Join(err, conn.Close(), out.Close())
	}
	go c.read()
	go relay(out, cfg.Logger.With("pid", c.pid()))
	go func() {
		<-c.gone
		// Programs that the library started may hold the other end.
		_ = out.SetReadDeadline(time.Now().Add(tellWithin)) // else it is read until they close it
	}()
	return c, nil
}

// socketPair answers the agent's end and the one that the child inherits.
func socketPair() (net.Conn, *os.File, error) {
	fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("make a pair of sockets: %w", err)
	}
	near, far := os.NewFile(uintptr(fds[0]), "probe"), os.NewFile(uintptr(fds[1]), "agent")
	defer near.Close()
	conn, err := net.FileConn(near)
	if err != nil {
		return nil, nil, errors.Join(fmt.Errorf("use the pair of sockets: %w", err), far.Close())
	}
	return conn, far, nil
}

// supervise starts the process and reaps it. The kernel kills the child when the thread ends that started
// it, so that thread is kept until then.
func (c *child) supervise(started chan<- error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	err := keepFiles()
	if err == nil {
		err = c.cmd.Start()
	}
	started <- err
	if err != nil {
		return
	}
	err = c.cmd.Wait()
	c.mu.Lock()
	c.status = "exit status 0"
	if err != nil {
		c.status = err.Error()
	}
	c.mu.Unlock()
	close(c.gone)
}

// keepFiles makes sure that the child inherits no file that this process got from who started it.
func keepFiles() error {
	open, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return fmt.Errorf("list open files: %w", err)
	}
	for _, f := range open {
		if fd, err := strconv.Atoi(f.Name()); err == nil && fd > 2 {
			syscall.CloseOnExec(fd)
		}
	}
	return nil
}

func (c *child) pid() int { return c.cmd.Process.Pid }

// end makes the child end, if it didn't before, and tells all who wait. It doesn't wait.
func (c *child) end(why error) {
	c.mu.Lock()
	if c.err != nil {
		c.mu.Unlock()
		return
	}
	c.err = why
	c.mu.Unlock()
	_ = c.cmd.Process.Kill() // fails only when it is gone
	c.conn.Close()
	c.onEnd(c, why)
	close(c.done)
}

// ended answers why the child has ended, nil while it lives.
func (c *child) ended() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err
}

func (c *child) isGone() bool {
	select {
	case <-c.gone:
		return true
	default:
		return false
	}
}

// ask sends a request and waits for its answer, the child's end or the context's.
func (c *child) ask(ctx context.Context, req request) (*reply, error) {
	answer := make(chan *reply, 1)
	c.mu.Lock()
	c.nextID++
	req.ID = c.nextID
	c.waiting[req.ID] = answer
	c.mu.Unlock()
	defer func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		delete(c.waiting, req.ID)
	}()
	c.send(req)
	select {
	case r := <-answer:
		c.answered.Store(true)
		return r, nil
	case <-c.done:
		return nil, c.ended()
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// watch asks the child for its signals.
func (c *child) watch() {
	c.mu.Lock()
	c.nextID++
	c.watchID = c.nextID
	req := request{ID: c.watchID, Call: callWatch}
	c.mu.Unlock()
	c.send(req)
}

func (c *child) send(req request) {
	c.writing.Lock()
	defer c.writing.Unlock()
	err := c.conn.SetWriteDeadline(time.Now().Add(writeWithin))
	if err == nil {
		err = writeFrame(c.conn, req)
	}
	if err != nil && !errors.Is(err, syscall.EPIPE) && !errors.Is(err, syscall.ECONNRESET) { // these the reader explains
		go c.end(fmt.Errorf("the probe takes no requests: %w", err))
	}
}

// read takes in what the child says until it ends.
func (c *child) read() {
	r := bufio.NewReader(c.conn)
	for {
		var got reply
		if err := readFrame(r, &got); err != nil {
			c.end(c.reason(err))
			return
		}
		if got.Signal != nil {
			c.signal(*got.Signal)
			continue
		}
		c.mu.Lock()
		waiting, watch := c.waiting[got.ID], c.watchID
		delete(c.waiting, got.ID)
		c.mu.Unlock()
		switch {
		case waiting != nil:
			waiting <- &got
		case got.ID == watch && watch != 0:
			c.watchEnded(got.err())
		}
	}
}

// reason says why nothing more comes from the child.
func (c *child) reason(err error) error {
	if errors.Is(err, errFrame) {
		return fmt.Errorf("the probe sent garbage: %w", err)
	}
	timer := time.NewTimer(tellWithin)
	defer timer.Stop()
	select {
	case <-c.gone:
		c.mu.Lock()
		defer c.mu.Unlock()
		return fmt.Errorf("the probe ended: %s", c.status)
	case <-timer.C:
	}
	if errors.Is(err, io.EOF) || errors.Is(err, syscall.ECONNRESET) {
		return errors.New("the probe closed its socket")
	}
	return fmt.Errorf("the probe's socket: %w", err)
}
