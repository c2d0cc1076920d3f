package task

import (
	"context"
	"net"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
)

// TestBusy: the first task and the end of the last one are told.
func TestBusy(t *testing.T) {
	var told []bool
	m := New(Config{Busy: func(yes bool) { told = append(told, yes) }})
	a, b := &fleetv1.Instance{Meta: &fleetv1.Meta{Id: "a"}}, &fleetv1.Instance{Meta: &fleetv1.Meta{Id: "b"}}
	m.Serve(a, "")
	m.Drop("a")
	if len(told) > 0 {
		t.Errorf("told %v before there was a task", told)
	}
	m.Serve(a, "a:80")
	m.Serve(a, "a:80")
	m.Serve(b, "b:80")
	m.Drop("a")
	m.Drop("a")
	m.Drop("b")
	m.Serve(a, "a:80")
	if want := []bool{true, false, true}; !slices.Equal(told, want) {
		t.Errorf("told %v, want %v", told, want)
	}
}

// writes counts what is written to a connection.
type writes struct {
	net.Conn
	n *atomic.Int64
}

func (w writes) Write(p []byte) (int, error) {
	w.n.Add(1)
	return w.Conn.Write(p)
}

// TestRequestIsOneWrite: a small input goes out with the head of its request: two packets would cost the model a second read.
func TestRequestIsOneWrite(t *testing.T) {
	bubble(t, func(t *testing.T) {
		const items = 40
		w := newWorld(t, &fleetv1.JobSpec{}, inputs(items)).add("a")
		var n atomic.Int64
		dial := w.m.cfg.Dial
		w.m.cfg.Dial = func(ctx context.Context, network, address string) (net.Conn, error) {
			c, err := dial(ctx, network, address)
			if err != nil {
				return nil, err
			}
			return writes{c, &n}, nil
		}
		w.begin()
		w.echoed(w.finish(time.Minute))
		if n.Load() != items {
			t.Errorf("%d writes for %d requests", n.Load(), items)
		}
	})
}
