package quality

import (
	"fmt"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
	"github.com/drover-fleet/drover/scheduler/place"
	"github.com/drover-fleet/drover/scheduler/reconcile"
	"github.com/drover-fleet/drover/scheduler/state"
)

// PerNode is how many devices a node has.
const PerNode = 8

// Job asks for devices on each of some nodes, all or nothing.
type Job struct {
	ID             int
	Submit, Run    time.Duration
	Devices, Nodes int
}

// Policy places jobs. It is used by one goroutine.
type Policy interface {
	// Place starts those of the waiting jobs that it finds room for, and answers their places in the list.
	Place(now time.Duration, waiting []Job) (started []int, err error)
	// End takes back what a job held.
	End(id int) error
	// Free is how many devices are free on each node, in the order of their names.
	Free() []int
}

// FirstFit takes the first nodes that have room.
type FirstFit struct {
	free []int
	held map[int][]int // nodes by job
	size map[int]int
}

// NewFirstFit makes the policy for so many empty nodes.
func NewFirstFit(nodes int) *FirstFit {
	f := &FirstFit{free: make([]int, nodes), held: map[int][]int{}, size: map[int]int{}}
	for i := range f.free {
		f.free[i] = PerNode
	}
	return f
}

// Place implements Policy.
func (f *FirstFit) Place(_ time.Duration, waiting []Job) (started []int, err error) {
	for i, j := range waiting {
		var on []int
		for n := 0; n < len(f.free) && len(on) < j.Nodes; n++ {
			if f.free[n] >= j.Devices {
				on = append(on, n)
			}
		}
		if len(on) < j.Nodes {
			continue
		}
		for _, n := range on {
			f.free[n] -= j.Devices
		}
		f.held[j.ID], f.size[j.ID] = on, j.Devices
		started = append(started, i)
	}
	return started, nil
}

// End implements Policy.
func (f *FirstFit) End(id int) error {
	for _, n := range f.held[id] {
		f.free[n] += f.size[id]
	}
	delete(f.held, id)
	delete(f.size, id)
	return nil
}

// Free implements Policy.
func (f *FirstFit) Free() []int { return f.free }

// Planner is the product's: place.Index beside a state.Store.
type Planner struct {
	store    *state.Store
	feed     state.Feed
	index    *place.Index
	entry    uint64
	free     []int
	at       map[string]int // number of a node
	jobs     map[int][]*fleetv1.Instance
	reserved map[int][]string
	turn     reconcile.Turn
}

// reserveAfter is how long the service loop lets a request wait before it may reserve.
const reserveAfter = 30 * time.Second

const pool = "gpu"

// epoch is when a queue begins.
var epoch = time.Date(2026, 1, 5, 0, 0, 0, 0, time.UTC)

// NewPlanner makes the policy for so many empty nodes.
func NewPlanner(nodes int) (*Planner, error) {
	p := &Planner{store: state.New(), at: map[string]int{}, jobs: map[int][]*fleetv1.Instance{}, reserved: map[int][]string{}}
	p.feed = p.store.Subscribe()
	w := &fleetv1.Write{Mutations: []*fleetv1.Mutation{state.Put(0, &fleetv1.Pool{Meta: &fleetv1.Meta{Name: pool, Id: pool},
		Spec: &fleetv1.PoolSpec{Type: fleetv1.PoolPublic, Selector: map[string]string{"pool": pool}}})}}
	for n := range nodes {
		name := fmt.Sprintf("n%06d", n)
		facts := &fleetv1.NodeFacts{Arch: "amd64", CpuMillis: 1 << 20, MemoryBytes: 1 << 40, Labels: map[string]string{"pool": pool}}
		for d := range int32(PerNode) {
			facts.Devices = append(facts.Devices, &fleetv1.Device{Id: fmt.Sprintf("%s-%d", name, d), Vendor: "nvidia", Model: "H100", Index: d, Health: fleetv1.Healthy})
		}
		w.Mutations = append(w.Mutations, state.Put(0, &fleetv1.Node{Meta: &fleetv1.Meta{Name: name, Id: "id-" + name}, Spec: &fleetv1.NodeSpec{}, Facts: facts,
			Status: &fleetv1.NodeStatus{State: fleetv1.NodeReady}}))
		p.free, p.at[name] = append(p.free, PerNode), n
	}
	if err := p.write(w); err != nil {
		return nil, err
	}
	p.index = place.NewIndex(p.store.View())
	_, _, err := p.feed.Poll()
	return p, err
}

