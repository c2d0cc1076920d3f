package systemd

import (
	"context"
	"errors"
	"net"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// listen makes the test the service manager of this process, and returns how to read its next message.
func listen(t *testing.T, watchdog time.Duration) (next func() string) {
	t.Helper()
	addr := &net.UnixAddr{Net: "unixgram", Name: filepath.Join(t.TempDir(), "notify")}
	conn, err := net.ListenUnixgram("unixgram", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	t.Setenv("NOTIFY_SOCKET", addr.Name)
	t.Setenv("WATCHDOG_PID", "")
	t.Setenv("WATCHDOG_USEC", "")
	if watchdog > 0 {
		t.Setenv("WATCHDOG_USEC", strconv.FormatInt(watchdog.Microseconds(), 10))
	}
	return func() string {
		t.Helper()
		buf := make([]byte, 4096)
		if err := conn.SetReadDeadline(time.Now().Add(20 * time.Second)); err != nil {
			t.Fatal(err)
		}
		n, err := conn.Read(buf)
		if err != nil {
			t.Fatalf("waiting for the daemon's next message: %v", err)
		}
		return string(buf[:n])
	}
}

func TestNotifyOverASocket(t *testing.T) {
	next := listen(t, 20*time.Millisecond)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var sick atomic.Bool
	healthy := func() error {
		if sick.Load() {
			return errors.New("log's disk is stuck\nfor 3s")
		}
		return nil
	}
	done := make(chan error, 1)
	go func() { done <- Notify(ctx, healthy, func() string { return "3 instances" }) }()

	if got := next(); got != "READY=1\nSTATUS=3 instances" {
		t.Fatalf("first message %q", got)
	}
	if got := next(); got != "WATCHDOG=1" {
		t.Fatalf("second message %q", got)
	}
	sick.Store(true)
	got := next()
	for got == "WATCHDOG=1" { // beats that were under way
		got = next()
	}
	if got != "STATUS=unhealthy: log's disk is stuck" {
		t.Fatalf("a daemon that became unhealthy said %q", got)
	}
	sick.Store(false)
	if got := next(); got != "STATUS=3 instances\nWATCHDOG=1" {
		t.Fatalf("a daemon that recovered said %q", got)
	}
	cancel()
	for got = next(); got == "WATCHDOG=1"; {
		got = next()
	}
	if got != "STOPPING=1" {
		t.Fatalf("last message %q", got)
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

func TestNotifyWithoutServiceManager(t *testing.T) {
	t.Setenv("NOTIFY_SOCKET", "")
	t.Setenv("WATCHDOG_USEC", "")
	// It must return although ctx doesn't end.
	if err := Notify(t.Context(), func() error { return nil }, func() string { return "" }); err != nil {
		t.Fatal(err)
	}
}

func TestNotifyErrors(t *testing.T) {
	ok, status := func() error { return nil }, func() string { return "" }
	t.Run("no such socket", func(t *testing.T) {
		t.Setenv("NOTIFY_SOCKET", filepath.Join(t.TempDir(), "nobody"))
		t.Setenv("WATCHDOG_USEC", "")
		if err := Notify(t.Context(), ok, status); err == nil || !strings.Contains(err.Error(), "ready") {
			t.Fatalf("got %v", err)
		}
	})
	t.Run("watchdog interval", func(t *testing.T) {
		listen(t, 0)
		t.Setenv("WATCHDOG_USEC", "soon")
		if err := Notify(t.Context(), ok, status); err == nil || !strings.Contains(err.Error(), "watchdog") {
			t.Fatalf("got %v", err)
		}
	})
	t.Run("the socket goes away", func(t *testing.T) {
		gone := errors.New("gone")
		n := notifier{watchdog: time.Millisecond, healthy: ok, status: status}
		n.send = func(state string) (bool, error) {
			if strings.HasPrefix(state, "READY") {
				return true, nil
			}
			return false, gone
		}
		if err := n.run(t.Context()); !errors.Is(err, gone) {
			t.Fatalf("got %v", err)
		}
	})
}

// What is sent, beat by beat, over a minute of a made-up clock.
func TestBeats(t *testing.T) {
	for _, c := range []struct {
		name      string
		watchdog  time.Duration
		unhealthy func(since time.Duration) bool
		want      []string
	}{
		{"healthy", 15 * time.Second, func(time.Duration) bool { return false },
			[]string{"0s READY=1\nSTATUS=fine", "15s WATCHDOG=1", "30s WATCHDOG=1", "45s WATCHDOG=1", "50s STOPPING=1"}},
		{"no watchdog", 0, func(d time.Duration) bool { return d >= 20*time.Second },
			[]string{"0s READY=1\nSTATUS=fine", "20s STATUS=unhealthy: stuck", "50s STOPPING=1"}},
		{"unhealthy for good", 15 * time.Second, func(d time.Duration) bool { return d > 20*time.Second },
			[]string{"0s READY=1\nSTATUS=fine", "15s WATCHDOG=1", "30s STATUS=unhealthy: stuck", "50s STOPPING=1"}},
		{"unhealthy from the start", 15 * time.Second, func(d time.Duration) bool { return d < 20*time.Second },
			[]string{"0s READY=1\nSTATUS=unhealthy: stuck", "30s STATUS=fine\nWATCHDOG=1", "45s WATCHDOG=1", "50s STOPPING=1"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				start := time.Now()
				var got []string
				n := notifier{
					watchdog: c.watchdog,
					send: func(state string) (bool, error) {
						got = append(got, time.Since(start).String()+" "+state)
						return true, nil
					},
					healthy: func() error {
						if c.unhealthy(time.Since(start)) {
							return errors.New("stuck")
						}
						return nil
					},
					status: func() string { return "fine" },
				}
				ctx, cancel := context.WithTimeout(t.Context(), 50*time.Second)
				defer cancel()
				if err := n.run(ctx); err != nil {
					t.Fatal(err)
				}
				if !slices.Equal(got, c.want) {
					t.Errorf("sent %q, want %q", got, c.want)
				}
			})
		})
	}
}
