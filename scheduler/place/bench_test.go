package place

import (
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"syscall"
	"testing"
	"time"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
	"github.com/drover-fleet/drover/scheduler/state"
)

// fleet is a view of many nodes that are built alike, with nothing on them.
type fleet struct {
	state.ReadView
	nodes []*fleetv1.Node
	byID  map[string]*fleetv1.Node
}

func (f *fleet) Nodes() []*fleetv1.Node                     { return f.nodes }
func (f *fleet) Node(name string) *fleetv1.Node             { return f.byID[name] }
func (f *fleet) InstancesOnNode(string) []*fleetv1.Instance { return nil }
func (f *fleet) Pool(string) *fleetv1.Pool {
	return &fleetv1.Pool{Spec: &fleetv1.PoolSpec{Selector: map[string]string{"pool": "p"}}}
}

const perRack = 16

// newFleet makes n nodes with 8 devices each, in racks of 16; a tenth of them have one of 10 images.
func newFleet(n int) *fleet {
	f := &fleet{byID: map[string]*fleetv1.Node{}}
	var devices []*fleetv1.Device
	for i := range 8 {
		numa := int32(i / 4)
		d := &fleetv1.Device{Id: fmt.Sprint("d", i), Index: int32(i), Vendor: "nvidia", Model: "H100-80GB", MemoryBytes: 80 * gib, Health: fleetv1.Healthy, NumaNode: &numa}
		for j := range 8 {
			if i != j {
				d.Links = append(d.Links, &fleetv1.DeviceLink{Peer: fmt.Sprint("d", j), Kind: "nvlink"})
			}
		}
		devices = append(devices, d)
	}
	for i := range n {
		node := &fleetv1.Node{Meta: &fleetv1.Meta{Name: fmt.Sprintf("node-%05d", i)}, Status: &fleetv1.NodeStatus{State: fleetv1.NodeReady},
			Facts: &fleetv1.NodeFacts{Arch: "amd64", CpuMillis: 128_000, MemoryBytes: 1024 * gib, DiskBytes: 4096 * gib, Devices: devices,
				Labels: map[string]string{"pool": "p", "rack": fmt.Sprintf("rack-%04d", i/perRack)}, ImageDigests: []string{fmt.Sprint("sha256:", i*7%10)}}}
		f.nodes = append(f.nodes, node)
		f.byID[node.Meta.Name] = node
	}
	return f
}

// BenchmarkPlan places requests of 200 services, each of which asks for 1, 2, 4 or 8 devices and places up to 8
// instances in a row, and ends random instances that hold as many devices, so that the fleet stays as full as
// it was. What filling the fleet left to the garbage collector is not counted, what planning leaves is. The median
// of the batches is what to compare where other work disturbs the machine.
func BenchmarkPlan(b *testing.B) {
	for _, nodes := range []int{100, 1000, 10_000, 50_000} {
		var view *fleet
		for _, full := range []bool{false, true} {
			for _, rich := range []bool{false, true} {
				name := fmt.Sprintf("%d/%s/%s", nodes, map[bool]string{false: "empty", true: "full"}[full], map[bool]string{false: "plain", true: "all"}[rich])
				b.Run(name, func(b *testing.B) {
					if view == nil {
						view = newFleet(nodes)
					}
					benchmarkPlan(b, view, full, rich)
				})
			}
		}
	}
}

// load takes and frees.
type load struct {
	index    *Index
	rng      *rand.Rand
	requests []Request
	running  []taking
	first    int // of those that are
	held     int // devices
	waits    int
}

func benchmarkPlan(b *testing.B, view *fleet, full, rich bool) {
	batch := min(len(view.nodes)/6, 128) // a few percent of the devices
	l := &load{index: NewIndex(view), rng: rand.New(rand.NewPCG(1, 2))}
	flavors := map[int]*fleetv1.Accelerator{}
	for _, n := range []int{1, 2, 4, 8} {
		flavors[n] = &fleetv1.Accelerator{Vendor: "nvidia", Model: "H100*", Count: int32(n)}
		if rich {
			flavors[n].Domain = map[int]string{1: "any", 2: "numa", 4: "numa", 8: "nvlink"}[n]
		}
	}
	rules := &fleetv1.PlacementRules{Spread: []*fleetv1.SpreadRule{{Label: "rack"}}}
	var services []Request
	for i := range 200 {
		n := []int{1, 1, 1, 1, 1, 2, 2, 4, 4, 8}[i%10]
		r := Request{Service: fmt.Sprint("service-", i), Version: "m@1", Pool: "p", CPUMillis: int64(n) * 8000, MemoryBytes: int64(n) * 64 * gib, Accelerator: flavors[n]}
		if rich {
			r.Rules, r.Image = rules, fmt.Sprint("sha256:", i%7)
		}
		services = append(services, r)
	}
	for len(l.requests) < 4096 {
		r := services[l.rng.IntN(len(services))]
		for range 1 + l.rng.IntN(8) {
			l.requests = append(l.requests, r)
		}
	}
	target := batch * 4
	if full {
		target = len(view.nodes) * 8 * 9 / 10
	}
	for l.held < target-4*batch {
		l.place(batch)
	}
	l.rng.Shuffle(len(l.running), func(i, j int) { l.running[i], l.running[j] = l.running[j], l.running[i] })
	for range 50 {
		l.place(batch)
		l.free(target)
	}
	l.waits = 0
	l.running = slices.Grow(l.running, len(l.running)+batch)
	runtime.GC()
	b.ReportAllocs()
	placed, busy := 0, cpuTime(b)
	var batches []time.Duration
	for b.Loop() {
		began := time.Now()
		placed += l.place(batch)
		l.free(target)
		batches = append(batches, time.Since(began))
	}
	slices.Sort(batches)
	b.ReportMetric(float64(batch)/batches[len(batches)/2].Seconds(), "placements/s-median")
	b.ReportMetric(float64(placed)/b.Elapsed().Seconds(), "placements/s")
	b.ReportMetric(float64(placed)/(cpuTime(b)-busy), "placements/cpu-s")
	b.ReportMetric(float64(l.waits)/float64(l.waits+placed), "waiting")
}

