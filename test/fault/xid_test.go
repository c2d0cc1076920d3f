package fault

import (
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/drover-fleet/drover/client"
	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
	"github.com/drover-fleet/drover/test/machine"
)

// The XIDs that the tests make up ask for a reset; the made-up driver then says that none is needed, so a device
// is used again after a clean check, a minute later at the least.
const uncorrectable = 48

// withdrawn bounds how long the look-up may answer an instance after its device failed. The goal of a second is
// measured in test/bench; what runs beside this test may take the processors.
const withdrawn = 5 * time.Second

// held answers the one device that the service's one running instance holds.
func held(t *testing.T, m *machine.Machine, service string) (instance, device string) {
	t.Helper()
	for _, i := range m.Instances(service) {
		if ids := i.GetSpec().GetDeviceIds(); i.GetObserved().GetReady() && len(ids) == 1 && instance == "" {
			instance, device = i.GetMeta().GetId(), ids[0]
		}
	}
	if instance == "" {
		t.Fatalf("%s has no ready instance with one device: %v", service, m.Instances(service))
	}
	return instance, device
}

// withdrawnFrom waits until the service's endpoint is another instance's than this one, and checks what was told
// of it: sign is of the node's event.
func withdrawnFrom(t *testing.T, m *machine.Machine, service, instance, device, sign string) client.Endpoint {
	t.Helper()
	m.Within(withdrawn, "the endpoint is withdrawn", func() error {
		for _, e := range m.Endpoints(service) {
			if e.InstanceID == instance {
				return fmt.Errorf("%v is answered", e)
			}
		}
		return nil
	})
	m.WaitEvent(limit, service, "DeviceFailed", device)
	m.Within(limit, "the failure is an event of the node", func() error {
		if events := m.EventsOfNode(); machine.Count(events, "DeviceFailed", sign) == 0 {
			return fmt.Errorf("there are only %v", events)
		}
		return nil
	})
	endpoint := m.WaitEndpoints(limit, service, 1)[0]
	if endpoint.InstanceID == instance {
		t.Fatalf("%s is answered again", instance)
	}
	return endpoint
}

// leaves is withdrawnFrom for an XID of one of two GPUs, and looks at the other's container.
func leaves(t *testing.T, m *machine.Machine, service, instance, device string, code int) {
	t.Helper()
	endpoint := withdrawnFrom(t, m, service, instance, device, fmt.Sprintf("XID %d", code))
	if _, now := held(t, m, service); now == device {
		t.Fatalf("%s is answered, on %s", endpoint.InstanceID, now)
	}
	names, err := machine.Call(endpoint, "/list", url.Values{"path": {"/dev"}})
	if n := strings.Count(names, "nvidia"); err != nil || n != 1 {
		t.Errorf("the replacement's /dev has %q, %v; want one GPU", names, err)
	}
}

// An XID that NVIDIA's library tells of, heard through the probe.
func TestXIDOfTheLibrary(t *testing.T) {
	t.Parallel()
	gpus := machine.NewGPUs(t, 2)
	m := machine.Start(t, gpus.Options())
	m.DeployRunning(machine.Deployment{Name: "svc", Accel: 1})
	m.WaitEndpoints(limit, "svc", 1)
	instance, device := held(t, m, "svc")
	gpus.XID(gpus.Index(device), uncorrectable)
	leaves(t, m, "svc", instance, device, uncorrectable)

	// Nobody is given the device now, and somebody is when it is well.
	m.Deploy(machine.Deployment{Name: "next", Accel: 1})
	m.WaitEvent(limit, "next", "WaitingForResources", "")
	m.WaitService(2*limit+limit, "next", fleetv1.ServiceRunning)
	if _, given := held(t, m, "next"); given != device {
		t.Errorf("next holds %s, want %s", given, device)
	}
	if n := machine.Count(m.EventsOfNode(), "DeviceRecovered", device); n != 1 {
		t.Errorf("DeviceRecovered %d times, want once", n)
	}
	var failed, placed time.Time
	for _, e := range m.EventsOfNode() {
		if e.GetReason() == "DeviceFailed" && strings.Contains(e.GetMessage(), device) {
			failed = e.GetTime().AsTime()
		}
	}
	for _, e := range m.Events("next") {
		if e.GetReason() == "InstancePlaced" {
			placed = e.GetTime().AsTime()
		}
	}
	if rest := placed.Sub(failed); rest < time.Minute-5*time.Second {
		t.Errorf("the device was given out %v after it failed", rest)
	}
}

