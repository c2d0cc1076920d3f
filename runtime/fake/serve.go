package fake

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strconv"
	"syscall"
	"time"
)

// serveLocked starts to listen where the container's process would: on its own address, or with the
// host's network on the host's at $PORT. An own address that another fake runtime took is replaced.
func (r *Runtime) serveLocked(c *container) error {
	port := c.spec.Env["PORT"]
	if port == "" {
		port = strconv.Itoa(c.spec.Port)
	}
	for {
		ip := c.status.IP
		if c.spec.HostNetwork {
			ip = r.opts.HostIP
		}
		l, err := net.Listen("tcp", net.JoinHostPort(ip, port))
		if errors.Is(err, syscall.EADDRINUSE) && !c.spec.HostNetwork && r.nextIP < 1<<22 {
			c.status.IP = r.addressLocked()
			continue
		}
		if err != nil {
			return err
		}
		c.own = r.serve(l, c)
		return nil
	}
}

func (r *Runtime) serve(l net.Listener, c *container) *http.Server {
	handler := http.Handler(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		r.mu.Lock()
		unhealthy := c.unhealthy
		r.mu.Unlock()
		if unhealthy {
			http.Error(w, "unhealthy", http.StatusServiceUnavailable)
			return
		}
		_, _ = fmt.Fprint(w, "ok") // a client that went away needs no answer
	}))
	if r.opts.Handler != nil {
		handler = r.opts.Handler(c.spec)
	}
	srv := &http.Server{Handler: handler, ReadHeaderTimeout: 10 * time.Second}
	srv.SetKeepAlivesEnabled(false)
	go func() { _ = srv.Serve(l) }() // ends with ErrServerClosed: closeServer is its owner
	return srv
}

// closeServer closes the listener and every connection.
func closeServer(srv *http.Server) { _ = srv.Close() }

// Publish implements runtime.Runtime.
func (r *Runtime) Publish(ctx context.Context, id string, hostPort int) error {
	unlock, err := r.lock(ctx, "publish "+id)
	if err != nil {
		return err
	}
	defer unlock()
	c, err := r.findLocked("publish", id)
	if err != nil {
		return err
	}
	if c.spec.HostNetwork || c.status.HostPort == hostPort {
		return nil
	}
	r.opts.Trace("publish", id)
	c.withdraw()
	if r.opts.Listen {
		l, err := net.Listen("tcp", net.JoinHostPort(r.opts.HostIP, strconv.Itoa(hostPort)))
		if err != nil {
			return fmt.Errorf("publish %s: %w", id, err)
		}
		c.host = r.serve(l, c)
	}
	c.status.HostPort = hostPort
	return nil
}

// Withdraw implements runtime.Runtime.
func (r *Runtime) Withdraw(ctx context.Context, id string) error {
	unlock, err := r.lock(ctx, "withdraw "+id)
	if err != nil {
		return err
	}
	defer unlock()
	if c := r.containers[id]; c != nil && c.status.HostPort != 0 {
		r.opts.Trace("withdraw", id)
		c.withdraw()
	}
	return nil
}

func (c *container) withdraw() {
	if c.host != nil {
		closeServer(c.host)
		c.host = nil
	}
	c.status.HostPort = 0
}
