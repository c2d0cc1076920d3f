package cluster

import (
	"context"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/drover-fleet/drover/agent"
	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
)

// A device that its instance left in use is given to nobody until it's free: the next instance waits, and says why.
func TestDeviceInUseIsGivenToNobody(t *testing.T) {
	c := Start(t, Options{Devices: "1xH100-80GB", Agent: func(_ int, cfg *agent.Config) { cfg.ReclaimTimeout = 3 * time.Second }})
	c.Declare()
	ctx, cancel := context.WithTimeout(t.Context(), 2*limit)
	defer cancel()
	if _, err := c.Client.Flavors.CreateFlavor(ctx, &fleetv1.CreateFlavorRequest{Flavor: &fleetv1.Flavor{
		Meta: &fleetv1.Meta{Name: "gpu.1"},
		Spec: &fleetv1.FlavorSpec{CpuMillis: 10, MemoryBytes: 16 << 20, Accelerator: &fleetv1.Accelerator{Count: 1}},
	}}); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"iris", "next"} {
		if _, err := c.Client.Services.DeployService(ctx, &fleetv1.DeployServiceRequest{Service: &fleetv1.Service{
			Meta: &fleetv1.Meta{Name: name, Project: "default"},
			Spec: &fleetv1.ServiceSpec{Pool: Pool, Versions: []*fleetv1.ServiceVersion{{Model: Model, Flavor: "gpu.1", Instances: 1}}},
		}}); err != nil {
			t.Fatal(err)
		}
		if name == "iris" {
			c.WaitState("iris", fleetv1.ServiceRunning)
		}
	}
	device := func() *fleetv1.DeviceInfo {
		list, err := c.Client.Devices.ListDevices(ctx, &fleetv1.ListDevicesRequest{})
		if err != nil || len(list.Devices) != 1 {
			t.Fatalf("devices %v, %v", list, err)
		}
		return list.Devices[0]
	}
	if err := c.Nodes[0].Devices.Inject(0, "leak"); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Client.Services.StopService(ctx, &fleetv1.StopServiceRequest{Project: "default", Name: "iris"}); err != nil {
		t.Fatal(err)
	}
	c.WaitService("iris", "to reclaim its device", func(r *fleetv1.WatchServiceResponse) bool {
		return slices.ContainsFunc(r.Instances, func(i *fleetv1.Instance) bool { return i.GetObserved().GetState() == fleetv1.InstanceReclaiming })
	})
	if d := device(); d.State != fleetv1.DeviceReclaiming || d.InstanceName == "" {
		t.Errorf("while it is checked: %v", d)
	}
	c.WaitState("iris", fleetv1.ServiceStopped)
	waits := c.WaitService("next", "to wait for a quarantined device", func(r *fleetv1.WatchServiceResponse) bool {
		if len(r.Instances) > 0 {
			t.Fatalf("it was placed: %v", r.Instances)
		}
		return slices.ContainsFunc(r.Service.GetStatus().GetVersions(), func(v *fleetv1.ServiceVersionStatus) bool {
			return strings.Contains(v.GetWaitingReason(), "quarantine")
		})
	})
	if d := device(); d.State != fleetv1.DeviceQuarantined || d.InstanceId != "" || !strings.Contains(d.GetDevice().GetHealthReason(), "still uses it") {
		t.Errorf("in quarantine: %v; next waits: %v", d, waits)
	}
	if err := c.Nodes[0].Devices.Inject(0, "recover"); err != nil {
		t.Fatal(err)
	}
	c.WaitState("next", fleetv1.ServiceRunning)
	if d := device(); d.State != fleetv1.DeviceAllocated {
		t.Errorf("after it is free: %v", d)
	}
	list, err := c.Client.Events.ListEvents(ctx, &fleetv1.ListEventsRequest{})
	if err != nil {
		t.Fatal(err)
	}
	told := map[string]bool{}
	for _, ev := range list.Events {
		for _, o := range ev.GetObjects() {
			told[ev.GetReason()+" "+o.GetKind()] = true
		}
	}
	for _, want := range []string{"DeviceQuarantined node", "DeviceQuarantined service", "DeviceRecovered node"} {
		if !told[want] {
			t.Errorf("no event %s: %v", want, told)
		}
	}
}
