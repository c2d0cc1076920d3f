package state

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
)

// nodeUse is what there is of instances on one node.
type nodeUse struct {
	writer uint64 // the command that made it: later ones change a copy
	Allocation
	instances []*fleetv1.Instance // ordered by ID
	held      []holding
}

// holding is a device that an instance holds.
type holding struct{ device, instance string }

// projectUse is what the instances of one project hold.
type projectUse struct {
	writer uint64 // as nodeUse's
	Usage
}

// Holds says that the instance has its share of the node: from its placement until nothing of it is left
// there, or until the object is deleted.
func Holds(i *fleetv1.Instance) bool {
	return i != nil && i.GetObserved().GetState() != fleetv1.InstanceReaped
}

// use keeps what nodes and projects give away in step with one instance's change.
func (a *applying) use(before, after *fleetv1.Instance) {
	if before != nil && after != nil && Holds(before) == Holds(after) && sameShare(before, after) {
		if node := after.GetSpec().GetNode(); node != "" {
			a.nodeUse(node).replace(after)
		}
		return
	}
	if before != nil {
		a.share(before, -1)
	}
	if after != nil {
		a.share(after, 1)
	}
}

func sameShare(a, b *fleetv1.Instance) bool {
	x, y := a.GetSpec(), b.GetSpec()
	return x == y || x.GetNode() == y.GetNode() && shareOf(x) == shareOf(y) && slices.Equal(x.GetDeviceIds(), y.GetDeviceIds()) &&
		slices.Equal(x.GetDeviceModels(), y.GetDeviceModels()) && a.GetMeta().GetProject() == b.GetMeta().GetProject()
}

// share adds an instance to what is used, or takes it away again with sign -1.
func (a *applying) share(i *fleetv1.Instance, sign int64) {
	spec, project := i.GetSpec(), i.GetMeta().GetProject()
	if node := spec.GetNode(); node != "" {
		n := a.nodeUse(node)
		if sign > 0 {
			n.add(i)
		} else {
			n.remove(i)
		}
		if len(n.instances) == 0 {
			a.t.nodeUse.Delete(node)
		}
	}
	if Holds(i) {
		p := a.projectUse(project)
		p.AddInstance(spec, sign)
		maps.DeleteFunc(p.Devices, func(_ string, n int64) bool { return n == 0 })
		if p.Instances == 0 {
			a.t.projectUse.Delete(project)
		}
	}
}

// nodeUse answers what the command in progress may change.
func (a *applying) nodeUse(node string) *nodeUse {
	used := get(a.t.nodeUse, node)
	if used != nil && used.writer == a.writer {
		return used
	}
	mine := &nodeUse{writer: a.writer}
	if used != nil {
		mine.Allocation, mine.instances, mine.held = used.Allocation, slices.Clone(used.instances), slices.Clone(used.held)
	}
	a.t.nodeUse.Set(node, mine)
	return mine
}

// projectUse answers what the command in progress may change.
func (a *applying) projectUse(project string) *projectUse {
	used := get(a.t.projectUse, project)
	if used != nil && used.writer == a.writer {
		return used
	}
	mine := &projectUse{writer: a.writer}
	mine.Devices = map[string]int64{}
	if used != nil {
		mine.Usage.Add(used.Usage, 1)
	}
	a.t.projectUse.Set(project, mine)
	return mine
}

func (n *nodeUse) find(i *fleetv1.Instance) (int, bool) {
	return slices.BinarySearchFunc(n.instances, i.GetMeta().GetId(), func(o *fleetv1.Instance, id string) int {
		return strings.Compare(o.GetMeta().GetId(), id)
	})
}

func (n *nodeUse) replace(i *fleetv1.Instance) {
	if at, ok := n.find(i); ok {
		n.instances[at] = i
	}
}

func (n *nodeUse) add(i *fleetv1.Instance) {
	at, _ := n.find(i)
	n.instances = slices.Insert(n.instances, at, i)
	if !Holds(i) {
		return
	}
	n.Allocation = n.plus(shareOf(i.GetSpec()), 1)
	for _, d := range i.GetSpec().GetDeviceIds() {
		n.held = append(n.held, holding{d, i.GetMeta().GetId()})
	}
}

func (n *nodeUse) remove(i *fleetv1.Instance) {
	if at, ok := n.find(i); ok {
		n.instances = slices.Delete(n.instances, at, at+1)
	}
	if !Holds(i) {
		return
	}
	n.Allocation = n.plus(shareOf(i.GetSpec()), -1)
	n.held = slices.DeleteFunc(n.held, func(h holding) bool { return h.instance == i.GetMeta().GetId() })
}

// holder is the ID of the instance that holds a device, or empty.
func (n *nodeUse) holder(device string) string {
	for _, h := range n.held {
		if h.device == device {
			return h.instance
		}
	}
	return ""
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
