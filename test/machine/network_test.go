package machine

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"os/exec"
	"testing"
	"time"
)

// reach asks a server on one host from another, or from the machine itself.
func reach(t *testing.T, from *Host, url string) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	name, args := from.Wrap("curl", "--silent", "--show-error", "--max-time", "1", url)
	if out, err := exec.CommandContext(ctx, name, args...).CombinedOutput(); err != nil {
		return fmt.Errorf("%w: %s", err, out)
	}
	return nil
}

func TestNetwork(t *testing.T) {
	n := NewNetwork(t, 2)
	l, err := net.Listen("tcp", n.Hosts[0].Addr.String()+":0")
	if err != nil {
		t.Fatal(err)
	}
	s := &http.Server{Handler: http.NotFoundHandler(), ReadHeaderTimeout: time.Second}
	go func() { _ = s.Serve(l) }() // ends with Close
	defer s.Close()
	url := "http://" + l.Addr().String()
	if err := reach(t, n.Hosts[1], url); err != nil {
		t.Errorf("host 1: %v", err)
	}
	if err := reach(t, n.Hosts[2], url); err != nil {
		t.Errorf("host 2: %v", err)
	}
	n.Set(0, 1, Link{Down: true})
	if reach(t, n.Hosts[1], url) == nil {
		t.Error("host 1 gets answers though none is carried")
	}
	if err := reach(t, n.Hosts[2], url); err != nil {
		t.Errorf("host 2 while host 1 is cut off: %v", err)
	}
	n.Between(1, Link{Delay: 100 * time.Millisecond})
	start := time.Now()
	if err := reach(t, n.Hosts[1], url); err != nil || time.Since(start) < 400*time.Millisecond {
		t.Errorf("with 100 ms each way: %v after %s", err, time.Since(start))
	}
	n.Between(1, Link{Loss: 1}, 0)
	if reach(t, n.Hosts[1], url) == nil {
		t.Error("host 1 gets answers though all packets are lost")
	}
}
