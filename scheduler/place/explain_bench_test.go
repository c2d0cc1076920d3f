package place

import (
	"fmt"
	"testing"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
)

// crowded is a fleet that is full: 8 instances of one device on each node.
type crowded struct {
	*fleet
	on   map[string][]*fleetv1.Instance
	byID map[string]*fleetv1.Instance
}

func (c *crowded) InstancesOnNode(name string) []*fleetv1.Instance { return c.on[name] }
func (c *crowded) Instance(id string) *fleetv1.Instance            { return c.byID[id] }
func (c *crowded) ServiceByID(string) *fleetv1.Service             { return nil }

func newCrowded(nodes int, preemptible bool) *crowded {
	c := &crowded{newFleet(nodes), map[string][]*fleetv1.Instance{}, map[string]*fleetv1.Instance{}}
	for at, n := range c.nodes {
		for i := range 8 {
			inst := &fleetv1.Instance{Meta: &fleetv1.Meta{Id: fmt.Sprint(at, "-", i), Name: fmt.Sprint(at, "-", i)}, Desired: &fleetv1.InstanceDesired{State: fleetv1.DesiredRunning},
				Spec: &fleetv1.InstanceSpec{Node: n.Meta.Name, ServiceId: fmt.Sprint("s", at%100), CpuMillis: 8000, MemoryBytes: 64 * gib, DeviceIds: []string{fmt.Sprint("d", i)},
					Preemptible: preemptible && i%2 == 0, Priority: int32(at % 3)}}
			c.on[n.Meta.Name], c.byID[inst.Meta.Id] = append(c.on[n.Meta.Name], inst), inst
		}
	}
	return c
}

func wants() []Request {
	spread := &fleetv1.PlacementRules{Spread: []*fleetv1.SpreadRule{{Label: "rack", Required: true}}, Required: map[string]string{"zone": "a"}}
	one := Request{Service: "new", Version: "m@1", Pool: "p", CPUMillis: 8000, MemoryBytes: 64 * gib, Accelerator: &fleetv1.Accelerator{Vendor: "nvidia", Model: "H100*", Count: 1}, Priority: 50}
	four, eight, gang, ruled := one, one, one, one
	four.Accelerator = &fleetv1.Accelerator{Vendor: "nvidia", Model: "H100*", Count: 4, Domain: "numa"}
	eight.Accelerator = &fleetv1.Accelerator{Vendor: "nvidia", Model: "H100*", Count: 8}
	gang.Accelerator, gang.Nodes = four.Accelerator, 16
	ruled.Rules = spread
	return []Request{one, four, eight, gang, ruled}
}

// BenchmarkExplain explains requests of several kinds to a full fleet of 10,000 nodes.
func BenchmarkExplain(b *testing.B) {
	for _, preemptible := range []bool{false, true} {
		x := NewIndex(newCrowded(10_000, preemptible))
		for i, r := range wants() {
			b.Run(fmt.Sprint([]string{"one", "four", "eight", "gang", "rules"}[i], "/preemptible=", preemptible), func(b *testing.B) {
				x.arrange()
				for b.Loop() {
					x.trim()
					x.explain(&r)
				}
			})
		}
	}
}

// BenchmarkPreempt looks for room that preemptible instances could make in a full fleet of 10,000 nodes.
func BenchmarkPreempt(b *testing.B) {
	for _, preemptible := range []bool{false, true} {
		x := NewIndex(newCrowded(10_000, preemptible))
		for i, r := range wants() {
			b.Run(fmt.Sprint([]string{"one", "four", "eight", "gang", "rules"}[i], "/preemptible=", preemptible), func(b *testing.B) {
				for b.Loop() {
					x.Preempt(&r)
				}
			})
		}
	}
}