func (p *Planner) write(w *fleetv1.Write) error {
	p.entry++
	cmd := &fleetv1.Command{Time: &timestamppb.Timestamp{}, Op: &fleetv1.Command_Write{Write: w}}
	cmd.Introduced = state.Introduced(cmd)
	if r, _ := p.store.Apply(p.entry, cmd); len(r.Rejections) > 0 {
		return fmt.Errorf("the store refuses what was planned: %s", r.Rejections[0].Detail)
	}
	return nil
}

// Place implements Policy.
func (p *Planner) Place(now time.Duration, waiting []Job) (started []int, err error) {
	sets, _, err := p.feed.Poll()
	if err != nil {
		return nil, err
	}
	p.index.Refresh(p.store.View(), sets)
	requests, rests := make([]place.Request, len(waiting)), p.turn.Rests(epoch.Add(now))
	for i, j := range waiting {
		requests[i] = place.Request{Service: fmt.Sprintf("j%d", j.ID), Version: "v", Pool: pool, CPUMillis: int64(j.Devices), MemoryBytes: int64(j.Devices),
			Accelerator: &fleetv1.Accelerator{Count: int32(j.Devices)}, Nodes: j.Nodes, Waited: now-j.Submit >= reserveAfter, Yields: rests, Reserved: p.reserved[j.ID]}
	}
	w := &fleetv1.Write{}
	var holder string
	var kept *fleetv1.Reservation
	keptOut := false
	for i, at := range p.index.Plan(requests) {
		j := waiting[i]
		if len(at.Members) == 0 {
			keptOut = keptOut || at.KeptOut
			if at.Reservation != nil {
				holder, kept = requests[i].Service, at.Reservation
			}
			p.reserved[j.ID] = at.Reservation.GetNodes()
			continue
		}
		delete(p.reserved, j.ID)
		for rank, m := range at.Members {
			inst := &fleetv1.Instance{Meta: &fleetv1.Meta{Name: requests[i].Service, Id: fmt.Sprintf("%s-%d", requests[i].Service, rank)},
				Spec: &fleetv1.InstanceSpec{ServiceId: requests[i].Service, Model: "v", Node: m.Node, DeviceIds: m.DeviceIDs, DeviceModels: m.DeviceModels,
					CpuMillis: int64(j.Devices), MemoryBytes: int64(j.Devices)},
				Desired: &fleetv1.InstanceDesired{State: fleetv1.DesiredRunning}}
			w.Mutations = append(w.Mutations, state.Put(0, inst))
			p.jobs[j.ID] = append(p.jobs[j.ID], inst)
			p.free[p.at[m.Node]] -= j.Devices
		}
		started = append(started, i)
	}
	p.turn.Note(holder, kept, keptOut, epoch.Add(now))
	if len(started) == 0 {
		return nil, nil
	}
	return started, p.write(w)
}

// End implements Policy.
func (p *Planner) End(id int) error {
	w := &fleetv1.Write{}
	for _, inst := range p.jobs[id] {
		key := inst.GetMeta().GetId()
		p.free[p.at[inst.GetSpec().GetNode()]] += len(inst.GetSpec().GetDeviceIds())
		w.Mutations = append(w.Mutations, state.Delete(p.store.View().Instance(key).GetMeta().GetRevision(), state.InstanceKey(key)))
	}
	delete(p.jobs, id)
	return p.write(w)
}

// Free implements Policy.
func (p *Planner) Free() []int { return p.free }
