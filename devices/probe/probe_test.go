package probe

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/drover-fleet/drover/devices"
	"github.com/drover-fleet/drover/devices/devicestest"
	"github.com/drover-fleet/drover/devices/fake"
)

// soon is a deadline for children that miss it, ample one for those that must not.
const (
	soon  = 300 * time.Millisecond
	ample = 20 * time.Second
)

func backend(t *testing.T, mode, argument string, change ...func(*Config)) *Backend {
	t.Helper()
	cfg := Config{
		Vendor: "fake", Command: command(t, mode, argument), DiscoverWithin: ample, SampleWithin: ample,
		LeastPause: time.Millisecond, MostPause: time.Millisecond, Logger: quiet(),
	}
	for _, f := range change {
		f(&cfg)
	}
	b := New(cfg)
	t.Cleanup(func() {
		if err := b.Close(); err != nil {
			t.Error(err)
		}
		if _, err := b.Discover(context.Background()); !errors.Is(err, errClosed) {
			t.Errorf("after Close: %v", err)
		}
	})
	return b
}

func hurry(c *Config) { c.DiscoverWithin, c.SampleWithin = soon, soon }

func (b *Backend) now() *child {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.child
}

// gone waits until the present child is.
func gone(t *testing.T, b *Backend) {
	t.Helper()
	select {
	case <-b.now().gone:
	case <-time.After(ample):
		t.Fatal("the child isn't reaped")
	}
}

func TestConformance(t *testing.T) {
	devicestest.Run(t, func(t *testing.T) devices.Backend {
		return backend(t, "fake", "8xH100-80GB,2xAscend910B-64GB;0s:1:lost")
	})
}

// What comes through a child is what the backend said.
func TestSameAnswers(t *testing.T) {
	b := backend(t, "fake", "2xH100-80GB")
	direct, err := fake.Parse("2xH100-80GB")
	if err != nil {
		t.Fatal(err)
	}
	got, err := b.Discover(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	want, err := direct.Discover(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if len(got) != 2 || *got[1].NUMANode != *want[1].NUMANode || got[1].Links[0] != want[1].Links[0] || got[0].ID != want[0].ID {
		t.Errorf("got %+v, want %+v", got, want)
	}
	samples, err := b.Sample(t.Context(), devices.Usage)
	if err != nil || len(samples) != 2 || samples[0].Throttled == nil || len(samples[0].Throttled) != 0 || samples[0].Processes != nil ||
		time.Since(samples[0].Time) > time.Hour {
		t.Errorf("samples %+v, %v", samples, err)
	}
}

func TestBrokenChildren(t *testing.T) {
	for mode, c := range map[string]struct {
		want         string
		unresponsive bool
	}{
		"hang":          {"doesn't answer to discover within 300ms", true},
		"hang-stubborn": {"doesn't answer to discover within 300ms", true},
		"drip":          {"doesn't answer to discover within 300ms", true},
		"strangers":     {"doesn't answer to discover within 300ms", true},
		"crash":         {"exit status 2", false},
		"exit-127":      {"exit status 127", false},
		"close":         {"closed its socket", false},
		"garbage":       {"garbage: broken frame: 1180789100 bytes", false},
		"no-json":       {"garbage: broken frame: invalid character", false},
		"huge":          {"garbage: broken frame: 2147483648 bytes", false},
		"none-such":     {"exit status 3", false},
	} {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			b := backend(t, mode, "", func(c *Config) {
				c.LeastPause, c.MostPause = time.Hour, time.Hour
			}, func(cfg *Config) {
				if c.unresponsive {
					hurry(cfg)
				}
			})
			_, err := b.Discover(t.Context())
			if err == nil || !strings.Contains(err.Error(), c.want) || errors.Is(err, devices.ErrUnresponsive) != c.unresponsive {
				t.Errorf("discover: %v", err)
			}
			first := b.now()
			// Asking again says the same of the vendor, and starts nothing before its time.
			_, err = b.Sample(t.Context(), devices.Usage)
			if err == nil || !strings.Contains(err.Error(), "the next probe starts in") || errors.Is(err, devices.ErrUnresponsive) != c.unresponsive {
				t.Errorf("sample: %v", err)
			}
			if b.now() != first {
				t.Error("another child was started at once")
			}
			gone(t, b) // though it heeds no SIGTERM
		})
	}
}

