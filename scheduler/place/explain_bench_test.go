package place

import (
	"fmt"
	"testing"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
)

// crowded is a fleet that is full: 8 instances of one device on each node.
type crowded struct {
	*fleet
	on      map[string][]*fleetv1.Instance
	byID    map[string]*fleetv1.Instance
	service *fleetv1.Service // of all
}

func (c *crowded) InstancesOnNode(name string) []*fleetv1.Instance { return c.on[name] }
func (c *crowded) Instance(id string) *fleetv1.Instance            { return c.byID[id] }
func (c *crowded) ServiceByID(string) *fleetv1.Service             { return c.service }
func (c *crowded) Model(_, _, _ string) *fleetv1.Model             { return &fleetv1.Model{} }
func (c *crowded) Flavor(string) *fleetv1.Flavor {
	return &fleetv1.Flavor{Spec: &fleetv1.FlavorSpec{CpuMillis: 8000, MemoryBytes: 64 * gib, Accelerator: &fleetv1.Accelerator{Count: 1}}}
}

func newCrowded(nodes int, preemptible bool) *crowded {
	c := &crowded{fleet: newFleet(nodes), on: map[string][]*fleetv1.Instance{}, byID: map[string]*fleetv1.Instance{}}
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
				busy := cpuTime(b)
				for b.Loop() {
					x.trim()
					x.explain(&r)
				}
				b.ReportMetric((cpuTime(b)-busy)*1000/float64(b.N), "cpu-ms/op")
			})
		}
	}
}

// BenchmarkDefrag plans moves in a fleet of 10,000 nodes that are half full.
func BenchmarkDefrag(b *testing.B) {
	view := newCrowded(10_000, false)
	for at, n := range view.nodes {
		view.on[n.Meta.Name] = view.on[n.Meta.Name][:1+at%7]
		for _, i := range view.on[n.Meta.Name] {
			i.Spec.ServiceId, i.Observed = "s", &fleetv1.InstanceObserved{State: fleetv1.InstanceRunning}
		}
	}
	view.service = &fleetv1.Service{Desired: &fleetv1.ServiceDesired{State: fleetv1.DesiredRunning}, Spec: &fleetv1.ServiceSpec{Pool: "p", Versions: []*fleetv1.ServiceVersion{{}}}}
	x := NewIndex(view)
	flavor := &Request{CPUMillis: 8000, MemoryBytes: 64 * gib, Accelerator: &fleetv1.Accelerator{Count: 8}}
	for name, ask := range map[string]DefragRequest{"nodes": {MaxMoves: 100}, "flavor": {MaxMoves: 100, Flavor: flavor}} {
		b.Run(name, func(b *testing.B) {
			busy := cpuTime(b)
			for b.Loop() {
				if p := x.Defrag(ask); p.RoomAfter == p.RoomBefore {
					b.Fatal(p)
				}
			}
			b.ReportMetric((cpuTime(b)-busy)*1000/float64(b.N), "cpu-ms/op")
		})
	}
}

// BenchmarkPreempt looks for room that preemptible instances could make in a full fleet of 10,000 nodes.
func BenchmarkPreempt(b *testing.B) {
	for _, preemptible := range []bool{false, true} {
		x := NewIndex(newCrowded(10_000, preemptible))
		for i, r := range wants() {
			b.Run(fmt.Sprint([]string{"one", "four", "eight", "gang", "rules"}[i], "/preemptible=", preemptible), func(b *testing.B) {
				busy := cpuTime(b)
				for b.Loop() {
					x.Preempt(&r)
				}
				b.ReportMetric((cpuTime(b)-busy)*1000/float64(b.N), "cpu-ms/op")
			})
		}
	}
}
