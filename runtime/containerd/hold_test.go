package containerd_test

import (
	"errors"
	"fmt"
	"net"
	"syscall"
	"testing"

	"github.com/drover-fleet/drover/runtime/containerd/containerdtest"
)

func TestPublishedPortsAreHeld(t *testing.T) {
	e := containerdtest.New(t)
	a, b := spec(t, e), spec(t, e)
	started(t, e, a)
	started(t, e, b)
	port := freePort(t)
	if err := e.Runtime.Publish(within(t), a.ID, port); err != nil {
		t.Fatal(err)
	}
	if answer, err := getAt(fmt.Sprintf("127.0.0.1:%d", port), "/"); err != nil || answer != "ok" {
		t.Errorf("the held port answers %q, %v", answer, err)
	}
	listen := func() error {
		l, err := net.Listen("tcp", fmt.Sprintf(":%d", port))
		if err == nil {
			err = l.Close()
		}
		return err
	}
	if err := listen(); !errors.Is(err, syscall.EADDRINUSE) {
		t.Errorf("another program listens on a published port: %v", err)
	}
	if err := e.Runtime.Withdraw(within(t), a.ID); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", fmt.Sprintf(":%d", port))
	if err != nil {
		t.Fatalf("a withdrawn port stays held: %v", err)
	}
	if err := e.Runtime.Publish(within(t), b.ID, port); !errors.Is(err, syscall.EADDRINUSE) {
		t.Errorf("a port that another program has was published: %v", err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if err := e.Runtime.Publish(within(t), b.ID, port); err != nil {
		t.Fatal(err)
	}
	if err := e.Runtime.Delete(within(t), b.ID); err != nil {
		t.Fatal(err)
	}
	if err := listen(); err != nil {
		t.Errorf("a deleted container's port stays held: %v", err)
	}
}
