package api

import (
	"cmp"
	"maps"
	"slices"
	"sync"
	"time"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
	"github.com/drover-fleet/drover/scheduler/place"
	"github.com/drover-fleet/drover/scheduler/state"
)

// Bounds of what one question makes the planner do.
const (
	// plannerIdle is how long the planner's index is kept after it was last asked: it is large.
	plannerIdle = time.Minute
	// maxAhead is how many instances of a version that waits are put before others.
	maxAhead = 64
)

// planner answers what would be placed where. It has an index of its own, which follows the store while it is asked
// now and then; nothing that it plans is written.
type planner struct {
	store Store

	mu    sync.Mutex
	feed  state.Feed
	index *place.Index
	drop  *time.Timer
}

// ask calls do with a scene of the store as it is now. What do changes of the scene is undone afterwards.
func (p *planner) ask(do func(*scene)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.feed == nil {
		p.feed = p.store.Subscribe()
	}
	sets, resync, err := p.feed.Poll()
	view := p.store.View()
	if p.index == nil || resync || err != nil {
		p.index = place.NewIndex(view)
	} else {
		p.index.Refresh(view, sets)
	}
	s := &scene{ReadView: view, index: p.index, nodes: map[string]*fleetv1.Node{}, instances: map[string]*fleetv1.Instance{},
		added: map[string][]*fleetv1.Instance{}, touched: map[string]bool{}}
	do(s)
	p.index.Refresh(view, s.changes())
	if p.drop == nil {
		p.drop = time.AfterFunc(plannerIdle, p.forget)
	} else {
		p.drop.Reset(plannerIdle)
	}
}

// forget frees the index.
func (p *planner) forget() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.feed != nil {
		p.feed.Close()
	}
	p.feed, p.index = nil, nil
}

// scene is a view of the store with changes that nobody has written, and the planner's index of it.
type scene struct {
	state.ReadView
	index *place.Index

	nodes     map[string]*fleetv1.Node       // by name: as they are in the scene
	instances map[string]*fleetv1.Instance   // by ID: as they are in the scene, nil for gone
	added     map[string][]*fleetv1.Instance // by node: instances that the store doesn't have
	touched   map[string]bool                // nodes that differ from the store
}

// Node shows the scene's.
func (s *scene) Node(nameOrID string) *fleetv1.Node { return s.node(s.ReadView.Node(nameOrID)) }

func (s *scene) node(n *fleetv1.Node) *fleetv1.Node {
	if changed := s.nodes[n.GetMeta().GetName()]; changed != nil {
		return changed
	}
	return n
}

// Nodes shows the scene's.
func (s *scene) Nodes() []*fleetv1.Node { return s.allNodes(s.ReadView.Nodes()) }

// PoolNodes shows the scene's.
func (s *scene) PoolNodes(pool *fleetv1.Pool) []*fleetv1.Node {
	return s.allNodes(s.ReadView.PoolNodes(pool))
}

func (s *scene) allNodes(all []*fleetv1.Node) []*fleetv1.Node {
	for i, n := range all {
		all[i] = s.node(n)
	}
	return all
}

// Instance shows the scene's.
func (s *scene) Instance(idOrName string) *fleetv1.Instance {
	for _, i := range s.patched([]*fleetv1.Instance{s.ReadView.Instance(idOrName)}) {
		return i
	}
	return nil
}

// InstancesOnNode shows the scene's.
func (s *scene) InstancesOnNode(node string) []*fleetv1.Instance {
	return append(s.patched(s.ReadView.InstancesOnNode(node)), s.added[node]...)
}

// InstancesOfService shows the scene's, without those that the store doesn't have.
func (s *scene) InstancesOfService(id string) []*fleetv1.Instance {
	return s.patched(s.ReadView.InstancesOfService(id))
}

// InstancesOfGang shows the scene's.
func (s *scene) InstancesOfGang(id string) []*fleetv1.Instance {
	return s.patched(s.ReadView.InstancesOfGang(id))
}

// patched answers instances as they are in the scene.
func (s *scene) patched(all []*fleetv1.Instance) []*fleetv1.Instance {
	out := all[:0]
	for _, i := range all {
		if changed, ok := s.instances[i.GetMeta().GetId()]; ok {
			i = changed
		}
		if i != nil {
			out = append(out, i)
		}
	}
	return out
}

// setNode changes a node in the scene; settle makes the index see it.
func (s *scene) setNode(n *fleetv1.Node) {
	s.nodes[n.GetMeta().GetName()], s.touched[n.GetMeta().GetName()] = n, true
}

// setInstance changes an instance in the scene; settle makes the index see it.
func (s *scene) setInstance(i *fleetv1.Instance) {
	s.instances[i.GetMeta().GetId()], s.touched[i.GetSpec().GetNode()] = i, true
}

// end has an instance gone from the scene; settle makes the index see it.
func (s *scene) end(i *fleetv1.Instance) {
	s.instances[i.GetMeta().GetId()], s.touched[i.GetSpec().GetNode()] = nil, true
}

// add puts what was planned into the scene; settle makes the index see it.
func (s *scene) add(w *waiter, members []place.Member) {
	for _, m := range members {
		s.added[m.Node], s.touched[m.Node] = append(s.added[m.Node], w.instance(m)), true
	}
}

// settle brings the index up to date with the scene. What was planned before is forgotten, unless it was added.
func (s *scene) settle() { s.index.Refresh(s, s.changes()) }

