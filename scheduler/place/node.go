package place

import (
	"math"
	"slices"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
	"github.com/drover-fleet/drover/scheduler/state"
)

// node is what is known of a node. All of it is a function of the view that it was loaded from, and of what
// Plan has taken since.
type node struct {
	*spare
	*plate
	slot     int32 // among the index's nodes
	topology *topology
	ports    []int32           // taken ones
	crowd    []presence        // of groups, as far as spare.few has no room
	barred   map[string]string // devices that nobody new gets: why, as state.Barred says

	usable                mask // devices on which instances may be placed
	last                  mask // usable ones that had trouble lately
	cordoned, unreachable bool
	holding               bool  // keeps what isn't assigned to it
	softest               int32 // least priority of its preemptible instances
	ending                bool  // has instances that hold their share though they are to stop
	soft                  mask  // devices of both

	// What the object says.
	arch      string
	labels    map[string]string
	mountDirs []string
	images    []string // ordered
	imageBits uint32   // a bit for each
	devices   []*fleetv1.Device
	total     state.Allocation
}

// spare is what is free on a node and who is there: all that plans look at of most nodes. Those of an index lie
// side by side and take one line of the processor's cache each.
type spare struct {
	free              mask // devices that nobody holds, of the usable ones
	cpu, memory, disk int64
	few               few   // the groups of its first instances
	kind              int32 // ID of the topology
	open              bool  // takes instances
	wary              bool  // some usable devices had trouble lately
	crowded           bool  // node.crowd is not empty
}

// plate is what placements say of a node. Those of an index lie side by side.
type plate struct {
	name string
	ids  []string // of the devices
}

func newNode() *node { return &node{spare: &spare{}, plate: &plate{}} }

// move gives the node another place for what lies side by side.
func (n *node) move(s *spare, p *plate, slot int) {
	*s, *p = *n.spare, *n.plate
	n.spare, n.plate, n.slot = s, p, int32(slot)
}

// copied is the node apart from the index.
func (n *node) copied() *node {
	out, s, p := *n, *n.spare, *n.plate
	out.spare, out.plate, out.ports = &s, &p, slices.Clone(n.ports)
	return &out
}

// describe reads what the node is, without what runs there: everything is free.
func (n *node) describe(o *fleetv1.Node, intern func(*topology) *topology) {
	f := o.GetFacts()
	n.name = o.GetMeta().GetName()
	n.cordoned, n.unreachable = o.GetSpec().GetCordoned(), o.GetStatus().GetState() != fleetv1.NodeReady
	n.holding = state.KeepsStrangers(o)
	n.open = !n.cordoned && !n.unreachable && !n.holding
	n.arch, n.labels, n.mountDirs, n.images = f.GetArch(), f.GetLabels(), f.GetMountDirs(), f.GetImageDigests()
	if n.topology == nil || !slices.EqualFunc(n.devices, f.GetDevices(), sameMake) {
		given := holdable(f.GetDevices())
		n.topology, n.ids = intern(newTopology(f.GetDevices(), given)), make([]string, len(given))
		for i, d := range given {
			n.ids[i] = d.GetId()
		}
		n.kind = int32(n.topology.id)
	}
	n.devices, n.total = f.GetDevices(), state.Allocatable(o)
	n.condition(o)
	n.wary = !n.last.empty()
	n.cpu, n.memory, n.disk = n.total.CPUMillis, n.total.MemoryBytes, n.total.DiskBytes
	n.free, n.ports = n.usable, n.ports[:0]
	n.softest, n.ending, n.soft = math.MaxInt32, false, mask{}
}

