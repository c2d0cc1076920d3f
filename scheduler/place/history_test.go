package place

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
	"github.com/drover-fleet/drover/scheduler/state"
)

// history drives a store through random events, and an index beside it.
type history struct {
	t     testing.TB
	rng   *rand.Rand
	store *state.Store
	feed  state.Feed
	index *Index
	last  uint64
	made  int
	nodes int // that there may be
	gangs bool
	only  bool      // what the menu has is asked for, and no node comes or goes
	menu  []Request // asked for again and again, so that what the index remembers of them is used
}

const services = 4

func newHistory(t testing.TB, seed uint64, nodes int, gangs bool) *history {
	h := &history{t: t, nodes: nodes + 1, gangs: gangs, rng: rand.New(rand.NewPCG(seed, 3)), store: state.New()}
	objects := []proto.Message{
		&fleetv1.Pool{Meta: &fleetv1.Meta{Name: "p", Id: "p"}, Spec: &fleetv1.PoolSpec{Selector: map[string]string{"pool": "p"}}},
		&fleetv1.Pool{Meta: &fleetv1.Meta{Name: "q", Id: "q"}, Spec: &fleetv1.PoolSpec{Nodes: []string{"n0", "n2", "n3"}}},
	}
	for i := range services {
		objects = append(objects, &fleetv1.Service{Meta: &fleetv1.Meta{Name: fmt.Sprint("s", i), Id: fmt.Sprint("s", i), Project: "default", Generation: 1},
			Spec: &fleetv1.ServiceSpec{Pool: "p"}, Desired: &fleetv1.ServiceDesired{State: fleetv1.DesiredRunning}})
	}
	for _, o := range objects {
		h.write(state.Put(0, o))
	}
	for i := range nodes {
		h.write(state.Put(0, h.node(fmt.Sprint("n", i))))
	}
	h.feed = h.store.Subscribe()
	t.Cleanup(h.feed.Close)
	if _, resync, err := h.feed.Next(t.Context()); !resync || err != nil {
		t.Fatal(resync, err)
	}
	h.index = NewIndex(h.store.View())
	return h
}

func (h *history) apply(c *fleetv1.Command) state.Result {
	h.last++
	c.Introduced, c.Time = 1, &timestamppb.Timestamp{Seconds: int64(h.last)}
	r, _ := h.store.Apply(h.last, c)
	return r
}

func (h *history) write(m ...*fleetv1.Mutation) {
	if r := h.apply(&fleetv1.Command{Op: &fleetv1.Command_Write{Write: &fleetv1.Write{Mutations: m}}}); len(r.Rejections) > 0 {
		h.t.Fatal(r.Rejections)
	}
}

func pick[T any](rng *rand.Rand, from ...T) T { return from[rng.IntN(len(from))] }

// node draws a host: with plain devices, linked in several ways, or with slices.
func (h *history) node(name string) *fleetv1.Node {
	n := &fleetv1.Node{Meta: &fleetv1.Meta{Name: name, Id: "id-" + name}, Spec: &fleetv1.NodeSpec{}, Status: &fleetv1.NodeStatus{State: fleetv1.NodeReady},
		Facts: &fleetv1.NodeFacts{Arch: pick(h.rng, "amd64", "amd64", "arm64"), CpuMillis: pick[int64](h.rng, 4000, 8000), MemoryBytes: 16 * gib, DiskBytes: 10 * gib}}
	h.relabel(n)
	count := pick(h.rng, 0, 2, 4, 8)
	for i := range count {
		d := &fleetv1.Device{Id: fmt.Sprint("d", i), Index: int32(i), Vendor: "nvidia", Model: pick(h.rng, "H100", "H100", "A100"), MemoryBytes: pick[int64](h.rng, 40, 80) * gib, Health: fleetv1.Healthy}
		if h.rng.IntN(8) > 0 {
			numa := int32(i * 2 / count)
			d.NumaNode = &numa
		}
		for j := range count {
			if kind := map[int]string{1: "nvlink", 2: "pix", 3: "hccs"}[(i^j)%5]; i != j && kind != "" {
				d.Links = append(d.Links, &fleetv1.DeviceLink{Peer: fmt.Sprint("d", j), Kind: kind})
			}
		}
		n.Facts.Devices = append(n.Facts.Devices, d)
	}
	if count > 0 && h.rng.IntN(3) == 0 {
		for i := range 3 {
			n.Facts.Devices = append(n.Facts.Devices, &fleetv1.Device{Id: fmt.Sprint("d0-", i), Index: 0, Vendor: "nvidia", Model: "H100", MemoryBytes: 10 * gib,
				Health: fleetv1.Healthy, ParentId: "d0", Profile: "1g"})
		}
	}
	return n
}

