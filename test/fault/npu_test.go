package fault

import (
	"fmt"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
	"github.com/drover-fleet/drover/test/machine"
	"github.com/drover-fleet/drover/test/vendorlib"
)

// An NPU's fault has its instance leave while another vendor's library hangs.
func TestNPUFaultBesideAHungLibrary(t *testing.T) {
	t.Parallel()
	gpus := machine.NewGPUs(t, 1)
	gpus.Tell("hang * 0")
	lib := vendorlib.NewDCMI(t)
	options := gpus.Options()
	libraries, _ := options.AgentConfig["device_libraries"].(map[string]string)
	libraries["ascend"] = lib.Path
	options.AgentConfig["devices"] = []string{"nvidia", "ascend"}
	m := machine.Start(t, options)

	var npus []*fleetv1.Device
	m.Within(limit, "eight NPUs are found", func() error {
		node, err := m.Client.Nodes.GetNode(t.Context(), &fleetv1.GetNodeRequest{Name: m.Node})
		if err != nil {
			return err
		}
		if npus = node.GetNode().GetFacts().GetDevices(); len(npus) != 8 {
			return fmt.Errorf("there are %v", npus)
		}
		return nil
	})
	const localMajor = 62
	dir, spec, index := t.TempDir(), "cdiVersion: 0.6.0\nkind: ascend.com/npu\ndevices:\n", map[string]int32{}
	for i, d := range npus {
		index[d.GetId()] = d.GetIndex()
		node := filepath.Join(dir, fmt.Sprintf("davinci%d", i))
		if err := unix.Mknod(node, unix.S_IFCHR|0o666, int(unix.Mkdev(localMajor, uint32(i)))); err != nil {
			t.Fatal(err)
		}
		spec += fmt.Sprintf("- {name: %s, containerEdits: {deviceNodes: [{path: /dev/davinci%d, hostPath: %s}]}}\n", d.GetId(), i, node)
	}
	gpus.Specify(spec)

	m.DeployRunning(machine.Deployment{Name: "svc", Accel: 1})
	m.WaitEndpoints(limit, "svc", 1)
	instance, device := held(t, m, "svc")
	lib.Tell(t, fmt.Sprintf("event %d 80E18402 1", index[device]))
	withdrawnFrom(t, m, "svc", instance, device, "80E18402")
	if _, now := held(t, m, "svc"); now == device {
		t.Errorf("the replacement is on %s as well", now)
	}
}