// A child that fails in a sample is replaced, and the next discovery works.
func TestReplaced(t *testing.T) {
	for mode, unresponsive := range map[string]bool{"hang-sample": true, "crash-sample": false} {
		b := backend(t, mode, "", func(c *Config) { c.SampleWithin = soon })
		for range 2 {
			// Until the old one is gone no other starts, which no one waits for.
			var all []devices.Device
			err := errors.New("not asked")
			for deadline := time.Now().Add(ample); err != nil && time.Now().Before(deadline); {
				all, err = b.Discover(t.Context())
			}
			if err != nil || len(all) != 8 {
				t.Fatalf("%s: %v, %v", mode, all, err)
			}
			pid := b.now().pid()
			if _, err = b.Sample(t.Context(), devices.Usage); err == nil || errors.Is(err, devices.ErrUnresponsive) != unresponsive {
				t.Errorf("%s: sample: %v", mode, err)
			}
			gone(t, b)
			if b.now().pid() != pid {
				t.Errorf("%s: another child", mode)
			}
		}
	}
}

func TestPausesGrow(t *testing.T) {
	b := New(Config{Vendor: "v", Command: []string{"/nonexistent"}, LeastPause: time.Second, MostPause: 4 * time.Second})
	for _, want := range []time.Duration{time.Second, 2 * time.Second, 4 * time.Second, 4 * time.Second} {
		_, err := b.Discover(t.Context())
		if err == nil || !strings.Contains(err.Error(), "no such file") {
			t.Fatal(err)
		}
		if _, again := b.Discover(t.Context()); again == nil || !strings.Contains(again.Error(), "next probe starts in") {
			t.Error(again)
		}
		if got := time.Until(b.notUntil); got > want || got < want-time.Second {
			t.Errorf("pause %s, want %s", got, want)
		}
		b.notUntil = time.Time{}
	}
	if err := b.Close(); err != nil {
		t.Error(err)
	}
}