func (h *history) relabel(n *fleetv1.Node) {
	n.Facts.Labels = map[string]string{"pool": pick(h.rng, "p", "p", "p", "x"), "disk": pick(h.rng, "ssd", "hdd")}
	for label, values := range map[string][]string{"rack": {"r1", "r2", "r3", ""}, "zone": {"z1", "z2", ""}} {
		if v := pick(h.rng, values...); v != "" {
			n.Facts.Labels[label] = v
		}
	}
	n.Facts.ImageDigests = pick(h.rng, nil, []string{"i1"}, []string{"i1", "i2"})
}

// request draws what a service may ask for.
func (h *history) request() Request {
	r := Request{Service: fmt.Sprint("s", h.rng.IntN(services)), Version: "m@" + fmt.Sprint(1+h.rng.IntN(2)), Pool: pick(h.rng, "p", "p", "p", "q"),
		CPUMillis: pick[int64](h.rng, 100, 1000, 3000), MemoryBytes: pick[int64](h.rng, 1, 4) * gib, DiskBytes: pick[int64](h.rng, 0, gib),
		Arch: pick(h.rng, "", "", "amd64"), Image: pick(h.rng, "", "i1", "i2"), Nodes: pick(h.rng, 0, 1, 1, 2, 3), Prefer: pick(h.rng, "", "", "n1")}
	if h.rng.IntN(4) > 0 {
		r.Accelerator = &fleetv1.Accelerator{Vendor: "nvidia", Model: pick(h.rng, "", "H*", "A100"), Count: pick[int32](h.rng, 1, 1, 2, 4), MemoryMinBytes: pick[int64](h.rng, 0, 0, 80*gib),
			Share: pick(h.rng, "", "whole", "1g"), Domain: pick(h.rng, "", "any", "numa", "pcie", "nvlink", "hccs")}
		if r.Accelerator.Share == "1g" {
			r.Accelerator.MemoryMinBytes = 0
		}
	} else if h.rng.IntN(3) == 0 {
		r.HostPort = 80
	}
	if h.rng.IntN(3) == 0 {
		r.Avoid = map[string]bool{"n0": true, "n2": true}
	}
	if !h.gangs {
		r.Nodes = 1
	}
	r.Rules = h.rules(r.Nodes > 1)
	return r
}

func (h *history) rules(gang bool) *fleetv1.PlacementRules {
	u := &fleetv1.PlacementRules{AntiAffinity: h.rng.IntN(5) == 0}
	switch h.rng.IntN(6) {
	case 0:
		return nil
	case 1:
		u.Required = map[string]string{"disk": "ssd"}
	case 2:
		u.Nodes = []string{"n1", "n2", "n4"}
	case 3, 4:
		u.Spread = []*fleetv1.SpreadRule{{Label: pick(h.rng, "rack", "zone"), MaxSkew: pick[int32](h.rng, 0, 1, 2), Required: h.rng.IntN(3) > 0}}
		if h.rng.IntN(3) == 0 {
			// Whether a gang fits two required rules at once is only guessed.
			u.Spread = append(u.Spread, &fleetv1.SpreadRule{Label: "disk", MaxSkew: 1, Required: !gang && h.rng.IntN(2) == 0})
		}
	}
	if h.rng.IntN(3) == 0 {
		u.Preferred = []*fleetv1.PreferredLabel{{Label: "zone", Value: "z2", Weight: 1}, {Label: "disk", Value: "ssd", Weight: 9}}
	}
	return u
}

func (h *history) requests(n int) []Request {
	var out []Request
	for range n {
		if h.menu == nil {
			for range 6 {
				h.menu = append(h.menu, h.request())
			}
		}
		r := h.request()
		if h.only || h.rng.IntN(3) > 0 {
			r = pick(h.rng, h.menu...)
		}
		out = append(out, r)
		if h.rng.IntN(3) == 0 {
			out = append(out, out[len(out)-1])
		}
	}
	return out
}

// commit stores what was placed, or only some of it.
func (h *history) commit(requests []Request, placed []Placement) {
	for i, p := range placed {
		if len(p.Members) == 0 || h.rng.IntN(8) == 0 {
			continue
		}
		r := requests[i]
		var parts []*fleetv1.PlanPart
		h.made++
		for rank, m := range p.Members {
			inst := &fleetv1.Instance{Meta: &fleetv1.Meta{Id: fmt.Sprint("i", h.made, "-", rank), Name: fmt.Sprint("i", h.made, "-", rank), Project: "default"}, Desired: &fleetv1.InstanceDesired{State: fleetv1.DesiredRunning},
				Spec: &fleetv1.InstanceSpec{ServiceId: r.Service, ServiceName: r.Service, ServiceGeneration: 1, Model: "m", ModelVersion: r.Version[2:], Node: m.Node, DeviceIds: m.DeviceIDs, DeviceModels: m.DeviceModels,
					CpuMillis: r.CPUMillis, MemoryBytes: r.MemoryBytes, DiskBytes: r.DiskBytes}}
			if r.HostPort != 0 {
				inst.Spec.Network, inst.Spec.Api = fleetv1.NetworkHost, &fleetv1.ModelAPI{Port: r.HostPort, FixedPort: true}
			}
			parts = append(parts, &fleetv1.PlanPart{ServiceId: r.Service, ServiceGeneration: 1, Instances: []*fleetv1.Instance{inst}})
		}
		if res := h.apply(&fleetv1.Command{Op: &fleetv1.Command_Plan{Plan: &fleetv1.Plan{Parts: parts}}}); len(res.Rejections) > 0 {
			h.t.Fatalf("the store refuses %+v of %+v: %v", p, r, res.Rejections)
		}
	}
}

