package containerd_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/drover-fleet/drover/runtime"
	"github.com/drover-fleet/drover/runtime/containerd/containerdtest"
)

const patience = 30 * time.Second

func within(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	return ctx
}

// eventually tries until check answers nil.
func eventually(t *testing.T, what string, check func() error) {
	t.Helper()
	ctx := within(t)
	for {
		err := check()
		if err == nil {
			return
		}
		select {
		case <-ctx.Done():
			t.Fatalf("%s: %v", what, err)
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// spec answers the specification of a container that runs the app.
func spec(t *testing.T, e *containerdtest.Env) runtime.Spec {
	t.Helper()
	instance := uuid.NewString()
	return runtime.Spec{
		ID: instance + "-1", Image: e.Image, Digest: e.Digest, Hostname: "app", Port: 8080,
		Labels: map[string]string{runtime.LabelInstance: instance, runtime.LabelAttempt: "1"},
		LogDir: filepath.Join(t.TempDir(), "1"), MemoryBytes: 64 << 20, CPUMillis: 500,
	}
}

// started pulls, creates and starts, and waits until the app answers.
func started(t *testing.T, e *containerdtest.Env, s runtime.Spec) runtime.Status {
	t.Helper()
	if _, err := e.Runtime.Pull(within(t), runtime.PullRequest{Image: s.Image, Digest: s.Digest}, nil); err != nil {
		t.Fatal(err)
	}
	if _, err := e.Runtime.Create(within(t), s); err != nil {
		t.Fatal(err)
	}
	st, err := e.Runtime.Start(within(t), s.ID)
	if err != nil {
		t.Fatal(err)
	}
	if !s.HostNetwork {
		eventually(t, "the app answers", func() error { _, err := get(st.IP, "/"); return err })
	}
	return st
}

func get(ip, path string) (string, error) { return getAt(net.JoinHostPort(ip, "8080"), path) }

func getAt(addr, path string) (string, error) {
	c := http.Client{Timeout: 15 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := c.Get("http://" + addr + path)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = errors.New(resp.Status)
	}
	return string(raw), err
}

// dialFrom makes a container connect somewhere and answers what came of it.
func dialFrom(t *testing.T, ip, addr string) string {
	t.Helper()
	answer, err := get(ip, "/dial?addr="+url.QueryEscape(addr))
	if err != nil {
		t.Fatal(err)
	}
	return answer
}

func watch(t *testing.T, rt runtime.Runtime) <-chan runtime.Event {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	events := rt.Watch(ctx)
	t.Cleanup(func() {
		cancel()
		for range events { // until it is closed
		}
	})
	return events
}

func await(t *testing.T, events <-chan runtime.Event, kind runtime.EventKind, id string) runtime.Event {
	t.Helper()
	ctx := within(t)
	for {
		select {
		case ev := <-events:
			if ev.Kind == kind && ev.ID == id {
				return ev
			}
		case <-ctx.Done():
			t.Fatalf("no event %q of %q", kind, id)
		}
	}
}

func parent(t *testing.T, pid int) int {
	t.Helper()
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(raw), ") ")
	var state string
	var ppid int
	if _, err := fmt.Sscan(rest, &state, &ppid); err != nil {
		t.Fatal(err)
	}
	return ppid
}

func kill(t *testing.T, pid int, sig syscall.Signal) {
	t.Helper()
	if pid <= 1 {
		t.Fatalf("kill %d", pid)
	}
	if err := syscall.Kill(pid, sig); err != nil {
		t.Fatal(err)
	}
}

// loggerPid waits for the logger to say who it is.
func loggerPid(t *testing.T, logDir string) int {
	t.Helper()
	pid := 0
	eventually(t, "the logger registers", func() error {
		link, err := os.Readlink(filepath.Join(logDir, "logger"))
		if err != nil {
			return err
		}
		_, err = fmt.Sscanf(link, "%d:", &pid)
		return err
	})
	return pid
}
