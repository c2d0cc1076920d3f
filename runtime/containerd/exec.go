package containerd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	client "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/pkg/cio"
	"github.com/google/uuid"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/drover-fleet/drover/runtime"
)

// outputGrace is how long an ended command's output may be held open by what it left running.
const outputGrace = 2 * time.Second

// Exec runs a command with the container's environment, user and limits.
func (r *Runtime) Exec(ctx context.Context, id string, req runtime.ExecRequest) (uint32, error) {
	code, err := r.exec(r.namespaced(ctx), id, req)
	return code, failed("exec in "+id, err)
}

func (r *Runtime) exec(ctx context.Context, id string, req runtime.ExecRequest) (code uint32, err error) {
	if len(req.Command) == 0 {
		return 0, fmt.Errorf("%w: no command", runtime.ErrFatal)
	}
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	setup, cancel := r.call(context.WithoutCancel(ctx), callTimeout)
	defer cancel()
	task, spec, err := r.running(setup, id)
	if err != nil {
		return 0, err
	}
	process := *spec.Process
	process.Args, process.Terminal = req.Command, req.TTY
	if req.TTY && req.Size != (runtime.WindowSize{}) {
		process.ConsoleSize = &specs.Box{Height: uint(req.Size.Rows), Width: uint(req.Size.Columns)}
	}
	ended := make(chan struct{})
	defer close(ended)
	stdin := &closingReader{Reader: req.Stdin}
	var input io.Reader = stdin
	if req.TTY {
		input = &terminalInput{Reader: req.Stdin, ended: ended}
	}
	p, err := task.Exec(setup, "exec-"+uuid.NewString(), &process, r.execIO(req, input))
	if err != nil {
		return 0, err
	}
	defer func() {
		end, cancel := r.call(context.WithoutCancel(ctx), callTimeout)
		defer cancel()
		if _, del := p.Delete(end, client.WithProcessKill); del != nil && !notFound(del) {
			err = errors.Join(err, del)
		}
	}()
	// The wait outlives ctx: a killed command's end is waited for as well.
	waiting, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	exited, err := p.Wait(waiting)
	if err != nil {
		return 0, err
	}
	if err := p.Start(setup); err != nil {
		return 0, err
	}
	stdin.closed(func() { _ = p.CloseIO(waiting, client.WithStdinCloser) }) // fails when the command has ended
	return r.attend(ctx, p, exited, req.Resize)
}

// attend passes size changes on until the command ends or ctx does, which kills it.
func (r *Runtime) attend(ctx context.Context, p client.Process, exited <-chan client.ExitStatus, sizes <-chan runtime.WindowSize) (uint32, error) {
	for {
		select {
		case size, open := <-sizes:
			if !open {
				sizes = nil
				continue
			}
			if err := p.Resize(ctx, uint32(size.Columns), uint32(size.Rows)); err != nil && ctx.Err() == nil && !notFound(err) {
				r.cfg.Logger.Warn("a terminal was not resized", "error", err)
			}
		case status := <-exited:
			drain(p.IO())
			code, _, err := status.Result()
			return code, err
		case <-ctx.Done():
			return 0, errors.Join(ctx.Err(), r.kill(ctx, p, exited))
		}
	}
}

// kill ends a command whose context has ended, and waits for its end.
func (r *Runtime) kill(ctx context.Context, p client.Process, exited <-chan client.ExitStatus) error {
	ctx, cancel := r.call(context.WithoutCancel(ctx), callTimeout)
	defer cancel()
	if err := p.Kill(ctx, syscall.SIGKILL); err != nil && !notFound(err) {
		return err
	}
	select {
	case <-exited:
	case <-ctx.Done():
	}
	return nil
}

// running finds the container's task and specification.
func (r *Runtime) running(ctx context.Context, id string) (client.Task, *specs.Spec, error) {
	c, err := r.client.LoadContainer(ctx, id)
	if err != nil {
		return nil, nil, err
	}
	spec, err := c.Spec(ctx)
	if err != nil {
		return nil, nil, err
	}
	task, err := c.Task(ctx, nil)
	return task, spec, err
}

func (r *Runtime) execIO(req runtime.ExecRequest, stdin io.Reader) cio.Creator {
	orDiscard := func(w io.Writer) io.Writer {
		if w == nil {
			return io.Discard
		}
		return w
	}
	if req.Stdin == nil {
		stdin = nil
	}
	opts := []cio.Opt{cio.WithFIFODir(filepath.Join(r.cfg.DataDir, "fifo"))}
	if req.TTY {
		opts = append(opts, cio.WithStreams(stdin, orDiscard(req.Stdout), nil), cio.WithTerminal)
	} else {
		opts = append(opts, cio.WithStreams(stdin, orDiscard(req.Stdout), orDiscard(req.Stderr)))
	}
	return cio.NewCreator(opts...)
}

// drain waits until everything that was printed has been read, for a while.
func drain(streams cio.IO) {
	read := make(chan struct{})
	go func() { // ends when the streams do, at the latest with Cancel
		defer close(read)
		streams.Wait()
	}()
	select {
	case <-read:
	case <-time.After(outputGrace):
		streams.Cancel()
	}
}

// closingReader calls back once when its reader has ended.
type closingReader struct {
	io.Reader
	mu    sync.Mutex
	ended bool
	then  func()
}

func (c *closingReader) Read(p []byte) (int, error) {
	n, err := c.Reader.Read(p)
	if err != nil {
		c.mu.Lock()
		then := c.then
		c.then, c.ended = nil, true
		c.mu.Unlock()
		if then != nil {
			then()
		}
	}
	return n, err
}

// closed sets the call back, and makes it when the reader ended before.
func (c *closingReader) closed(then func()) {
	c.mu.Lock()
	if !c.ended {
		c.then = then
		c.mu.Unlock()
		return
	}
	c.mu.Unlock()
	then()
}

// endOfFile is the character that ends a terminal's input at the start of a line, and elsewhere ends the line.
const endOfFile = 4

// terminalInput ends a terminal's input as who sits at it would, by that character: where the stream itself ends, the
// shim hangs the terminal up and the command dies of SIGHUP. After it the stream lasts until the command has ended.
type terminalInput struct {
	io.Reader
	ended  <-chan struct{} // the command has
	inLine bool
	over   bool
	last   []byte // what is still to be sent then
}

func (t *terminalInput) Read(p []byte) (int, error) {
	if !t.over {
		n, err := t.Reader.Read(p)
		if n > 0 {
			t.inLine = p[n-1] != '\n' && p[n-1] != '\r'
		}
		if t.over = err != nil; t.over {
			t.last = []byte{endOfFile, endOfFile}
			if !t.inLine {
				t.last = t.last[1:]
			}
		}
		if n > 0 || !t.over {
			return n, nil
		}
	}
	if n := copy(p, t.last); n > 0 {
		t.last = t.last[n:]
		return n, nil
	}
	<-t.ended
	return 0, io.EOF
}
