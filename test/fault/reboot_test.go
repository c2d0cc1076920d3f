package fault

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
	"github.com/drover-fleet/drover/test/machine"
)

// crashHost does what a power failure does: every process of the node ends at once, and what isn't on a disk is gone:
// containerd's state, mounts, network name spaces, the bridge. Images, snapshots, containerd's own records and the
// journal stay.
func crashHost(t *testing.T, m *machine.Machine, instances []*fleetv1.Instance) {
	t.Helper()
	m.Agent.Kill()
	doomed := append(processesWith(t, m.Daemon.Socket()), m.Daemon.Pid())
	for _, i := range instances {
		doomed = append(doomed, int(i.GetObserved().GetPid()))
	}
	for _, pid := range doomed {
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
			t.Fatalf("kill %d: %v", pid, err)
		}
	}
	m.Within(limit, "all processes of the host are gone", func() error {
		for _, pid := range doomed {
			if _, err := startTime(pid); err == nil {
				return fmt.Errorf("%d is there", pid)
			}
		}
		return nil
	})
	state := filepath.Join(filepath.Dir(m.Daemon.Root()), "state")
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(mounts)) {
		at := strings.Fields(line)[4]
		if strings.HasPrefix(at, state+"/") || strings.HasPrefix(at, m.AgentDir()+"/") {
			// A runc that is still on its way unmounts, too: then there is no mount any more.
			if err := unix.Unmount(at, unix.MNT_DETACH); err != nil && !errors.Is(err, unix.EINVAL) {
				t.Fatalf("unmount %s: %v", at, err)
			}
		}
	}
	if err := os.RemoveAll(state); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("ip", "link", "del", m.Config.Bridge).CombinedOutput(); err != nil {
		t.Fatalf("delete the bridge: %v: %s", err, out)
	}
}

// processesWith are those with a word in their command line, but this one: shims have containerd's socket there, and so do
// the loggers of what they run.
func processesWith(t *testing.T, word string) (pids []int) {
	t.Helper()
	entries, err := os.ReadDir("/proc")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil || pid == os.Getpid() {
			continue
		}
		if raw, err := os.ReadFile(filepath.Join("/proc", e.Name(), "cmdline")); err == nil && strings.Contains(string(raw), word) {
			pids = append(pids, pid)
		}
	}
	return pids
}

// The host loses its power and is back before its instances are replaced: each runs again there, once, on its device.
func TestHostReboots(t *testing.T) {
	t.Parallel()
	m := machine.Start(t, machine.Options{AgentConfig: map[string]any{"devices": []string{"fake:2xH100-80GB"}}})
	before := m.DeployRunning(machine.Deployment{Name: "svc", Instances: 2, Accel: 1})
	m.WaitEndpoints(limit, "svc", 2)
	devices := map[string]string{}
	for _, i := range before {
		devices[i.GetMeta().GetId()] = fmt.Sprint(i.GetSpec().GetDeviceIds())
	}
	crashHost(t, m, before)
	m.WaitEndpoints(limit, "svc", 0)
	if err := m.Daemon.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	m.StartAgent()
	m.WaitEndpoints(limit, "svc", 2)
	m.WaitService(limit, "svc", fleetv1.ServiceRunning)
	after := m.Instances("svc")
	if len(after) != 2 {
		t.Errorf("%d instances, want 2", len(after))
	}
	for _, i := range after {
		if o := i.GetObserved(); o.GetAttempt() != 2 || devices[i.GetMeta().GetId()] != fmt.Sprint(i.GetSpec().GetDeviceIds()) {
			t.Errorf("instance %s runs as attempt %d on %v; want attempt 2 of one that was there, on %s", i.GetMeta().GetName(), o.GetAttempt(),
				i.GetSpec().GetDeviceIds(), devices[i.GetMeta().GetId()])
		}
	}
	if list := m.Containers(); len(list) != 2 {
		t.Errorf("containers: %v; want 2", list)
	}
	for _, e := range m.Endpoints("svc") {
		if _, err := machine.Call(e, "/", nil); err != nil {
			t.Errorf("call %v: %v", e, err)
		}
	}
}
