package probe

import (
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/drover-fleet/drover/devices"
)

// freeze makes a process as deaf to SIGKILL as one within a driver: frozen by a cgroup of version 1, it dies
// when it thaws.
func freeze(t *testing.T, pid int) (thaw func()) {
	t.Helper()
	const root = "/sys/fs/cgroup/freezer"
	if _, err := os.Stat(filepath.Join(root, "cgroup.procs")); err != nil || os.Getuid() != 0 {
		t.Skipf("NOT TESTED: a process that SIGKILL doesn't end; it needs root and the freezer of cgroup v1 at %s: %v", root, err)
	}
	dir, err := os.MkdirTemp(root, "drover-test-")
	if err != nil {
		t.Skipf("NOT TESTED: a process that SIGKILL doesn't end: %v", err)
	}
	write := func(file, text string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, file), []byte(text), 0o600); err != nil {
			t.Errorf("%s: %v", file, err)
		}
	}
	write("cgroup.procs", strconv.Itoa(pid))
	write("freezer.state", "FROZEN")
	for deadline := time.Now().Add(ample); time.Now().Before(deadline); {
		state, err := os.ReadFile(filepath.Join(dir, "freezer.state"))
		if err != nil {
			t.Fatal(err)
		}
		if strings.TrimSpace(string(state)) == "FROZEN" {
			break
		}
	}
	thaw = func() { write("freezer.state", "THAWED") }
	t.Cleanup(func() {
		thaw()
		for deadline := time.Now().Add(ample); time.Now().Before(deadline); {
			if err = os.Remove(dir); err == nil {
				return
			}
		}
		t.Errorf("leave no cgroup behind: %v", err)
	})
	return thaw
}

// A child that can't be killed is waited for by no one, and is the only one.
func TestOneStuckChild(t *testing.T) {
	b := backend(t, "fake", "2xH100-80GB", func(c *Config) { c.SampleWithin = soon })
	if _, err := b.Discover(t.Context()); err != nil {
		t.Fatal(err)
	}
	stuck := b.now()
	thaw := freeze(t, stuck.pid())
	start := time.Now()
	if _, err := b.Sample(t.Context(), devices.Usage); !errors.Is(err, devices.ErrUnresponsive) {
		t.Errorf("sample: %v", err)
	}
	time.Sleep(2 * time.Millisecond) // the pause
	for range 5 {
		_, err := b.Discover(t.Context())
		if !errors.Is(err, devices.ErrUnresponsive) || !strings.Contains(err.Error(), "is still there") {
			t.Errorf("discover: %v", err)
		}
	}
	if took := time.Since(start); took > ample/2 {
		t.Errorf("callers waited %s", took)
	}
	if b.now() != stuck || stuck.isGone() {
		t.Error("another child was started beside the stuck one")
	}
	thaw()
	gone(t, b)
	if all, err := b.Discover(t.Context()); err != nil || len(all) != 2 {
		t.Errorf("after it was gone: %v, %v", all, err)
	}
}
