package fault

import (
	"fmt"
	"net/url"
	"path/filepath"
	"strings"
	"testing"

	"github.com/drover-fleet/drover/test/machine"
)

// Each instance sees the devices that it was given, under the names that it was told.
func TestDevicesAreShared(t *testing.T) {
	t.Parallel()
	m := machine.Start(t, machine.Options{AgentConfig: map[string]any{"devices": []string{"fake:4xH100-80GB"}}})
	m.DeployRunning(machine.Deployment{Name: "svc", Instances: 2, Accel: 2})
	seen := map[string]bool{}
	for _, e := range m.WaitEndpoints(limit, "svc", 2) {
		ids, err := machine.Call(e, "/env", url.Values{"key": {"DROVER_DEVICE_IDS"}})
		if err != nil || strings.Count(ids, ",") != 1 {
			t.Errorf("device IDs %q, %v; want two", ids, err)
		}
		names, err := machine.Call(e, "/list", url.Values{"path": {"/dev"}})
		if err != nil {
			t.Fatal(err)
		}
		for name := range strings.FieldsSeq(names) {
			if strings.HasPrefix(name, "fake") {
				if seen[name] {
					t.Errorf("two instances have /dev/%s", name)
				}
				seen[name] = true
			}
		}
	}
	if len(seen) != 4 {
		t.Errorf("the instances have %v, want four devices", seen)
	}
}

// A device that is gone by the time its instance is to start fails that instance and leaves nothing.
func TestDeviceVanishesBeforeStart(t *testing.T) {
	t.Parallel()
	m := machine.Start(t, machine.Options{AgentConfig: map[string]any{"devices": []string{"fake:2xH100-80GB"}}})
	m.Agent.Stop()
	m.Deploy(machine.Deployment{Name: "svc", Accel: 2})
	m.Within(limit, "the instance is placed", func() error {
		if n := len(m.Instances("svc")); n != 1 {
			return fmt.Errorf("%d instances", n)
		}
		return nil
	})
	m.LaunchAgent("DROVER_DEVICES=fake:1xH100-80GB")
	m.WaitEvent(limit, "svc", "DeviceFailed", "not on this node")
	m.WaitEvent(limit, "svc", "InstanceFailed", "not on this node")
	if left := m.Containers(); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

// A CDI file that is wrong fails the instances that need it, in words that name the file, and leaves nothing; mended,
// it is used without a restart.
func TestWrongCDIFiles(t *testing.T) {
	t.Parallel()
	gpus := machine.NewGPUs(t, 1)
	m := machine.Start(t, gpus.Options())
	good := gpus.Specification()
	for name, c := range map[string]struct{ text, want string }{
		"malformed":    {"devices: [", "can't be used"},
		"missing-node": {strings.Replace(good, "hostPath: /", "hostPath: /none/", 1), "that doesn't exist"},
		"stranger":     {strings.Replace(good, gpus.ID(0), "GPU-stranger", 1), gpus.ID(0)},
	} {
		path := gpus.Specify(c.text)
		m.Deploy(machine.Deployment{Name: name, Accel: 1})
		m.WaitEvent(limit, name, "InstanceFailed", c.want)
		if c.want == gpus.ID(0) {
			path = filepath.Dir(path)
		}
		m.WaitEvent(limit, name, "InstanceFailed", path)
		m.Delete(name)
	}
	if left := m.Containers(); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
	gpus.Specify(good)
	m.DeployRunning(machine.Deployment{Name: "svc", Accel: 1})
}
