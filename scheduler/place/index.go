package place

import (
	"cmp"
	"slices"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
	"github.com/drover-fleet/drover/scheduler/state"
)

// Index is what one planning pass knows about free capacity. It is owned by one goroutine.
type Index struct {
	view  state.ReadView
	nodes map[string]*node
	pools map[string][]*node
}

// node is one candidate with what is free on it.
type node struct {
	name, arch            string
	cordoned, unreachable bool
	mountDirs             []string
	cpu, memory, disk     int64
	// devices are all that the node lists, free those that can be given out now; both sorted.
	devices, free []*fleetv1.Device
	// barred says of the devices that nobody new gets why, as state.Barred does.
	barred map[string]string
	ports  map[int32]bool
	// services counts the instances that are to run here by service ID.
	services map[string]int
}

// NewIndex makes the index of one view. Placements of its plans count as taken in later plans.
func NewIndex(view state.ReadView) *Index {
	return &Index{view: view, nodes: map[string]*node{}, pools: map[string][]*node{}}
}

// pool answers the candidates of a pool, ordered by name; false when there is no such pool.
func (x *Index) pool(name string) ([]*node, bool) {
	if nodes, ok := x.pools[name]; ok {
		return nodes, true
	}
	pool := x.view.Pool(name)
	if pool == nil {
		return nil, false
	}
	members := x.view.PoolNodes(pool)
	nodes := make([]*node, 0, len(members))
	for _, m := range members {
		n := x.nodes[m.GetMeta().GetName()]
		if n == nil {
			n = load(x.view, m)
			x.nodes[n.name] = n
		}
		nodes = append(nodes, n)
	}
	slices.SortFunc(nodes, func(a, b *node) int { return cmp.Compare(a.name, b.name) })
	x.pools[name] = nodes
	return nodes, true
}

// load reads what is free on a node.
func load(view state.ReadView, n *fleetv1.Node) *node {
	c := empty(n)
	c.cordoned = n.GetSpec().GetCordoned()
	c.unreachable = n.GetStatus().GetState() != fleetv1.NodeReady
	a := view.Allocated(c.name)
	c.cpu -= a.CPUMillis
	c.memory -= a.MemoryBytes
	c.disk -= a.DiskBytes
	c.free = nil
	for _, d := range c.devices {
		if word, _ := state.Barred(n, d); word != "" {
			c.barred[d.GetId()] = word
		} else if view.DeviceHolder(c.name, d.GetId()) == nil {
			c.free = append(c.free, d)
		}
	}
	for _, inst := range view.InstancesOnNode(c.name) {
		if p := fixedPort(inst.GetSpec()); p != 0 {
			c.ports[p] = true
		}
		if p := inst.GetObserved().GetPort(); p != 0 {
			c.ports[p] = true
		}
		if inst.GetDesired().GetState() == fleetv1.DesiredRunning {
			c.services[inst.GetSpec().GetServiceId()]++
		}
	}
	return c
}

// empty is the node as if nothing ran on it, every device could be given out and it took instances.
func empty(n *fleetv1.Node) *node {
	f := n.GetFacts()
	c := &node{
		name: n.GetMeta().GetName(), arch: f.GetArch(), mountDirs: f.GetMountDirs(),
		cpu:     f.GetCpuMillis() - f.GetReservedCpuMillis(),
		memory:  f.GetMemoryBytes() - f.GetReservedMemoryBytes(),
		disk:    f.GetDiskBytes() - f.GetReservedDiskBytes(),
		devices: holdable(f.GetDevices()), barred: map[string]string{}, ports: map[int32]bool{}, services: map[string]int{},
	}
	slices.SortFunc(c.devices, func(a, b *fleetv1.Device) int {
		return cmp.Or(cmp.Compare(a.GetMemoryBytes(), b.GetMemoryBytes()), cmp.Compare(a.GetModel(), b.GetModel()),
			cmp.Compare(a.GetIndex(), b.GetIndex()), cmp.Compare(a.GetId(), b.GetId()))
	})
	c.free = c.devices
	return c
}

// holdable answers the devices that an instance can hold: a device cut into slices is given out by them.
func holdable(all []*fleetv1.Device) []*fleetv1.Device {
	cut := map[string]bool{}
	for _, d := range all {
		cut[d.GetParentId()] = true
	}
	return slices.DeleteFunc(slices.Clone(all), func(d *fleetv1.Device) bool { return cut[d.GetId()] })
}

// fixedPort is the host port that an instance holds by its spec, or 0.
func fixedPort(s *fleetv1.InstanceSpec) int32 {
	if s.GetNetwork() == fleetv1.NetworkHost && s.GetApi().GetFixedPort() {
		return s.GetApi().GetPort()
	}
	return 0
}

// count is how many of the devices the request could use.
func count(devices []*fleetv1.Device, r *Request) int {
	n := 0
	for _, d := range devices {
		if r.matches(d) {
			n++
		}
	}
	return n
}

// take gives the request's share of the node away and answers the devices.
func (n *node) take(r *Request) []string {
	n.cpu -= r.CPUMillis
	n.memory -= r.MemoryBytes
	n.disk -= r.DiskBytes
	n.services[r.Service]++
	if r.HostPort != 0 {
		n.ports[r.HostPort] = true
	}
	var ids []string
	var rest []*fleetv1.Device
	for _, d := range n.free {
		if len(ids) < r.devices() && r.matches(d) {
			ids = append(ids, d.GetId())
			continue
		}
		rest = append(rest, d)
	}
	if ids != nil {
		n.free = rest
	}
	return ids
}