// sameMake says whether a device is still what it was, whatever its condition.
func sameMake(a, b *fleetv1.Device) bool {
	return a == b || a.GetId() == b.GetId() && a.GetVendor() == b.GetVendor() && a.GetModel() == b.GetModel() && a.GetIndex() == b.GetIndex() &&
		a.GetMemoryBytes() == b.GetMemoryBytes() && a.GetParentId() == b.GetParentId() && a.GetProfile() == b.GetProfile() &&
		(a.NumaNode == nil) == (b.NumaNode == nil) && a.GetNumaNode() == b.GetNumaNode() &&
		slices.EqualFunc(a.GetLinks(), b.GetLinks(), func(a, b *fleetv1.DeviceLink) bool {
			return a == b || a.GetPeer() == b.GetPeer() && a.GetKind() == b.GetKind()
		})
}

// condition notes which devices may be given out, and which of them had trouble lately. A slice shares the
// trouble of the device that it is cut from.
func (n *node) condition(o *fleetv1.Node) {
	n.usable, n.last, n.barred = mask{}, mask{}, nil
	troubled := map[string]bool{}
	for _, d := range n.devices {
		if d.GetAction() != "" {
			troubled[d.GetId()] = true
		}
	}
	for _, d := range n.devices {
		i := slices.Index(n.ids, d.GetId())
		if i < 0 {
			continue
		}
		if word, _ := state.Barred(o, d); word != "" {
			if n.barred == nil {
				n.barred = map[string]string{}
			}
			n.barred[d.GetId()] = word
			continue
		}
		n.usable = n.usable.or(one(i))
		if troubled[d.GetId()] || troubled[d.GetParentId()] {
			n.last = n.last.or(one(i))
		}
	}
}

// occupy takes what an instance holds from its placement until it is reaped.
func (n *node) occupy(i *fleetv1.Instance) {
	s := i.GetSpec()
	switch {
	case stops(i):
		n.ending, n.soft = true, n.soft.or(n.held(i))
	case s.GetPreemptible():
		n.softest, n.soft = min(n.softest, s.GetPriority()), n.soft.or(n.held(i))
	}
	n.cpu -= s.GetCpuMillis()
	n.memory -= s.GetMemoryBytes()
	n.disk -= s.GetDiskBytes()
	for _, id := range s.GetDeviceIds() {
		if at := slices.Index(n.ids, id); at >= 0 {
			n.free = n.free.without(one(at))
		}
	}
	for _, p := range []int32{fixedPort(s), i.GetObserved().GetPort()} {
		if p != 0 {
			n.ports = append(n.ports, p)
		}
	}
}

// release gives back what occupy took.
func (n *node) release(i *fleetv1.Instance) {
	s := i.GetSpec()
	n.cpu, n.memory, n.disk = n.cpu+s.GetCpuMillis(), n.memory+s.GetMemoryBytes(), n.disk+s.GetDiskBytes()
	if n.disk == n.total.DiskBytes {
		n.disk = max(n.disk, 0) // as load has it
	}
	n.free = n.free.or(n.held(i).and(n.usable))
	for _, p := range []int32{fixedPort(s), i.GetObserved().GetPort()} {
		if at := slices.Index(n.ports, p); p != 0 && at >= 0 {
			n.ports = slices.Delete(n.ports, at, at+1)
		}
	}
}

// counts says that the instance is one of those that rules of its version count.
func counts(i *fleetv1.Instance) bool {
	return i.GetDesired().GetState() == fleetv1.DesiredRunning && i.GetDesired().GetLeave() == nil && state.Holds(i)
}

// stops says that the instance has been asked to stop.
func stops(i *fleetv1.Instance) bool { return i.GetDesired().GetState() == fleetv1.DesiredStopped }

// fixedPort is the host port that an instance holds by its spec, or 0.
func fixedPort(s *fleetv1.InstanceSpec) int32 {
	if s.GetNetwork() == fleetv1.NetworkHost && s.GetApi().GetFixedPort() {
		return s.GetApi().GetPort()
	}
	return 0
}

// refused is the first mount source that the node does not allow, or empty.
func (n *node) refused(r *Request) string {
	for _, source := range r.MountSources {
		if !slices.ContainsFunc(n.mountDirs, func(root string) bool { return inside(source, root) }) {
			return source
		}
	}
	return ""
}
