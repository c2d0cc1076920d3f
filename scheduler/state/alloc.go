package state

import (
	"fmt"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
)

// holds says that the instance has its share of the node: from its placement until nothing of it is left
// there, or until the object is deleted.
func holds(i *fleetv1.Instance) bool {
	return i != nil && i.GetObserved().GetState() != fleetv1.InstanceReaped
}

// hold keeps the tables of what nodes give away in step with one instance's change.
func (a *applying) hold(before, after *fleetv1.Instance) {
	if holds(before) == holds(after) && sameShare(before.GetSpec(), after.GetSpec()) {
		return
	}
	if holds(before) {
		a.share(before, -1)
		for _, d := range before.GetSpec().GetDeviceIds() {
			key := heldKey(before.GetSpec().GetNode(), d)
			if r, ok := a.row(tableHeld, indexID, key).(*heldRow); ok && r.instance == before.GetMeta().GetId() {
				a.remove(tableHeld, r)
			}
		}
	}
	if holds(after) {
		a.share(after, 1)
		for _, d := range after.GetSpec().GetDeviceIds() {
			a.insert(tableHeld, &heldRow{heldKey(after.GetSpec().GetNode(), d), after.GetMeta().GetId()})
		}
	}
}

func sameShare(a, b *fleetv1.InstanceSpec) bool {
	if a.GetNode() != b.GetNode() || len(a.GetDeviceIds()) != len(b.GetDeviceIds()) || shareOf(a) != shareOf(b) {
		return false
	}
	for i, d := range a.GetDeviceIds() {
		if b.GetDeviceIds()[i] != d {
			return false
		}
	}
	return true
}

func shareOf(s *fleetv1.InstanceSpec) Allocation {
	return Allocation{
		CPUMillis: s.GetCpuMillis(), MemoryBytes: s.GetMemoryBytes(), DiskBytes: s.GetDiskBytes(),
		Devices: int64(len(s.GetDeviceIds())), Instances: 1,
	}
}

// plus adds sign times o.
func (x Allocation) plus(o Allocation, sign int64) Allocation {
	return Allocation{
		CPUMillis:   x.CPUMillis + sign*o.CPUMillis,
		MemoryBytes: x.MemoryBytes + sign*o.MemoryBytes,
		DiskBytes:   x.DiskBytes + sign*o.DiskBytes,
		Devices:     x.Devices + sign*o.Devices,
		Instances:   x.Instances + sign*o.Instances,
	}
}

func (a *applying) share(i *fleetv1.Instance, sign int64) {
	node := i.GetSpec().GetNode()
	if node == "" {
		return
	}
	used := &usageRow{node: node, Allocation: a.Allocated(node).plus(shareOf(i.GetSpec()), sign)}
	if used.Allocation == (Allocation{}) {
		a.remove(tableUsage, used)
		return
	}
	a.insert(tableUsage, used)
}

// Allocatable is what the node's instances may hold together: its totals less what it keeps back. Devices
// and Instances aren't limited by number and are 0.
func Allocatable(n *fleetv1.Node) Allocation {
	f := n.GetFacts()
	return Allocation{
		CPUMillis:   f.GetCpuMillis() - f.GetReservedCpuMillis(),
		MemoryBytes: f.GetMemoryBytes() - f.GetReservedMemoryBytes(),
		DiskBytes:   f.GetDiskBytes() - f.GetReservedDiskBytes(),
	}
}

// exceeds says which resource of the node would be exceeded, or "".
func (x Allocation) exceeds(n *fleetv1.Node) string {
	limit, name := Allocatable(n), n.GetMeta().GetName()
	switch {
	case x.CPUMillis > limit.CPUMillis:
		return fmt.Sprintf("node %s has %d of %d millicores asked for", name, limit.CPUMillis, x.CPUMillis)
	case x.MemoryBytes > limit.MemoryBytes:
		return fmt.Sprintf("node %s has %d of %d bytes of memory asked for", name, limit.MemoryBytes, x.MemoryBytes)
	case x.DiskBytes > 0 && x.DiskBytes > limit.DiskBytes:
		return fmt.Sprintf("node %s has %d of %d bytes of disk asked for", name, limit.DiskBytes, x.DiskBytes)
	}
	return ""
}