// change does one random thing to the fleet.
func (h *history) change() {
	view := h.store.View()
	if all := view.Instances(); len(all) > 0 && h.rng.IntN(2) == 0 {
		inst := proto.CloneOf(all[h.rng.IntN(len(all))])
		revision := inst.GetMeta().GetRevision()
		what := h.rng.IntN(6)
		if inst.GetObserved().GetState() == fleetv1.InstanceReaped {
			what = 5
		}
		switch what {
		case 0:
			inst.Desired.Leave = &fleetv1.Leave{Cause: "drain"}
		case 1:
			inst.Desired.State = fleetv1.DesiredStopped
		case 2:
			inst.Observed = &fleetv1.InstanceObserved{State: fleetv1.InstanceRunning, Attempt: 1, Sequence: 1, Port: pick[int32](h.rng, 80, 30000)}
		case 3:
			inst.Observed = &fleetv1.InstanceObserved{State: fleetv1.InstanceReaped, Attempt: 1, Sequence: 2}
		default:
			h.write(state.Delete(revision, state.InstanceKey(inst.GetMeta().GetId())))
			return
		}
		h.write(state.Put(revision, inst))
		return
	}
	h.changeNode(view, fmt.Sprint("n", h.rng.IntN(h.nodes)))
}

func (h *history) changeNode(view state.ReadView, name string) {
	n := proto.CloneOf(view.Node(name))
	if h.only {
		n = proto.CloneOf(view.Node(fmt.Sprint("n", h.rng.IntN(8))))
		n.Spec.Cordoned = !n.Spec.Cordoned
		n.Facts.ImageDigests = pick(h.rng, nil, []string{"i1"})
		h.write(state.Put(n.GetMeta().GetRevision(), n))
		return
	}
	if n == nil {
		h.write(state.Put(0, h.node(name)))
		return
	}
	revision := n.GetMeta().GetRevision()
	device := func() *fleetv1.Device {
		if len(n.Facts.Devices) == 0 {
			return &fleetv1.Device{}
		}
		return n.Facts.Devices[h.rng.IntN(len(n.Facts.Devices))]
	}
	switch h.rng.IntN(10) {
	case 0:
		n.Spec.Cordoned = !n.Spec.Cordoned
	case 1:
		n.Status.State = pick(h.rng, fleetv1.NodeReady, fleetv1.NodeUnreachable)
	case 2:
		device().Health = pick(h.rng, fleetv1.Healthy, fleetv1.Unhealthy, fleetv1.Lost)
	case 3:
		d := device()
		d.Quarantined, d.Action = h.rng.IntN(4) == 0, pick(h.rng, "", "observe", "drain", "evict")
	case 4:
		if n.Spec.DeviceCordons = nil; h.rng.IntN(2) == 0 {
			n.Spec.DeviceCordons = []*fleetv1.DeviceCordon{{DeviceId: device().GetId()}}
		}
	case 5:
		h.relabel(n)
	case 6:
		n.Facts.CpuMillis, n.Facts.ReservedDiskBytes = pick[int64](h.rng, 2000, 4000, 8000), pick[int64](h.rng, 0, 11*gib)
	case 7:
		if len(view.InstancesOnNode(name)) == 0 {
			n.Facts.Devices = h.node(name).Facts.Devices
		}
	case 8:
		if len(view.InstancesOnNode(name)) == 0 {
			h.write(state.Delete(revision, state.Key{Kind: fleetv1.KindNode, Key: name}))
			return
		}
	case 9:
		p := proto.CloneOf(view.Pool("q"))
		p.Spec.Nodes = pick(h.rng, []string{"n1"}, []string{"n0", "n2", "n3", "n9"})
		h.write(state.Put(p.GetMeta().GetRevision(), p))
		return
	}
	h.write(state.Put(revision, n))
}

// refresh tells the index what happened.
func (h *history) refresh() {
	h.touch()
	view := h.store.View()
	sets, resync, err := h.feed.Next(h.t.Context())
	if resync || err != nil {
		h.t.Fatal(resync, err)
	}
	h.index.Refresh(view, sets)
}
