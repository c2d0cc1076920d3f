package runtimetest

import (
	"context"
	"errors"
	"maps"
	"net"
	"net/http"
	"strconv"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/drover-fleet/drover/runtime"
)

// Capability is something that an implementation may lack.
type Capability string

// Capabilities.
const (
	// Logs: what a container prints is in files below Spec.LogDir.
	Logs Capability = "logs"
	// Usage: Stats are measured, with CPU and memory above zero in a running container.
	Usage Capability = "usage"
	// Reach: a published port answers on Harness.Address.
	Reach Capability = "reach"
	// Interruption: Harness.Interrupt works.
	Interruption Capability = "interruption"
)

// Harness is one runtime under test. Run closes the Runtime.
type Harness struct {
	Runtime runtime.Runtime

	// Image and Digest name an image that holds the test server at the path Server.
	Image, Digest, Server string
	// Missing names an image that does not exist where Image came from; MissingDigest likewise.
	Missing, MissingDigest string

	// Address is where published ports answer; "127.0.0.1" when empty.
	Address string
	// Interrupt makes the runtime go away, calls during while it is gone, and brings it back.
	Interrupt func(t *testing.T, during func())
	// Lacks says what this implementation cannot do, and why.
	Lacks map[Capability]string
}

const patience = 60 * time.Second

func (h Harness) need(t *testing.T, c Capability) {
	t.Helper()
	if why, lacking := h.Lacks[c]; lacking {
		t.Skipf("this runtime lacks %q: %s", c, why)
	}
}

func (h Harness) ctx(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	return ctx
}

// spec answers a new container's specification; its container is deleted when the test ends.
func (h Harness) spec(t *testing.T, args ...string) runtime.Spec {
	t.Helper()
	instance := uuid.NewString()
	id := instance + "-1"
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if err := h.Runtime.Delete(ctx, id); err != nil {
			t.Errorf("delete %s at the end: %v", id, err)
		}
	})
	return runtime.Spec{
		ID: id,
		Labels: map[string]string{
			runtime.LabelInstance: instance, runtime.LabelService: "suite", runtime.LabelGeneration: "1",
			runtime.LabelEpoch: "7", runtime.LabelAttempt: "1",
		},
		Image: h.Image, Digest: h.Digest,
		Command:     append([]string{h.Server}, args...),
		Env:         map[string]string{"PORT": "8080"},
		Hostname:    "suite",
		MemoryBytes: 128 << 20, CPUMillis: 500,
		Port:   8080,
		LogDir: t.TempDir(),
	}
}

func (h Harness) pulled(t *testing.T) {
	t.Helper()
	_, err := h.Runtime.Pull(h.ctx(t), runtime.PullRequest{Image: h.Image, Digest: h.Digest}, nil)
	if err != nil {
		t.Fatalf("pull: %v", err)
	}
}

func (h Harness) create(t *testing.T, args ...string) runtime.Spec {
	t.Helper()
	h.pulled(t)
	s := h.spec(t, args...)
	st, err := h.Runtime.Create(h.ctx(t), s)
	if err != nil {
		t.Fatalf("create: %v", err)
	}
	if st.State != runtime.StateCreated || st.ID != s.ID || !maps.Equal(st.Labels, s.Labels) || st.IP == "" {
		t.Fatalf("create answered %+v, want created with an address and the labels of %+v", st, s)
	}
	return s
}

func (h Harness) start(t *testing.T, args ...string) (runtime.Spec, runtime.Status) {
	t.Helper()
	s := h.create(t, args...)
	st, err := h.Runtime.Start(h.ctx(t), s.ID)
	if err != nil {
		t.Fatalf("start: %v", err)
	}
	return s, st
}

// serving starts the server and waits until it answers on its own address, when it really listens.
func (h Harness) serving(t *testing.T, args ...string) (runtime.Spec, runtime.Status) {
	t.Helper()
	s, st := h.start(t, args...)
	if st.State != runtime.StateRunning || st.Pid == 0 || st.Started.IsZero() {
		t.Fatalf("start answered %+v, want running with a PID and a start time", st)
	}
	if _, lacking := h.Lacks[Reach]; !lacking && !answers(h.ctx(t), st.IP, s.Port, true) {
		t.Fatalf("the server does not answer on %s:%d", st.IP, s.Port)
	}
	return s, st
}

// answers tries until the address answers (want) or refuses (!want), and tells whether it came to that.
func answers(ctx context.Context, ip string, port int, want bool) bool {
	client := &http.Client{Timeout: time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	url := "http://" + net.JoinHostPort(ip, strconv.Itoa(port)) + "/"
	for wait := 5 * time.Millisecond; ; wait = min(2*wait, 200*time.Millisecond) {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
		if err != nil {
			return false
		}
		resp, err := client.Do(req)
		if err == nil {
			_ = resp.Body.Close()
		}
		if (err == nil && resp.StatusCode == http.StatusOK) == want {
			return true
		}
		select {
		case <-ctx.Done():
			return false
		case <-time.After(wait):
		}
	}
}

func freePort(t *testing.T) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

// watch starts watching before anything happens to the containers of a test.
func (h Harness) watch(t *testing.T) <-chan runtime.Event {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	events := h.Runtime.Watch(ctx)
	t.Cleanup(func() {
		cancel()
		for range events { // closed when ctx ends
		}
	})
	return events
}

// exited waits until the watch reports the container's exit, or says that it missed something and the
// status shows the exit.
func (h Harness) exited(t *testing.T, events <-chan runtime.Event, id string) runtime.Exit {
	t.Helper()
	ctx := h.ctx(t)
	for {
		select {
		case <-ctx.Done():
			t.Fatalf("no exit of %s was reported", id)
		case ev, open := <-events:
			switch {
			case !open:
				t.Fatal("the watch ended before its context")
			case ev.Kind == runtime.EventExited && ev.ID == id:
				if ev.Exit == nil {
					t.Fatalf("exit event of %s without an exit", id)
				}
				return *ev.Exit
			case ev.Kind == runtime.EventResync:
				st, err := h.Runtime.Status(ctx, id)
				if err == nil && st.Exit != nil {
					return *st.Exit
				}
			}
		}
	}
}

func (h Harness) gone(t *testing.T, id string) {
	t.Helper()
	if st, err := h.Runtime.Status(h.ctx(t), id); !errors.Is(err, runtime.ErrNotFound) {
		t.Fatalf("status of a deleted container: %+v, %v; want ErrNotFound", st, err)
	}
	all, err := h.Runtime.List(h.ctx(t))
	if err != nil {
		t.Fatalf("list: %v", err)
	}
	for _, st := range all {
		if st.ID == id {
			t.Fatalf("deleted container %s is still listed", id)
		}
	}
}