func TestCancelledCallLeavesTheChild(t *testing.T) {
	flag := filepath.Join(t.TempDir(), "flag")
	b := backend(t, "fake", "2xH100-80GB")
	if _, err := b.Discover(t.Context()); err != nil {
		t.Fatal(err)
	}
	child := b.now()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := b.Discover(ctx); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	if all, err := b.Discover(t.Context()); err != nil || len(all) != 2 || b.now() != child {
		t.Errorf("%v, %v", all, err)
	}
	// A call that hangs and whose caller gives up by deadline is a missed deadline all the same.
	stuck := backend(t, "hang-once", flag)
	ctx, cancel = context.WithTimeout(t.Context(), soon)
	defer cancel()
	if _, err := stuck.Discover(ctx); !errors.Is(err, devices.ErrUnresponsive) {
		t.Error(err)
	}
	gone(t, stuck)
	if err := os.WriteFile(flag, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	time.Sleep(2 * time.Millisecond) // the pause
	if all, err := stuck.Discover(t.Context()); err != nil || len(all) != 8 {
		t.Errorf("%v, %v", all, err)
	}
}

func TestLibraryAppears(t *testing.T) {
	flag := filepath.Join(t.TempDir(), "libnvidia-ml.so.1")
	b := backend(t, "late", flag)
	if all, err := b.Discover(t.Context()); err != nil || len(all) != 0 {
		t.Fatalf("%v, %v", all, err)
	}
	if err := os.WriteFile(flag, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if all, err := b.Discover(t.Context()); err != nil || len(all) != 8 {
		t.Errorf("%v, %v", all, err)
	}
}

// A driver was upgraded under a library that stays loaded as long as its process lives.
func TestLibraryOfAnotherVersion(t *testing.T) {
	flag := filepath.Join(t.TempDir(), "libnvidia-ml.so.1")
	log := &locked{}
	b := backend(t, "upgraded", flag, func(c *Config) {
		c.LeastPause, c.MostPause, c.Logger = time.Hour, time.Hour, slog.New(slog.NewTextHandler(log, nil))
	})
	for range 3 {
		if _, err := b.Discover(t.Context()); err == nil || errors.Is(err, devices.ErrUnresponsive) || !strings.Contains(err.Error(), "versions differ") {
			t.Fatal(err)
		}
		gone(t, b)
	}
	if text := log.String(); text != "" {
		t.Errorf("log %s", text)
	}
	if err := os.WriteFile(flag, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if all, err := b.Discover(t.Context()); err != nil || len(all) != 8 {
		t.Errorf("%v, %v", all, err)
	}
	pid := b.now().pid()
	if _, err := b.Sample(t.Context(), devices.Usage); err != nil || b.now().pid() != pid {
		t.Errorf("a child that answers was replaced: %v", err)
	}
}

func TestNoChildUntilPresent(t *testing.T) {
	var there atomic.Bool
	dir := t.TempDir()
	b := New(Config{Vendor: "nvidia", Program: filepath.Join(dir, "absent"), Command: []string{"absent"}, Present: there.Load})
	t.Cleanup(func() { _ = b.Close() })
	if all, err := b.Discover(t.Context()); err != nil || len(all) != 0 {
		t.Errorf("no device on this host: %v, %v", all, err)
	}
	if samples, err := b.Sample(t.Context(), devices.Usage); err != nil || len(samples) != 0 {
		t.Errorf("no device on this host: %v, %v", samples, err)
	}
	there.Store(true)
	if _, err := b.Discover(t.Context()); err == nil {
		t.Error("a device is there and no child was started")
	}
}

// locked is a buffer for several writers.
type locked struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *locked) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

func (l *locked) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

func TestPrintsAreLoggedUpToALimit(t *testing.T) {
	log := &locked{}
	b := backend(t, "print", "", func(c *Config) { c.Logger = slog.New(slog.NewTextHandler(log, nil)) })
	if all, err := b.Discover(t.Context()); err != nil || len(all) != 8 {
		t.Fatalf("%v, %v", all, err)
	}
	text := log.String()
	if !strings.Contains(text, "NVRM: loading") || !strings.Contains(text, "warning: old") || !strings.Contains(text, "vendor=fake") {
		t.Errorf("log %s", text)
	}
	if n := strings.Count(text, "\n"); n > 2*linesAtOnce {
		t.Errorf("%d lines in the log", n)
	}
}

func TestSignals(t *testing.T) {
	b := backend(t, "fake", "2xH100-80GB;0s:1:xid 79")
	told := make(chan devices.Signal, 1)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- b.Watch(ctx, func(s devices.Signal) { told <- s }) }()
	for range 2 { // the second child is watched as well
		if _, err := b.Discover(t.Context()); err != nil {
			t.Fatal(err)
		}
		select {
		case s := <-told:
			if s.Kind != devices.SignalXID || s.Code != 79 || s.DeviceID == "" {
				t.Errorf("signal %+v", s)
			}
		case <-time.After(ample):
			t.Fatal("no signal")
		}
		b.now().end(errors.New("test"))
		gone(t, b)
		time.Sleep(2 * time.Millisecond) // the pause
	}
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

func TestWatchThatEnds(t *testing.T) {
	b := backend(t, "watch-ends", "")
	for range 2 { // watching again asks the same child again
		done := make(chan error, 1)
		got := make(chan devices.Signal, 1)
		if _, err := b.Discover(t.Context()); err != nil {
			t.Fatal(err)
		}
		go func() { done <- b.Watch(t.Context(), func(s devices.Signal) { got <- s }) }()
		select {
		case err := <-done:
			if err == nil || !strings.Contains(err.Error(), "no event sets") {
				t.Error(err)
			}
		case <-time.After(ample):
			t.Fatal("watching goes on")
		}
		if s := <-got; s.Code != 13 {
			t.Errorf("signal %+v", s)
		}
	}
}

func TestAnswerThatCannotBeTold(t *testing.T) {
	b := backend(t, "not-a-number", "")
	if _, err := b.Sample(t.Context(), devices.Usage); err == nil || !strings.Contains(err.Error(), "broken frame") {
		t.Error(err)
	}
	if b.now().ended() != nil {
		t.Error("the child was ended for it")
	}
}

// The child gets /dev/null, what it prints to and its socket, whatever the agent was started with.
func TestInheritsNothing(t *testing.T) {
	var leak [2]int
	if err := syscall.Pipe(leak[:]); err != nil { // as from a careless parent: it isn't closed on exec
		t.Fatal(err)
	}
	defer func() { _, _ = syscall.Close(leak[0]), syscall.Close(leak[1]) }()
	b := backend(t, "inherit", "")
	files, err := b.Discover(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		number, name, _ := strings.Cut(f.ID, " ")
		fd, err := strconv.Atoi(number)
		if err != nil {
			t.Fatal(err)
		}
		switch {
		case fd == 0 && name == "/dev/null":
		case (fd == 1 || fd == 2) && strings.HasPrefix(name, "pipe:"):
		case fd >= 3 && strings.HasPrefix(name, "socket:"): // 3, or the runtime's copy
		case strings.HasPrefix(name, "/proc/"), strings.HasPrefix(name, "/sys/fs/cgroup/"): // the look itself; the Go runtime
		default:
			t.Errorf("the child has %s", f.ID)
		}
	}
	if len(files) < 4 {
		t.Errorf("files %+v", files)
	}
}

// A child that doesn't even read its socket ends with its parent.
func TestEndsWithItsParent(t *testing.T) {
	fifo := filepath.Join(t.TempDir(), "alive")
	if err := syscall.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	args := command(t, "parent", fifo)
	parent := exec.CommandContext(t.Context(), args[0], args[1:]...)
	far, near, err := pairForTest()
	if err != nil {
		t.Fatal(err)
	}
	defer near.Close()
	parent.ExtraFiles = []*os.File{far}
	if err = parent.Start(); err != nil {
		t.Fatal(err)
	}
	far.Close()
	alive, err := os.Open(fifo) // when the child has opened it
	if err != nil {
		t.Fatal(err)
	}
	defer alive.Close()
	if err = parent.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = parent.Wait() // it was killed
	ended := make(chan error, 1)
	go func() {
		_, err := io.ReadAll(alive)
		ended <- err
	}()
	select {
	case err = <-ended:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(ample):
		t.Fatal("the child outlives its parent")
	}
}

func pairForTest() (*os.File, net.Conn, error) {
	near, far, err := socketPair()
	return far, near, err
}

func TestServeEndsWhileACallHangs(t *testing.T) {
	near, far := net.Pipe()
	made, err := fake.Parse("1xH100-80GB")
	if err != nil {
		t.Fatal(err)
	}
	entered, release := make(chan struct{}), make(chan struct{})
	defer close(release)
	done := make(chan error, 1)
	go func() {
		done <- Serve(t.Context(), &library{Backend: made, discover: func() { close(entered); <-release }}, far)
	}()
	if err = writeFrame(near, request{ID: 1, Call: callDiscover, Within: time.Hour}); err != nil {
		t.Fatal(err)
	}
	<-entered
	near.Close()
	if err = <-done; err != nil {
		t.Error(err)
	}
}

func TestServeRefusesNonsense(t *testing.T) {
	near, far := net.Pipe()
	defer near.Close()
	made, err := fake.Parse("1xH100-80GB")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- Serve(t.Context(), made, far) }()
	if err = writeFrame(near, request{ID: 7, Call: "format", Within: time.Hour}); err != nil {
		t.Fatal(err)
	}
	var got reply
	if err = readFrame(near, &got); err != nil || got.ID != 7 || !strings.Contains(got.Error, "unknown call") {
		t.Errorf("%+v, %v", got, err)
	}
	if _, err = near.Write([]byte("what")); err != nil {
		t.Fatal(err)
	}
	if err = <-done; !errors.Is(err, errFrame) {
		t.Error(err)
	}
}

func TestConnNeedsTheAgent(t *testing.T) {
	cmd := exec.CommandContext(t.Context(), command(t, "fake", "")[0], "child", "fake", "")
	out, err := cmd.CombinedOutput()
	if err == nil || !strings.Contains(string(out), "only the agent starts this") {
		t.Errorf("%s, %v", out, err)
	}
}
