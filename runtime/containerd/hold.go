package containerd

import (
	"errors"
	"fmt"
	"sync"

	"golang.org/x/sys/unix"
)

// holds keeps a bound socket for each published host port: the rules alone would leave the port looking free to
// every other program of this host, another Drover among them. The sockets don't listen, so a connection
// that the rules do not catch is refused.
type holds struct {
	mu      sync.Mutex
	sockets map[int]int // by port: file descriptor
}

// take binds the port on all addresses; what is held already stays.
func (h *holds) take(port int) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if _, held := h.sockets[port]; held {
		return nil
	}
	// Without SO_REUSEADDR, which others set: two binds stand beside each other only when both have it.
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("hold port %d: %w", port, err)
	}
	if err := unix.Bind(fd, &unix.SockaddrInet4{Port: port}); err != nil {
		return errors.Join(fmt.Errorf("hold port %d: %w", port, err), unix.Close(fd))
	}
	if h.sockets == nil {
		h.sockets = map[int]int{}
	}
	h.sockets[port] = fd
	return nil
}

func (h *holds) release(port int) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	fd, held := h.sockets[port]
	if !held {
		return nil
	}
	delete(h.sockets, port)
	return unix.Close(fd)
}

func (h *holds) close() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	var errs []error
	for port, fd := range h.sockets {
		delete(h.sockets, port)
		errs = append(errs, unix.Close(fd))
	}
	return errors.Join(errs...)
}
