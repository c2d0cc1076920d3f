package cluster

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/drover-fleet/drover/agent"
	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
	"github.com/drover-fleet/drover/scheduler"
)

// fleet is a cluster of a few nodes for scenarios of placement, with flavors gpu.1 to gpu.8 of as many devices. What
// takes its time in production takes a second here.
type fleet struct {
	*Cluster
	t   *testing.T
	ctx context.Context
}

func startFleet(t *testing.T, nodes int, devices string) *fleet {
	t.Helper()
	return startFleetWith(t, nodes, devices, func(*agent.Config) {})
}

// startFleetWith is startFleet with agents of which the configuration is changed, each time that one starts.
func startFleetWith(t *testing.T, nodes int, devices string, change func(*agent.Config)) *fleet {
	t.Helper()
	f := &fleet{t: t, Cluster: Start(t, Options{Nodes: nodes, Devices: devices, Agent: func(_ int, cfg *agent.Config) { change(cfg) },
		Scheduler: func(cfg *scheduler.Config) {
			cfg.HeartbeatInterval, cfg.LeaseDuration, cfg.ReserveAfter = 100*time.Millisecond, time.Second, time.Second
		}})}
	var cancel context.CancelFunc
	f.ctx, cancel = context.WithTimeout(t.Context(), 2*limit)
	t.Cleanup(cancel)
	f.Declare()
	for _, count := range []int32{1, 2, 4, 8} {
		_, err := f.Client.Flavors.CreateFlavor(f.ctx, &fleetv1.CreateFlavorRequest{Flavor: &fleetv1.Flavor{
			Meta: &fleetv1.Meta{Name: fmt.Sprintf("gpu.%d", count)},
			Spec: &fleetv1.FlavorSpec{CpuMillis: 10, MemoryBytes: 16 << 20, Accelerator: &fleetv1.Accelerator{Model: "H100*", Count: count}},
		}})
		f.must(err)
	}
	return f
}

func (f *fleet) must(err error) {
	f.t.Helper()
	if err != nil {
		f.t.Fatal(err)
	}
}

// ask deploys a service of one version and answers why not.
func (f *fleet) ask(name, flavor string, instances int32, change func(v *fleetv1.ServiceVersion)) error {
	v := &fleetv1.ServiceVersion{Model: Model, Flavor: flavor, Instances: instances}
	if change != nil {
		change(v)
	}
	_, err := f.Client.Services.DeployService(f.ctx, &fleetv1.DeployServiceRequest{Service: &fleetv1.Service{
		Meta: &fleetv1.Meta{Name: name, Project: "default"},
		Spec: &fleetv1.ServiceSpec{Pool: Pool, Versions: []*fleetv1.ServiceVersion{v}, OnDisconnect: &fleetv1.OnDisconnect{ReplaceAfterSeconds: proto.Int32(0)}, GracePeriodSeconds: proto.Int32(1)},
	}})
	return err
}

func (f *fleet) deploy(name, flavor string, instances int32, change func(v *fleetv1.ServiceVersion)) {
	f.t.Helper()
	f.must(f.ask(name, flavor, instances, change))
}

// run deploys and waits until the service runs.
func (f *fleet) run(name, flavor string, instances int32, change func(v *fleetv1.ServiceVersion)) []*fleetv1.Instance {
	f.t.Helper()
	f.deploy(name, flavor, instances, change)
	return f.running(name)
}

// running waits until the service runs and answers its instances that are to run, members of a gang by rank.
func (f *fleet) running(name string) []*fleetv1.Instance {
	f.t.Helper()
	all := staying(f.WaitState(name, fleetv1.ServiceRunning).Instances)
	slices.SortFunc(all, func(a, b *fleetv1.Instance) int {
		return int(a.GetSpec().GetGang().GetRank() - b.GetSpec().GetGang().GetRank())
	})
	return all
}

// staying are the instances that are to run.
func staying(all []*fleetv1.Instance) []*fleetv1.Instance {
	return slices.DeleteFunc(slices.Clone(all), func(i *fleetv1.Instance) bool { return i.GetDesired().GetState() != fleetv1.DesiredRunning })
}

func (f *fleet) remove(name string) {
	f.t.Helper()
	_, err := f.Client.Services.DeleteService(f.ctx, &fleetv1.DeleteServiceRequest{Name: name})
	f.must(err)
}

