package probe

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"syscall"

	"github.com/drover-fleet/drover/devices"
)

// mostWaiting requests wait for the backend; the parent sends one at a time.
const mostWaiting = 8

// Conn answers the child's end of the socket that its parent made. It fails in a process that no Backend
// has started.
func Conn() (net.Conn, error) {
	const fd = 3
	if _, err := syscall.GetsockoptInt(fd, syscall.SOL_SOCKET, syscall.SO_TYPE); err != nil {
		return nil, fmt.Errorf("file descriptor %d is not the agent's socket (only the agent starts this): %w", fd, err)
	}
	syscall.CloseOnExec(fd) // libraries start programs too
	f := os.NewFile(fd, "agent")
	defer f.Close()
	conn, err := net.FileConn(f)
	if err != nil {
		return nil, fmt.Errorf("use the agent's socket: %w", err)
	}
	return conn, nil
}

// server is the child's side of a socket.
type server struct {
	backend devices.Backend
	failed  chan error // the first one counts

	mu       sync.Mutex // of writing, and watchID
	conn     io.Writer
	watching bool
	watchID  uint64
}

// Serve answers the requests that come over conn by asking b, until conn's other end is closed (nil), ctx
// ends or the socket fails. It doesn't wait for a call of b that hangs: the process is meant to end next.
func Serve(ctx context.Context, b devices.Backend, conn io.ReadWriter) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	s := &server{backend: b, failed: make(chan error, 1), conn: conn}
	calls := make(chan request, mostWaiting)
	go s.read(ctx, conn, calls)
	go s.work(ctx, calls)
	select {
	case <-ctx.Done():
		return ctx.Err()
	case err := <-s.failed:
		if errors.Is(err, io.EOF) {
			return nil
		}
		return err
	}
}

func (s *server) fail(err error) {
	select {
	case s.failed <- err:
	default:
	}
}

func (s *server) read(ctx context.Context, conn io.Reader, calls chan<- request) {
	r := bufio.NewReader(conn)
	for {
		var req request
		if err := readFrame(r, &req); err != nil {
			s.fail(err)
			return
		}
		if req.Call == callWatch {
			s.startWatch(ctx, req.ID)
			continue
		}
		select {
		case calls <- req:
		default:
			s.fail(fmt.Errorf("more than %d requests wait", mostWaiting))
			return
		}
	}
}

// work makes one call after the other.
func (s *server) work(ctx context.Context, calls <-chan request) {
	for {
		select {
		case <-ctx.Done():
			return
		case req := <-calls:
			s.send(s.answer(ctx, req))
		}
	}
}

func (s *server) answer(ctx context.Context, req request) reply {
	ctx, cancel := context.WithTimeout(ctx, req.Within)
	defer cancel()
	out := reply{ID: req.ID}
	var err error
	switch req.Call {
	case callDiscover:
		out.Devices, err = s.backend.Discover(ctx)
	case callSample:
		out.Samples, err = s.backend.Sample(ctx, req.Figures)
	default:
		err = fmt.Errorf("unknown call %q", req.Call)
	}
	out.setError(err)
	return out
}

// startWatch watches, unless that is going on; the request with this ID is answered when it ends.
func (s *server) startWatch(ctx context.Context, id uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.watchID = id
	if s.watching {
		return
	}
	s.watching = true
	go func() {
		err := s.backend.Watch(ctx, func(sig devices.Signal) { s.send(reply{Signal: &sig}) })
		if ctx.Err() != nil {
			return
		}
		if err == nil {
			err = errors.New("nothing more to watch")
		}
		s.mu.Lock()
		s.watching = false
		out := reply{ID: s.watchID}
		s.mu.Unlock()
		out.setError(err)
		s.send(out)
	}()
}

func (s *server) send(r reply) {
	s.mu.Lock()
	defer s.mu.Unlock()
	err := writeFrame(s.conn, r)
	if errors.Is(err, errFrame) { // what the backend answered can't be told, but why can
		out := reply{ID: r.ID}
		out.setError(err)
		err = writeFrame(s.conn, out)
	}
	if err != nil {
		s.fail(err)
	}
}