// An XID that stands in the kernel's log alone.
func TestXIDInTheKernelLog(t *testing.T) {
	t.Parallel()
	gpus := machine.NewGPUs(t, 2)
	m := machine.Start(t, gpus.Options())
	m.DeployRunning(machine.Deployment{Name: "svc", Accel: 1})
	m.WaitEndpoints(limit, "svc", 1)
	instance, device := held(t, m, "svc")
	gpus.KernelXID(gpus.Index(device), uncorrectable)
	leaves(t, m, "svc", instance, device, uncorrectable)
}

// A vendor's library that hangs for good says nothing against what runs: instances and endpoints stay.
func TestLibraryHangs(t *testing.T) {
	t.Parallel()
	gpus := machine.NewGPUs(t, 2)
	m := machine.Start(t, gpus.Options())
	before := identities(t, m.DeployRunning(machine.Deployment{Name: "svc", Accel: 1}))
	endpoints := m.WaitEndpoints(limit, "svc", 1)
	gpus.Tell("hang * 0")
	m.Within(limit, "the silence is an event of the node", func() error {
		if machine.Count(m.EventsOfNode(), "DeviceFailed", "Unresponsive") == 0 {
			return fmt.Errorf("there are only %v", m.EventsOfNode())
		}
		return nil
	})
	untouched(t, m, "svc", before, endpoints)
	gpus.Tell()
	m.Within(2*limit, "both devices answer again", func() error {
		if n := machine.Count(m.EventsOfNode(), "DeviceRecovered", ""); n != 2 {
			return fmt.Errorf("%d do", n)
		}
		return nil
	})
	untouched(t, m, "svc", before, endpoints)
}

// probes are the device probes of a process.
func probes(t *testing.T, parent int) []int {
	t.Helper()
	dirs, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		t.Fatal(err)
	}
	var found []int
	for _, dir := range dirs {
		stat, _ := os.ReadFile(filepath.Join(dir, "stat")) // a process that ends meanwhile has none
		line, _ := os.ReadFile(filepath.Join(dir, "cmdline"))
		_, rest, _ := strings.Cut(string(stat), ") ")
		if fields := strings.Fields(rest); len(fields) > 1 && fields[1] == strconv.Itoa(parent) && strings.Contains(string(line), "device-probe") {
			pid, err := strconv.Atoi(filepath.Base(dir))
			if err != nil {
				t.Fatal(err)
			}
			found = append(found, pid)
		}
	}
	return found
}

// A driver that is upgraded under the agent is used within a minute, through another probe; what runs, runs on.
func TestDriverUpgraded(t *testing.T) {
	t.Parallel()
	gpus := machine.NewGPUs(t, 2)
	m := machine.Start(t, gpus.Options())
	before := identities(t, m.DeployRunning(machine.Deployment{Name: "svc", Accel: 1}))
	endpoints := m.WaitEndpoints(limit, "svc", 1)
	old := probes(t, m.Agent.Pid())
	if len(old) != 1 {
		t.Fatalf("probes %v, want one", old)
	}
	files, err := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", old[0]))
	if err != nil {
		t.Fatal(err)
	}
	sockets := 0
	for _, file := range files {
		if to, err := os.Readlink(file); err == nil && strings.HasPrefix(to, "socket:") {
			sockets++
		}
	}
	if sockets != 1 {
		t.Errorf("the probe holds %d sockets, want the agent's one", sockets)
	}
	const versionsDiffer, application = 18, 43
	gpus.Tell(fmt.Sprintf("handles %d", versionsDiffer))
	gpus.KernelXID(0, application) // so that it is looked at now
	m.Within(limit, "the library's failure is an event of the node", func() error {
		if machine.Count(m.EventsOfNode(), "DeviceFailed", "versions of library and kernel module differ") == 0 {
			return fmt.Errorf("there are only %v", m.EventsOfNode())
		}
		return nil
	})
	untouched(t, m, "svc", before, endpoints)
	gpus.Tell()
	m.Within(time.Minute, "both devices answer again", func() error {
		if n := machine.Count(m.EventsOfNode(), "DeviceRecovered", ""); n != 2 {
			return fmt.Errorf("%d do", n)
		}
		return nil
	})
	if now := probes(t, m.Agent.Pid()); len(now) != 1 || now[0] == old[0] {
		t.Errorf("probes %v, before %v; want another one", now, old)
	}
	untouched(t, m, "svc", before, endpoints)
}