// place plans a batch of the requests.
func (l *load) place(n int) int {
	at := l.rng.IntN(len(l.requests) - n)
	l.index.Plan(l.requests[at : at+n])
	placed := len(l.index.taken)
	for _, t := range l.index.taken {
		l.held += t.devices.count()
	}
	l.waits += n - placed
	l.running = append(l.running, l.index.taken...)
	if l.first > len(l.running)/2 {
		l.running = append(l.running[:0], l.running[l.first:]...)
		l.first = 0
	}
	l.index.taken = l.index.taken[:0]
	return placed
}

// free ends instances until so many devices are held: in the order in which they stand, which was shuffled
// when the fleet was filled.
func (l *load) free(target int) {
	first := l.first
	for ; l.held > target; l.first++ {
		l.held -= l.running[l.first].devices.count()
	}
	l.index.give(l.running[first:l.first])
}

// BenchmarkNewIndex makes the index of empty nodes, as a new leader does.
func BenchmarkNewIndex(b *testing.B) {
	const nodes = 1000
	f := newFleet(nodes)
	b.ReportAllocs()
	busy := cpuTime(b)
	for b.Loop() {
		NewIndex(f)
	}
	b.ReportMetric((cpuTime(b)-busy)/float64(b.N)/nodes*1e9, "cpu-ns/node")
}

// BenchmarkRefresh reads nodes with 8 instances each again.
func BenchmarkRefresh(b *testing.B) {
	const nodes, touched = 1000, 100
	f := newFleet(nodes)
	w := &fleetv1.Write{Mutations: []*fleetv1.Mutation{state.Put(0, &fleetv1.Pool{Meta: &fleetv1.Meta{Name: "p"}, Spec: &fleetv1.PoolSpec{Selector: map[string]string{"pool": "p"}}})}}
	var set state.ChangeSet
	for i, n := range f.nodes {
		w.Mutations = append(w.Mutations, state.Put(0, n))
		for j := range 8 {
			inst := &fleetv1.Instance{Meta: &fleetv1.Meta{Id: fmt.Sprint(i, "-", j), Name: fmt.Sprint(i, "-", j)}, Desired: &fleetv1.InstanceDesired{State: fleetv1.DesiredRunning},
				Spec: &fleetv1.InstanceSpec{Node: n.Meta.Name, ServiceId: fmt.Sprint("s", j), Model: "m", ModelVersion: "1", DeviceIds: []string{fmt.Sprint("d", j)}, CpuMillis: 1000}}
			w.Mutations = append(w.Mutations, state.Put(0, inst))
			if j == 0 && i < touched {
				set.Changes = append(set.Changes, state.Change{Key: state.InstanceKey(inst.Meta.Id), After: state.ObjectOf(inst)})
			}
		}
	}
	s := state.New()
	if r, _ := s.Apply(1, &fleetv1.Command{Introduced: 1, Op: &fleetv1.Command_Write{Write: w}}); len(r.Rejections) > 0 {
		b.Fatal(r.Rejections)
	}
	x := NewIndex(s.View())
	b.ReportAllocs()
	busy := cpuTime(b)
	for b.Loop() {
		x.Refresh(x.view, []state.ChangeSet{set})
	}
	b.ReportMetric((cpuTime(b)-busy)/float64(b.N)/touched*1e9, "cpu-ns/node")
}

// cpuTime is what this process has used so far, in seconds: other work on the machine does not count.
func cpuTime(b *testing.B) float64 {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return float64(u.Utime.Sec+u.Stime.Sec) + float64(u.Utime.Usec+u.Stime.Usec)/1e6
}
