package cluster

import (
	"context"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/drover-fleet/drover/agent"
	"github.com/drover-fleet/drover/devices"
	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
)

// A cordoned device and one that its last holder left in use are given to nobody, the next service says so, and
// gets the cordoned one when it is opened.
func TestCordonAndQuarantine(t *testing.T) {
	c := Start(t, Options{Devices: "2xH100-80GB", Agent: func(_ int, cfg *agent.Config) { cfg.ReclaimTimeout = time.Second }})
	c.Declare()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	if _, err := c.Client.Flavors.CreateFlavor(ctx, &fleetv1.CreateFlavorRequest{Flavor: &fleetv1.Flavor{
		Meta: &fleetv1.Meta{Name: "gpu.1"},
		Spec: &fleetv1.FlavorSpec{CpuMillis: 10, MemoryBytes: 16 << 20, Accelerator: &fleetv1.Accelerator{Count: 1}},
	}}); err != nil {
		t.Fatal(err)
	}
	all, err := c.Nodes[0].Devices.Discover(ctx)
	if err != nil || len(all) != 2 {
		t.Fatalf("%v, %v", all, err)
	}
	shut, left := all[0].ID, all[1].ID
	cordon := func(id string, cordoned bool) {
		t.Helper()
		if _, err := c.Client.Devices.SetDeviceCordon(ctx, &fleetv1.SetDeviceCordonRequest{Id: id, Cordoned: cordoned}); err != nil {
			t.Fatal(err)
		}
	}
	deploy := func(name string) {
		t.Helper()
		if _, err := c.Client.Services.DeployService(ctx, &fleetv1.DeployServiceRequest{Service: &fleetv1.Service{
			Meta: &fleetv1.Meta{Name: name, Project: "default"},
			Spec: &fleetv1.ServiceSpec{Pool: Pool, Versions: []*fleetv1.ServiceVersion{{Model: Model, Flavor: "gpu.1", Instances: 1}}},
		}}); err != nil {
			t.Fatal(err)
		}
	}
	holds := func(name, id string) {
		t.Helper()
		if got := c.WaitState(name, fleetv1.ServiceRunning).Instances[0].GetSpec().GetDeviceIds(); !slices.Equal(got, []string{id}) {
			t.Fatalf("%s holds %v, want %s", name, got, id)
		}
	}

	cordon(shut, true)
	deploy("first")
	holds("first", left)
	cordon(left, true) // who holds it stays
	holds("first", left)
	cordon(left, false)
	if err := c.Nodes[0].Devices.Inject(slices.IndexFunc(all, func(d devices.Device) bool { return d.ID == left }), "leak"); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Client.Services.DeleteService(ctx, &fleetv1.DeleteServiceRequest{Name: "first"}); err != nil {
		t.Fatal(err)
	}
	deploy("next")
	c.WaitService("next", "to say what keeps it waiting", func(r *fleetv1.WatchServiceResponse) bool {
		if len(r.Instances) > 0 {
			t.Fatalf("it was placed: %v", r.Instances)
		}
		return slices.ContainsFunc(r.Service.GetStatus().GetVersions(), func(v *fleetv1.ServiceVersionStatus) bool {
			return strings.Contains(v.GetWaitingReason(), "1 device cordoned, 1 device quarantined")
		})
	})
	resp, err := c.Client.Devices.GetDevice(ctx, &fleetv1.GetDeviceRequest{Id: left})
	if d := resp.GetDevice(); err != nil || d.GetState() != fleetv1.DeviceQuarantined && d.GetState() != fleetv1.DeviceReclaiming || !d.GetDevice().GetQuarantined() {
		t.Errorf("%v, %v", resp, err)
	}
	cordon(shut, false)
	holds("next", shut)
}