func (s *scene) changes() []state.ChangeSet {
	var set state.ChangeSet
	for _, name := range slices.Sorted(maps.Keys(s.touched)) {
		set.Changes = append(set.Changes, state.Change{Key: state.Key{Kind: fleetv1.KindNode, Key: name}})
	}
	return []state.ChangeSet{set}
}

// waiter are instances of one version of a service that are to be placed.
type waiter struct {
	service *fleetv1.Service
	version *fleetv1.ServiceVersion
	request place.Request
	since   time.Time // when it began to wait
	count   int
	order   int // among those that are asked about; -1 for others

	placed [][]place.Member
}

// newWaiter is nil when the flavor or the model does not exist.
func newWaiter(view state.ReadView, service *fleetv1.Service, version *fleetv1.ServiceVersion, since time.Time) *waiter {
	flavor := view.Flavor(version.GetFlavor())
	model := view.Model(service.GetMeta().GetProject(), version.GetModel(), version.GetModelVersion())
	if flavor == nil || model == nil {
		return nil
	}
	return &waiter{service: service, version: version, since: since,
		request: place.NewRequest(service.GetMeta().GetId(), service.GetSpec(), version, flavor, model)}
}

// instance is what the planner would make of one member.
func (w *waiter) instance(m place.Member) *fleetv1.Instance {
	r := &w.request
	i := &fleetv1.Instance{Meta: &fleetv1.Meta{Id: "planned", Project: w.service.GetMeta().GetProject()}, Spec: &fleetv1.InstanceSpec{
		ServiceId: w.service.GetMeta().GetId(), ServiceName: w.service.GetMeta().GetName(), Model: w.version.GetModel(), ModelVersion: w.version.GetModelVersion(),
		Node: m.Node, DeviceIds: m.DeviceIDs, DeviceModels: m.DeviceModels, CpuMillis: r.CPUMillis, MemoryBytes: r.MemoryBytes, DiskBytes: r.DiskBytes,
		Priority: r.Priority, Preemptible: w.version.GetPreemptible(), Network: w.service.GetSpec().GetNetwork(),
	}, Desired: &fleetv1.InstanceDesired{State: fleetv1.DesiredRunning}}
	if r.HostPort > 0 {
		i.Spec.Api = &fleetv1.ModelAPI{Port: r.HostPort, FixedPort: true}
	}
	return i
}

// waiting are all instances that wait for a node now, but for those of the service with this ID.
func (s *scene) waiting(except string) []*waiter {
	var line []*waiter
	for _, service := range s.Services("") {
		if service.GetMeta().GetId() == except || service.GetDesired().GetState() != fleetv1.DesiredRunning {
			continue
		}
		for _, version := range service.GetSpec().GetVersions() {
			st := versionStatus(service, version)
			if st.GetWaitingSince() == nil || st.GetPlaced() >= version.GetInstances() {
				continue
			}
			w := newWaiter(s, service, version, st.GetWaitingSince().AsTime())
			if w == nil {
				continue
			}
			w.count, w.order = min(int(version.GetInstances()-st.GetPlaced()), maxAhead), -1
			w.keep(st)
			line = append(line, w)
		}
	}
	return line
}

// keep has the planner reserve for the waiter, if the service loop does.
func (w *waiter) keep(st *fleetv1.ServiceVersionStatus) {
	w.request.Reserved = st.GetReservation().GetNodes()
	w.request.Waited = len(w.request.Reserved) > 0
}

// versionStatus is what the service loop found of a version.
func versionStatus(service *fleetv1.Service, version *fleetv1.ServiceVersion) *fleetv1.ServiceVersionStatus {
	for _, st := range service.GetStatus().GetVersions() {
		if st.GetModel() == version.GetModel() && st.GetModelVersion() == version.GetModelVersion() {
			return st
		}
	}
	return nil
}

// inLine orders those that wait as the service loop does.
func inLine(a, b *waiter) int {
	return cmp.Or(cmp.Compare(b.request.Priority, a.request.Priority), a.since.Compare(b.since),
		cmp.Compare(a.service.GetMeta().GetName(), b.service.GetMeta().GetName()), cmp.Compare(a.order, b.order))
}

// plan plans all waiters in the service loop's order, and notes what each gets.
func (s *scene) plan(line []*waiter) {
	slices.SortStableFunc(line, inLine)
	var requests []place.Request
	for _, w := range line {
		for range w.count {
			requests = append(requests, w.request)
		}
	}
	for _, w := range line {
		if w.order < 0 && w.request.Waited { // as it is, whatever the reason that the service loop has
			s.index.Keep(&w.request, w.request.Reserved)
		}
	}
	answers := s.index.Plan(requests)
	for _, w := range line {
		w.placed = nil
		for _, a := range answers[:w.count] {
			if len(a.Members) > 0 {
				w.placed = append(w.placed, a.Members)
			}
		}
		answers = answers[w.count:]
	}
}

// units counts the instances that a service's version has and keeps: a gang is one.
func units(view state.ReadView, serviceID string, version *fleetv1.ServiceVersion) int {
	n, gangs := 0, map[string]bool{}
	for _, i := range view.InstancesOfService(serviceID) {
		s, d := i.GetSpec(), i.GetDesired()
		if s.GetModel() != version.GetModel() || s.GetModelVersion() != version.GetModelVersion() ||
			d.GetState() != fleetv1.DesiredRunning || d.GetLeave() != nil {
			continue
		}
		if id := s.GetGang().GetId(); id == "" {
			n++
		} else if !gangs[id] {
			gangs[id] = true
			n++
		}
	}
	return n
}
