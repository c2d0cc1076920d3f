package cluster

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"testing"
	"time"

	"github.com/drover-fleet/drover/client"
	"github.com/drover-fleet/drover/devices"
	"github.com/drover-fleet/drover/devices/health"
	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
)

// lookup asks for the endpoints over HTTP until there are so many, and calls each of them. Answers are rendered a moment
// after a watch of the service has told of a change.
func lookup(t *testing.T, c *Cluster, service string, want int) []client.Endpoint {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	answer, err := client.Lookup(ctx, http.DefaultClient, "http://"+c.HTTPAddr(), c.Token, "default", service)
	for ; err == nil && len(answer.HostEndpoints) != want; answer, err = client.Lookup(ctx, http.DefaultClient, "http://"+c.HTTPAddr(), c.Token, "default", service) {
		time.Sleep(time.Millisecond)
	}
	if err != nil {
		t.Fatalf("look up %d endpoints of %s: %v", want, service, err)
	}
	for _, e := range answer.HostEndpoints {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, fmt.Sprintf("%s://%s:%d/", e.Schema, e.IP, e.Port), nil)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatalf("call an endpoint: %v", err)
		}
		if err := resp.Body.Close(); err != nil || resp.StatusCode != http.StatusOK {
			t.Fatalf("call %s: %s, %v", req.URL, resp.Status, err)
		}
	}
	return answer.HostEndpoints
}

func TestAServicesLife(t *testing.T) {
	c := Start(t, Options{Nodes: 2})
	c.Declare()
	c.Deploy("iris", 3)
	running := c.WaitState("iris", fleetv1.ServiceRunning)
	if n := len(running.Instances); n != 3 {
		t.Errorf("%d instances", n)
	}
	nodes := map[string]int{}
	for _, i := range running.Instances {
		nodes[i.Spec.Node]++
	}
	if len(nodes) != 2 {
		t.Errorf("not spread over both nodes: %v", nodes)
	}
	lookup(t, c, "iris", 3)

	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	if _, err := c.Client.Services.StopService(ctx, &fleetv1.StopServiceRequest{Project: "default", Name: "iris"}); err != nil {
		t.Fatal(err)
	}
	c.WaitState("iris", fleetv1.ServiceStopped)
	if _, err := c.Client.Services.StartService(ctx, &fleetv1.StartServiceRequest{Project: "default", Name: "iris"}); err != nil {
		t.Fatal(err)
	}
	c.WaitState("iris", fleetv1.ServiceRunning)
}

func TestDaemonsRestart(t *testing.T) {
	c := Start(t, Options{})
	c.Declare()
	c.Deploy("iris", 1)
	before := c.WaitState("iris", fleetv1.ServiceRunning).Instances[0]
	endpoints := lookup(t, c, "iris", 1)

	c.StopScheduler()
	c.StartScheduler()
	c.Nodes[0].Stop()
	c.Nodes[0].Start()
	c.WaitNodeState(c.Nodes[0].Name, fleetv1.NodeReady)
	after := c.WaitService("iris", "to be ready again", func(r *fleetv1.WatchServiceResponse) bool {
		return r.Service.GetStatus().GetState() == fleetv1.ServiceRunning && len(r.Instances) == 1 && r.Instances[0].GetObserved().GetReady()
	}).Instances[0]
	if after.Meta.Id != before.Meta.Id || after.Observed.Attempt != before.Observed.Attempt || after.Observed.Pid != before.Observed.Pid {
		t.Errorf("before %v, after %v", before, after)
	}
	if got := lookup(t, c, "iris", 1); !slices.Equal(got, endpoints) {
		t.Errorf("endpoints %v, before %v", got, endpoints)
	}
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	containers, err := c.Nodes[0].Runtime.List(ctx)
	if err != nil || len(containers) != 1 {
		t.Errorf("containers %v, %v", containers, err)
	}
}

func TestDevices(t *testing.T) {
	c := Start(t, Options{Devices: "2xH100-80GB"})
	c.WaitNode(c.Nodes[0].Name, "to report its devices", func(n *fleetv1.Node) bool {
		return len(n.GetFacts().GetDevices()) == 2
	})
}

// An instance leaves a device that fails, its endpoint first, and nobody is given the device.
func TestDeviceFails(t *testing.T) {
	c := Start(t, Options{Devices: "2xH100-80GB"})
	c.Declare()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	if _, err := c.Client.Flavors.CreateFlavor(ctx, &fleetv1.CreateFlavorRequest{Flavor: &fleetv1.Flavor{
		Meta: &fleetv1.Meta{Name: "gpu.1"},
		Spec: &fleetv1.FlavorSpec{CpuMillis: 10, MemoryBytes: 16 << 20, Accelerator: &fleetv1.Accelerator{Count: 1}},
	}}); err != nil {
		t.Fatal(err)
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
	deploy("iris")
	was := c.WaitState("iris", fleetv1.ServiceRunning).Instances[0]
	device := was.Spec.DeviceIds[0]
	all, err := c.Nodes[0].Devices.Discover(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Nodes[0].Devices.Inject(slices.IndexFunc(all, func(d devices.Device) bool { return d.ID == device }), "xid 48"); err != nil {
		t.Fatal(err)
	}
	c.WaitService("iris", "to be replaced", func(r *fleetv1.WatchServiceResponse) bool {
		return slices.ContainsFunc(r.Instances, func(i *fleetv1.Instance) bool {
			return i.GetObserved().GetReady() && i.Meta.Id != was.Meta.Id && i.Spec.DeviceIds[0] != device
		})
	})
	if endpoints := lookup(t, c, "iris", 1); endpoints[0].InstanceID == was.Meta.Id {
		t.Errorf("endpoints %v", endpoints)
	}
	c.WaitNode(c.Nodes[0].Name, "to show the device's fault", func(n *fleetv1.Node) bool {
		return slices.ContainsFunc(n.GetFacts().GetDevices(), func(d *fleetv1.Device) bool {
			return d.Id == device && d.Health == fleetv1.Unhealthy && d.Action == string(health.ResetNeeded)
		})
	})
	deploy("next")
	c.WaitService("next", "to say why it waits", func(r *fleetv1.WatchServiceResponse) bool {
		if len(r.Instances) > 0 {
			t.Fatalf("it was placed: %v", r.Instances)
		}
		return slices.ContainsFunc(r.Service.GetStatus().GetVersions(), func(v *fleetv1.ServiceVersionStatus) bool { return v.GetWaitingReason() != "" })
	})
}
