package place

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
	"github.com/drover-fleet/drover/scheduler/state"
)

// altered is a view in which some instances are gone, and some nodes or instances are others.
type altered struct {
	state.ReadView
	gone  map[string]bool
	nodes map[string]*fleetv1.Node
	joins []string // that every pool with a list has as well
	more  []*fleetv1.Instance
}

func alter(view state.ReadView) *altered {
	return &altered{ReadView: view, gone: map[string]bool{}, nodes: map[string]*fleetv1.Node{}}
}

func (a *altered) Node(name string) *fleetv1.Node {
	if n := a.nodes[name]; n != nil {
		return n
	}
	return a.ReadView.Node(name)
}

func (a *altered) Nodes() (out []*fleetv1.Node) {
	for _, n := range a.ReadView.Nodes() {
		if a.nodes[n.GetMeta().GetName()] == nil {
			out = append(out, n)
		}
	}
	return slices.AppendSeq(out, maps.Values(a.nodes))
}

func (a *altered) PoolNodes(p *fleetv1.Pool) (out []*fleetv1.Node) {
	for _, n := range a.ReadView.PoolNodes(p) {
		out = append(out, a.Node(n.GetMeta().GetName()))
	}
	return out
}

func (a *altered) Pool(name string) *fleetv1.Pool {
	p := a.ReadView.Pool(name)
	if len(a.joins) > 0 && len(p.GetSpec().GetNodes()) > 0 {
		p = proto.CloneOf(p)
		p.Spec.Nodes = append(p.Spec.Nodes, a.joins...)
	}
	return p
}

func (a *altered) keep(all []*fleetv1.Instance) []*fleetv1.Instance {
	return slices.DeleteFunc(slices.Clone(all), func(i *fleetv1.Instance) bool { return a.gone[i.GetMeta().GetId()] })
}

func (a *altered) InstancesOnNode(name string) []*fleetv1.Instance {
	out := a.keep(a.ReadView.InstancesOnNode(name))
	for _, i := range a.more {
		if i.GetSpec().GetNode() == name {
			out = append(out, i)
		}
	}
	return out
}

func (a *altered) InstancesOfGang(id string) []*fleetv1.Instance {
	return a.keep(a.ReadView.InstancesOfGang(id))
}

func (a *altered) Instances() []*fleetv1.Instance {
	return append(a.keep(a.ReadView.Instances()), a.more...)
}

func (a *altered) end(all ...*fleetv1.Instance) *altered {
	for _, i := range all {
		a.gone[i.GetMeta().GetId()] = true
	}
	return a
}

// mend changes the objects as a remedy says, without anything of the index.
func (a *altered) mend(r *remedy, request Request) Request {
	a.end(r.end...)
	for _, n := range r.open {
		o := proto.CloneOf(a.Node(n.name))
		o.Spec.Cordoned, o.Spec.Drain, o.Status.State = false, nil, fleetv1.NodeReady
		a.nodes[n.name] = o
	}
	for n, devices := range r.repair {
		o := proto.CloneOf(a.Node(n.name))
		mended := map[string]bool{}
		for _, d := range o.Facts.Devices {
			if at := slices.Index(n.ids, d.GetId()); at >= 0 && devices.has(at) {
				mended[d.GetId()], mended[cmp.Or(d.GetParentId(), d.GetId())] = true, true
			}
		}
		for _, d := range o.Facts.Devices {
			if mended[d.GetId()] {
				d.Health, d.Quarantined, d.Action = fleetv1.Healthy, false, ""
			}
		}
		o.Spec.DeviceCordons = slices.DeleteFunc(o.Spec.DeviceCordons, func(c *fleetv1.DeviceCordon) bool { return mended[c.GetDeviceId()] })
		a.nodes[n.name] = o
	}
	for i := range r.add {
		n := a.ideal(&request, i)
		a.nodes[n.Meta.Name], a.joins = n, append(a.joins, n.Meta.Name)
		if len(request.Rules.GetNodes()) > 0 {
			request.Rules = proto.CloneOf(request.Rules)
			request.Rules.Nodes = append(request.Rules.Nodes, n.Meta.Name)
		}
	}
	if r.instead != nil {
		return *r.instead
	}
	return request
}

