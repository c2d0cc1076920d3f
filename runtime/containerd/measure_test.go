package containerd_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/drover-fleet/drover/runtime"
	"github.com/drover-fleet/drover/runtime/containerd/containerdtest"
)

// TestMeasure prints how long each step takes; test/bench compares with a bare sequence.
func TestMeasure(t *testing.T) {
	if os.Getenv("DROVER_MEASURE") == "" {
		t.Skip("measures instead of testing: set DROVER_MEASURE=1")
	}
	e := containerdtest.New(t)
	for range 8 {
		s := spec(t, e)
		if _, err := e.Runtime.Pull(within(t), runtime.PullRequest{Image: s.Image, Digest: s.Digest}, nil); err != nil {
			t.Fatal(err)
		}
		var line strings.Builder
		var st runtime.Status
		var total time.Duration
		for _, step := range []struct {
			name  string
			ready bool // part of the way to ready
			run   func() error
		}{
			{"create", true, func() (err error) { st, err = e.Runtime.Create(within(t), s); return err }},
			{"start", true, func() error { _, err := e.Runtime.Start(within(t), s.ID); return err }},
			{"publish", true, func() error { return e.Runtime.Publish(within(t), s.ID, freePort(t)) }},
			{"probe", true, func() error { return probe(within(t), net.JoinHostPort(st.IP, "8080")) }},
			{"status", false, func() error { _, err := e.Runtime.Status(within(t), s.ID); return err }},
			{"stats", false, func() error { _, err := e.Runtime.Stats(within(t), s.ID); return err }},
			{"repair", false, func() error { _, err := e.Runtime.RepairNetwork(within(t)); return err }},
			{"delete", false, func() error { return e.Runtime.Delete(within(t), s.ID) }},
		} {
			start := time.Now()
			if err := step.run(); err != nil {
				t.Fatal(err)
			}
			took := time.Since(start)
			if step.ready {
				total += took
			}
			fmt.Fprintf(&line, "%s %v  ", step.name, took.Round(100*time.Microsecond))
		}
		t.Logf("%s| to ready %v", line.String(), total.Round(100*time.Microsecond))
	}
}

// probe connects until that succeeds.
func probe(ctx context.Context, addr string) error {
	for {
		conn, err := (&net.Dialer{Timeout: time.Second}).DialContext(ctx, "tcp", addr)
		if err == nil {
			return conn.Close()
		}
		select {
		case <-ctx.Done():
			return errors.Join(ctx.Err(), err)
		case <-time.After(time.Millisecond):
		}
	}
}