// waiting waits until a version of the service waits, for a reason with these words.
func (f *fleet) waiting(name, words string) *fleetv1.ServiceVersionStatus {
	f.t.Helper()
	r := f.WaitService(name, "to wait: "+words, func(r *fleetv1.WatchServiceResponse) bool {
		v := r.Service.GetStatus().GetVersions()
		return len(v) == 1 && v[0].GetWaitingReason() != "" && strings.Contains(v[0].GetWaitingReason(), words)
	})
	return r.Service.GetStatus().GetVersions()[0]
}

func (f *fleet) endpoints(name string) []*fleetv1.Endpoint {
	f.t.Helper()
	resp, err := f.Client.Services.ListEndpoints(f.ctx, &fleetv1.ListEndpointsRequest{Name: name})
	f.must(err)
	return resp.GetEndpoints()
}

// within waits until ok; the few things that have no watch are asked again.
func (f *fleet) within(what string, ok func() bool) {
	f.t.Helper()
	ctx, cancel := context.WithTimeout(f.ctx, limit)
	defer cancel()
	for !ok() {
		if !pause(ctx, 20*time.Millisecond) {
			f.t.Fatalf("%s: not within %s", what, limit)
		}
	}
}

// events answers the messages of the events for this reason that are about the object, by kind and name.
func (f *fleet) events(reason, kind, name string) []string {
	f.t.Helper()
	resp, err := f.Client.Events.ListEvents(f.ctx, &fleetv1.ListEventsRequest{})
	f.must(err)
	var found []string
	for _, ev := range resp.GetEvents() {
		if ev.GetReason() == reason && slices.ContainsFunc(ev.GetObjects(), func(o *fleetv1.ObjectRef) bool { return o.GetKind() == kind && o.GetName() == name }) {
			found = append(found, ev.GetMessage())
		}
	}
	return found
}

// told waits for an event and answers its message. Events are stored behind the change that they tell of.
func (f *fleet) told(reason, kind, name string) (message string) {
	f.t.Helper()
	f.within(fmt.Sprintf("event %s of %s %s", reason, kind, name), func() bool {
		all := f.events(reason, kind, name)
		if len(all) > 0 {
			message = all[len(all)-1]
		}
		return len(all) > 0
	})
	return message
}

func (f *fleet) node(name string) *Node {
	f.t.Helper()
	i := slices.IndexFunc(f.Nodes, func(n *Node) bool { return n.Name == name })
	if i < 0 {
		f.t.Fatalf("no node %s", name)
	}
	return f.Nodes[i]
}

// container names the container of the instance's attempt, and answers the runtime that has it.
func (f *fleet) container(i *fleetv1.Instance) (node *Node, id string) {
	return f.node(i.GetSpec().GetNode()), fmt.Sprintf("%s-%d", i.GetMeta().GetId(), max(i.GetObserved().GetAttempt(), 1))
}

func (f *fleet) cordon(node string, cordoned bool) {
	f.t.Helper()
	_, err := f.Client.Nodes.SetNodeCordon(f.ctx, &fleetv1.SetNodeCordonRequest{Name: node, Cordoned: cordoned})
	f.must(err)
}

func (f *fleet) drain(req *fleetv1.DrainNodeRequest) []*fleetv1.DrainMove {
	f.t.Helper()
	resp, err := f.Client.Nodes.DrainNode(f.ctx, req)
	f.must(err)
	return resp.GetMoves()
}

// served watches, until stop, that the service has at least so many endpoints all the time.
func (f *fleet) served(name string, least int) (stop func()) {
	ctx, cancel := context.WithCancel(f.ctx)
	done := make(chan int, 1)
	go func() {
		seen := least
		for {
			resp, err := f.Client.Services.ListEndpoints(ctx, &fleetv1.ListEndpointsRequest{Name: name})
			if ctx.Err() != nil {
				break
			}
			if err != nil {
				f.t.Errorf("ask for the endpoints of %s: %v", name, err)
				break
			}
			seen = min(seen, len(resp.GetEndpoints()))
			if !pause(ctx, 2*time.Millisecond) {
				break
			}
		}
		done <- seen
	}()
	return func() {
		f.t.Helper()
		cancel()
		if seen := <-done; seen < least {
			f.t.Errorf("%s had %d endpoints for a moment, want %d", name, seen, least)
		}
	}
}
