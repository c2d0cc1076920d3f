package cluster

import (
	"context"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
)

// What Declare makes.
const (
	Flavor = "cpu.small"
	Pool   = "local"
	Model  = "echo"
)

// Declare makes a small flavor, a dedicated pool of all nodes, and one version of a model, whose health
// is checked every second.
func (c *Cluster) Declare() {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(c.t.Context(), limit)
	defer cancel()
	if _, err := c.Client.Flavors.CreateFlavor(ctx, &fleetv1.CreateFlavorRequest{Flavor: &fleetv1.Flavor{
		Meta: &fleetv1.Meta{Name: Flavor},
		Spec: &fleetv1.FlavorSpec{CpuMillis: 10, MemoryBytes: 16 << 20},
	}}); err != nil {
		c.t.Fatalf("create the flavor: %v", err)
	}
	if _, err := c.Client.Pools.CreatePool(ctx, &fleetv1.CreatePoolRequest{Pool: &fleetv1.Pool{
		Meta: &fleetv1.Meta{Name: Pool},
		Spec: &fleetv1.PoolSpec{Type: fleetv1.PoolDedicated, Selector: map[string]string{"cluster": "test"}},
	}}); err != nil {
		c.t.Fatalf("create the pool: %v", err)
	}
	if _, err := c.Client.Models.CreateModel(ctx, &fleetv1.CreateModelRequest{Model: &fleetv1.Model{
		Meta: &fleetv1.Meta{Name: Model, Project: "default"},
		Spec: &fleetv1.ModelSpec{
			Image:  c.Image,
			Health: &fleetv1.HealthCheck{CheckMethod: "HTTP", PeriodSeconds: 1},
		},
	}}); err != nil {
		c.t.Fatalf("create the model: %v", err)
	}
}

// Deploy deploys a service of what Declare made.
func (c *Cluster) Deploy(name string, instances int32) *fleetv1.Service {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(c.t.Context(), limit)
	defer cancel()
	resp, err := c.Client.Services.DeployService(ctx, &fleetv1.DeployServiceRequest{Service: &fleetv1.Service{
		Meta: &fleetv1.Meta{Name: name, Project: "default"},
		Spec: &fleetv1.ServiceSpec{
			Pool:     Pool,
			Versions: []*fleetv1.ServiceVersion{{Model: Model, Flavor: Flavor, Instances: instances}},
		},
	}})
	if err != nil {
		c.t.Fatalf("deploy %s: %v", name, err)
	}
	return resp.Service
}

// WaitService watches the service until it is as wanted, and returns what it looked like then. what says
// in the failure what was waited for. A watch that ends because the scheduler went is begun again.
func (c *Cluster) WaitService(name, what string, wanted func(*fleetv1.WatchServiceResponse) bool) *fleetv1.WatchServiceResponse {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(c.t.Context(), limit)
	defer cancel()
	var last *fleetv1.WatchServiceResponse
	for {
		found, err := c.watch(ctx, name, wanted, &last)
		if found {
			return last
		}
		if code := status.Code(err); code != codes.Unavailable || ctx.Err() != nil {
			c.t.Fatalf("waiting for %s: %s: %v; it is %v", name, what, err, last)
		}
		if !pause(ctx, 20*time.Millisecond) {
			c.t.Fatalf("waiting for %s: %s: %v; it is %v", name, what, err, last)
		}
	}
}

func (c *Cluster) watch(ctx context.Context, name string, wanted func(*fleetv1.WatchServiceResponse) bool, last **fleetv1.WatchServiceResponse) (bool, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := c.Client.Services.WatchService(ctx, &fleetv1.WatchServiceRequest{Project: "default", Name: name})
	if err != nil {
		return false, err
	}
	for {
		resp, err := stream.Recv()
		if err != nil {
			return false, err
		}
		*last = resp
		if wanted(resp) {
			return true, nil
		}
	}
}

// WaitState waits until the service has the state.
func (c *Cluster) WaitState(name, state string) *fleetv1.WatchServiceResponse {
	c.t.Helper()
	return c.WaitService(name, "to be "+state, func(r *fleetv1.WatchServiceResponse) bool {
		return r.Service.GetStatus().GetState() == state
	})
}

// WaitNodeState waits until the node has the state.
func (c *Cluster) WaitNodeState(name, state string) *fleetv1.Node {
	c.t.Helper()
	return c.WaitNode(name, "to be "+state, func(n *fleetv1.Node) bool { return n.GetStatus().GetState() == state })
}

// WaitNode waits until the node is as wanted. Nodes have no watch: this is the one wait that asks again.
func (c *Cluster) WaitNode(name, what string, wanted func(*fleetv1.Node) bool) *fleetv1.Node {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(c.t.Context(), limit)
	defer cancel()
	for {
		resp, err := c.Client.Nodes.GetNode(ctx, &fleetv1.GetNodeRequest{Name: name})
		if err == nil && wanted(resp.Node) {
			return resp.Node
		}
		code := status.Code(err)
		passing := code == codes.OK || code == codes.NotFound || code == codes.Unavailable
		if !passing || !pause(ctx, 20*time.Millisecond) {
			c.t.Fatalf("waiting for node %s: %s: %v; it is %v", name, what, err, resp.GetNode())
		}
	}
}

// pause waits between two questions; false means that ctx ended.
func pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}
