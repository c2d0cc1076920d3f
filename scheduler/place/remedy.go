package place

import (
	"cmp"
	"slices"
	"strings"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
	"github.com/drover-fleet/drover/scheduler/state"
)

// remedy says what would make room for a request that no node fits: the fewest instances whose end would do
// on one node, or else a node to open or to bring back.
func (x *Index) remedy(nodes []*node, r *Request) string {
	fs := filters()
	on := ""
	var ending, closed, shut, lost, able []string
	for _, n := range nodes {
		if !fits(n.emptied(), r, fs) {
			continue // never
		}
		switch names, ok := x.inTheWay(n, r, fs); {
		case n.unreachable:
			lost = append(lost, n.name)
		case n.cordoned:
			closed = append(closed, n.name)
		case ok && (on == "" || len(names) < len(ending)):
			on, ending = n.name, names
		case !ok && x.opened(n, r, fs):
			shut = append(shut, n.name)
		case !ok:
			able = append(able, n.name)
		}
	}
	switch {
	case on != "":
		return "it would fit on " + on + " after the end of " + several(ending)
	case len(closed) > 0:
		return "uncordoning may make room: " + several(closed)
	case len(shut) > 0:
		return "uncordoning devices may make room: on " + several(shut)
	case len(lost) > 0:
		return "it waits for the return of " + several(lost)
	}
	if len(able) > 0 { // what is in the way was placed just now, or is a device
		return "it would fit on " + several(able) + " if nothing else ran there and all devices could be given out"
	}
	return "add a node that can hold it"
}

// emptied is the node as if nothing ran on it, every device worked and it took instances.
func (n *node) emptied() *node {
	e := *n
	e.open, e.cordoned, e.unreachable = true, false, false
	e.cpu, e.memory, e.disk = n.total.CPUMillis, n.total.MemoryBytes, max(n.total.DiskBytes, 0)
	e.free, e.ports = n.topology.all, nil
	return &e
}

// inTheWay names instances of a node, biggest first, without which the request would fit; false when what
// keeps it out is no instance of the store, such as a device that does not work or is cordoned.
func (x *Index) inTheWay(n *node, r *Request, fs []filter) (names []string, ok bool) {
	free := *n
	free.ports = slices.Clone(n.ports)
	running := x.view.InstancesOnNode(n.name)
	slices.SortFunc(running, func(a, b *fleetv1.Instance) int {
		return cmp.Or(cmp.Compare(n.giveBack(b), n.giveBack(a)),
			cmp.Compare(b.GetSpec().GetCpuMillis(), a.GetSpec().GetCpuMillis()), cmp.Compare(a.GetMeta().GetId(), b.GetMeta().GetId()))
	})
	for _, inst := range running {
		if fits(&free, r, fs) {
			break
		}
		s := inst.GetSpec()
		free.cpu += s.GetCpuMillis()
		free.memory += s.GetMemoryBytes()
		free.disk += s.GetDiskBytes()
		free.ports = slices.DeleteFunc(free.ports, func(p int32) bool { return p == fixedPort(s) || p == inst.GetObserved().GetPort() })
		for i, id := range n.ids {
			if n.usable.has(i) && slices.Contains(s.GetDeviceIds(), id) {
				free.free.add(i)
			}
		}
		names = append(names, inst.GetMeta().GetName())
	}
	return names, len(names) > 0 && fits(&free, r, fs)
}

// giveBack is how many devices the end of an instance would make free.
func (n *node) giveBack(i *fleetv1.Instance) int {
	count := 0
	for _, id := range i.GetSpec().GetDeviceIds() {
		if n.barred[id] == "" {
			count++
		}
	}
	return count
}

// opened says whether the request would fit if no device of the node were cordoned.
func (x *Index) opened(n *node, r *Request, fs []filter) bool {
	free := *n
	for i, id := range n.ids {
		if n.barred[id] == state.BarredCordoned && x.view.DeviceHolder(n.name, id) == nil {
			free.free.add(i)
		}
	}
	return fits(&free, r, fs)
}

// several lists names, the first three of many.
func several(names []string) string {
	if len(names) > 4 {
		return strings.Join(names[:3], ", ") + " and others"
	}
	return strings.Join(names, ", ")
}