// ideal is a node that has all that the request asks for.
func (a *altered) ideal(r *Request, i int) *fleetv1.Node {
	n := &fleetv1.Node{Meta: &fleetv1.Meta{Name: fmt.Sprint("new", i), Id: fmt.Sprint("new", i)}, Spec: &fleetv1.NodeSpec{}, Status: &fleetv1.NodeStatus{State: fleetv1.NodeReady},
		Facts: &fleetv1.NodeFacts{Arch: cmp.Or(r.Arch, strings.Join(r.ImageArches[:min(1, len(r.ImageArches))], "")), CpuMillis: r.CPUMillis, MemoryBytes: r.MemoryBytes, DiskBytes: r.DiskBytes,
			Labels: map[string]string{}, MountDirs: r.MountSources}}
	maps.Copy(n.Facts.Labels, a.Pool(r.Pool).GetSpec().GetSelector())
	maps.Copy(n.Facts.Labels, r.Rules.GetRequired())
	for _, s := range r.Rules.GetSpread() {
		n.Facts.Labels[s.GetLabel()] = fmt.Sprint("new", i)
	}
	acc := r.Accelerator
	profile := acc.GetShare()
	if profile == "whole" {
		profile = ""
	}
	for d := range int(acc.GetCount()) {
		numa := int32(0)
		dev := &fleetv1.Device{Id: fmt.Sprint("d", d), Index: int32(d), Vendor: acc.GetVendor(), Model: strings.ReplaceAll(acc.GetModel(), "*", "x"), MemoryBytes: acc.GetMemoryMinBytes(),
			Profile: profile, Health: fleetv1.Healthy, NumaNode: &numa}
		for peer := range int(acc.GetCount()) {
			if kind := map[string]string{"pcie": "pix", "nvlink": "nvlink", "hccs": "hccs"}[acc.GetDomain()]; kind != "" && peer != d {
				dev.Links = append(dev.Links, &fleetv1.DeviceLink{Peer: fmt.Sprint("d", peer), Kind: kind})
			}
		}
		n.Facts.Devices = append(n.Facts.Devices, dev)
	}
	return n
}

// crowd runs a history until instances run, makes some of them preemptible, of other priorities or gangs,
// and stops some.
func crowd(t testing.TB, seed uint64, nodes, rounds int) *history {
	h := newHistory(t, seed, nodes, true)
	for range rounds {
		for range h.rng.IntN(3) {
			h.change()
		}
		h.refresh()
		requests := h.requests(1 + h.rng.IntN(6))
		h.commit(requests, h.index.Plan(requests))
	}
	gangs := map[string][]*fleetv1.Instance{}
	for _, i := range h.store.View().Instances() {
		id, _, _ := strings.Cut(i.GetMeta().GetId(), "-")
		gangs[id] = append(gangs[id], proto.CloneOf(i))
	}
	for _, id := range slices.Sorted(maps.Keys(gangs)) {
		members := gangs[id]
		preemptible, priority := h.rng.IntN(4) > 0, int32(h.rng.IntN(3))
		born, stops := h.rng.Int64N(3), h.rng.IntN(10) == 0
		for rank, i := range members {
			i.Spec.Preemptible, i.Spec.Priority, i.Meta.CreateTime = preemptible, priority, &timestamppb.Timestamp{Seconds: born}
			if stops {
				i.Desired.State = fleetv1.DesiredStopped
			}
			if len(members) > 1 {
				i.Spec.Gang = &fleetv1.Gang{Id: id, Rank: int32(rank), Size: int32(len(members))}
			}
			revision := i.GetMeta().GetRevision()
			h.write(state.Delete(revision, state.InstanceKey(i.GetMeta().GetId())))
			i.Meta.Revision = 0
			h.write(state.Put(0, i))
		}
	}
	return h
}

// plain draws a request that most nodes suit, of some priority.
func (h *history) plain() Request {
	r := h.request()
	r.Priority = int32(h.rng.IntN(4))
	if h.rng.IntN(3) > 0 {
		r.Pool, r.Arch, r.HostPort = "p", "", 0
		r.CPUMillis, r.MemoryBytes = pick[int64](h.rng, 1000, 3000, 6000), pick[int64](h.rng, 1, 4, 12)*gib
		if r.Accelerator = nil; h.rng.IntN(3) > 0 {
			r.Accelerator = &fleetv1.Accelerator{Count: pick[int32](h.rng, 1, 2, 3, 4), Domain: pick(h.rng, "", "numa")}
		}
		if h.rng.IntN(3) > 0 {
			r.Rules = nil
		}
	}
	return r
}
