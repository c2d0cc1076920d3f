package place

import (
	"cmp"
	"maps"
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
		if pick([]*node{empty(x.view.Node(n.name))}, r, fs) == nil {
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

// inTheWay names instances of a node, biggest first, without which the request would fit; false when what
// keeps it out is no instance of the store, such as a device that does not work or is cordoned.
func (x *Index) inTheWay(n *node, r *Request, fs []filter) (names []string, ok bool) {
	free := *n
	free.free, free.ports = slices.Clone(n.free), maps.Clone(n.ports)
	running := x.view.InstancesOnNode(n.name)
	slices.SortFunc(running, func(a, b *fleetv1.Instance) int {
		return cmp.Or(cmp.Compare(n.giveBack(b), n.giveBack(a)),
			cmp.Compare(b.GetSpec().GetCpuMillis(), a.GetSpec().GetCpuMillis()), cmp.Compare(a.GetMeta().GetId(), b.GetMeta().GetId()))
	})
	for _, inst := range running {
		if pick([]*node{&free}, r, fs) != nil {
			break
		}
		s := inst.GetSpec()
		free.cpu += s.GetCpuMillis()
		free.memory += s.GetMemoryBytes()
		free.disk += s.GetDiskBytes()
		delete(free.ports, fixedPort(s))
		delete(free.ports, inst.GetObserved().GetPort())
		for _, d := range n.devices {
			if n.barred[d.GetId()] == "" && slices.Contains(s.GetDeviceIds(), d.GetId()) {
				free.free = append(free.free, d)
			}
		}
		names = append(names, inst.GetMeta().GetName())
	}
	return names, len(names) > 0 && pick([]*node{&free}, r, fs) != nil
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
	free.free = slices.Clone(n.free)
	for _, d := range n.devices {
		if n.barred[d.GetId()] == state.BarredCordoned && x.view.DeviceHolder(n.name, d.GetId()) == nil {
			free.free = append(free.free, d)
		}
	}
	return pick([]*node{&free}, r, fs) != nil
}

// several lists names, the first three of many.
func several(names []string) string {
	if len(names) > 4 {
		return strings.Join(names[:3], ", ") + " and others"
	}
	return strings.Join(names, ", ")
}
