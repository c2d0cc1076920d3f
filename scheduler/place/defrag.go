package place

import (
	"cmp"
	"fmt"
	"slices"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
	"github.com/drover-fleet/drover/scheduler/state"
)

// DefragRequest asks which moves of instances would make room.
type DefragRequest struct {
	// Pool is whose nodes are looked at; empty for all.
	Pool string
	// Flavor is what room is made for, one node's share of it; its Pool is not looked at. nil for whole nodes:
	// such as have no device held, or no instance where there are no devices.
	Flavor *Request
	// MaxMoves bounds the moves; 0 for none at all.
	MaxMoves int
	// StartMillis answers how long an instance took to start last, 0 when unknown. May be nil.
	StartMillis func(*fleetv1.Instance) int64
}

// DefragPlan says which moves make how much room. Moves are to be made in the order of the steps; a step
// makes room by itself, with those before it.
type DefragPlan struct {
	Steps []DefragStep
	// For how many instances of the flavor, or how many whole nodes, there is room before and after all steps.
	RoomBefore, RoomAfter int
	// Notes say what was not considered, a line each.
	Notes []string
}

// DefragStep opens a node or some devices of it.
type DefragStep struct {
	Node string
	// DeviceIDs are free together after the moves.
	DeviceIDs []string
	Moves     []Move
}

// Move is an instance that is replaced on another node.
type Move struct {
	InstanceID, Source, Target string
	// What it costs: devices whose work is interrupted, whether the target has the image, and how long the
	// last start took.
	Devices      int
	ImagePresent bool
	StartMillis  int64
}

// defrag makes a DefragPlan.
type defrag struct {
	index    *Index
	ask      DefragRequest
	suppose  *supposition
	nodes    []*node
	fits     map[*topology]*fit // of the flavor
	closed   map[*node]vacancy  // nodes to which nothing is moved: what is free there
	moved    map[string]bool
	requests map[replacement]*Request
	trials   int
	plan     DefragPlan
}

// replacement is what requests for the replacements of instances depend on.
type replacement struct{ service, model, version string }

// opening is a node that moves could open.
type opening struct {
	node  *node
	moves []*fleetv1.Instance
	merit float64 // what is gained by what it costs, or more
	steps int     // how many there were when merit was found by planning; -1 when it was not
}

// maxTrials bounds how many openings are planned.
const maxTrials = 4096

// Defrag says which moves make room, the most for what they cost first, until MaxMoves are made or nothing more
// is gained. Every target was planned, with what the moves before it take, and while nothing has left its node:
// so that all may be ordered at once. Nothing is moved onto a node that is being opened, nor so that room is
// lost. Single instances that run are moved, and neither gangs nor what leaves or stops already. The index stays
// as it is.
func (x *Index) Defrag(ask DefragRequest) DefragPlan {
	x.arrange()
	x.trim()
	d := &defrag{index: x, ask: ask, suppose: x.suppose(), fits: map[*topology]*fit{}, closed: map[*node]vacancy{},
		moved: map[string]bool{}, requests: map[replacement]*Request{}}
	defer d.suppose.undo()
	var p *pool
	if ask.Pool != "" {
		if p = x.pool(ask.Pool); p == nil {
			d.plan.Notes = []string{fmt.Sprintf("there is no pool %q", ask.Pool)}
			return d.plan
		}
	}
	for _, n := range x.slots {
		if p == nil || p.has(n) {
			d.nodes = append(d.nodes, n)
		}
	}
	d.open()
	d.note()
	return d.plan
}

// open makes the steps.
func (d *defrag) open() {
	for _, n := range d.nodes {
		room := d.room(n)
		d.plan.RoomBefore += room
		if room > 0 && d.ask.Flavor == nil {
			d.close(d.suppose, n)
		}
	}
	d.plan.RoomAfter = d.plan.RoomBefore
	var all []*opening
	for _, n := range d.nodes {
		if o := d.opening(n); o != nil {
			all = append(all, o)
		}
	}
	left := d.ask.MaxMoves
	for len(all) > 0 && d.trials < maxTrials {
		at, next := bestOf(all)
		best := all[at]
		drop := func() {
			last := len(all) - 1
			all[at], all = all[last], all[:last]
		}
		if len(best.moves) > left {
			drop()
			continue
		}
		t := d.try(best)
		if t == nil {
			drop()
			continue
		}
		if merit := d.merit(best, t.step.Moves); merit < next && best.steps != len(d.plan.Steps) {
			d.revert(t)
			best.merit, best.steps = merit, len(d.plan.Steps)
			continue
		}
		d.accept(t)
		left -= len(t.step.Moves)
		drop()
		if o := d.opening(best.node); o != nil {
			all = append(all, o)
		}
	}
}

// bestOf is the place of the opening with the most merit, the first by name of equals, and the merit of the
// next; below 0 when there is none.
func bestOf(all []*opening) (at int, next float64) {
	next = -1
	for i, o := range all {
		switch best := all[at]; {
		case i == 0:
		case o.merit > best.merit || o.merit == best.merit && o.node.slot < best.node.slot:
			at, next = i, best.merit
		default:
			next = max(next, o.merit)
		}
	}
	return at, next
}

// close keeps moves away from a node.
func (d *defrag) close(s *supposition, n *node) {
	if _, ok := d.closed[n]; !ok {
		d.closed[n] = vacancy{n.cpu, n.memory, n.disk, n.free, 0}
		s.close(n)
	}
}

// free is what is free on a node.
func (d *defrag) free(n *node) vacancy {
	if v, ok := d.closed[n]; ok {
		return v
	}
	return vacancy{n.cpu, n.memory, n.disk, n.free, 0}
}

func (d *defrag) fit(n *node) *fit {
	f := d.fits[n.topology]
	if f == nil {
		f = newFit(n.topology, d.ask.Flavor)
		d.fits[n.topology] = f
	}
	return f
}

// room is for how many of the flavor a node has room, or 1 when it is wholly free.
func (d *defrag) room(n *node) int {
	rooms, _ := d.rooms(n, d.free(n), -1)
	return rooms
}

// rooms is room where so much is free. rest is what then is left after at most so many, below 0 after all.
func (d *defrag) rooms(n *node, v vacancy, most int) (rooms int, rest vacancy) {
	r := d.ask.Flavor
	switch {
	case !n.open:
		return 0, v
	case r != nil:
	case n.topology.all.empty():
		if v.cpu == n.total.CPUMillis && v.memory == n.total.MemoryBytes {
			return 1, v
		}
		return 0, v
	case v.devices == n.usable && !n.usable.empty():
		return 1, v
	default:
		return 0, v
	}
	if !r.runsOn(n.arch) {
		return 0, v
	}
	e := eviction{request: &Request{CPUMillis: max(r.CPUMillis, 1), MemoryBytes: r.MemoryBytes, DiskBytes: r.DiskBytes}, fit: d.fit(n), disk: n.total.DiskBytes}
	for rooms != most && e.takes(&v) {
		v.devices = v.devices.without(e.fit.choose(v.devices, n.last))
		v.cpu, v.memory, v.disk = v.cpu-e.request.CPUMillis, v.memory-r.MemoryBytes, v.disk-r.DiskBytes
		rooms++
	}
	return rooms, v
}

// opening answers whose moves would make room on the node, nil when none would.
func (d *defrag) opening(n *node) *opening {
	o := &opening{node: n, steps: -1}
	if !n.open || d.ask.Flavor == nil && d.room(n) > 0 {
		return nil
	}
	if d.ask.Flavor == nil {
		for _, i := range d.index.view.InstancesOnNode(n.name) {
			if d.moved[i.GetMeta().GetId()] || !state.Holds(i) || !n.topology.all.empty() && n.held(i).and(n.usable).empty() {
				continue
			}
			if d.request(i) == nil {
				return nil
			}
			o.moves = append(o.moves, i)
		}
	} else {
		o.moves = d.fewest(n)
	}
	if len(o.moves) == 0 || len(o.moves) > d.ask.MaxMoves {
		return nil
	}
	slices.SortStableFunc(o.moves, func(a, b *fleetv1.Instance) int {
		return cmp.Or(cmp.Compare(len(b.GetSpec().GetDeviceIds()), len(a.GetSpec().GetDeviceIds())), cmp.Compare(b.GetSpec().GetCpuMillis(), a.GetSpec().GetCpuMillis()),
			cmp.Compare(a.GetMeta().GetId(), b.GetMeta().GetId()))
	})
	o.merit = d.merit(o, nil)
	return o
}

// fewest are the fewest instances without which there is room for one more of the flavor.
func (d *defrag) fewest(n *node) []*fleetv1.Instance {
	r := d.ask.Flavor
	if !r.runsOn(n.arch) {
		return nil
	}
	_, rest := d.rooms(n, d.free(n), -1)
	e := &eviction{request: &Request{CPUMillis: r.CPUMillis, MemoryBytes: r.MemoryBytes, DiskBytes: r.DiskBytes}, fit: d.fit(n), disk: n.total.DiskBytes, base: rest}
	for _, i := range d.index.view.InstancesOnNode(n.name) {
		if !d.moved[i.GetMeta().GetId()] && state.Holds(i) && d.request(i) != nil {
			e.units = append(e.units, unit{toll{i}, *d.share(n, i)})
		}
	}
	t, ok := e.solve(d.ask.MaxMoves)
	if !ok {
		return nil
	}
	return t
}

// request is what a replacement of the instance would ask for; nil when it is not to be moved.
func (d *defrag) request(i *fleetv1.Instance) *Request {
	s := i.GetSpec()
	if s.GetGang() != nil || !counts(i) || i.GetObserved().GetState() != fleetv1.InstanceRunning {
		return nil
	}
	key := replacement{s.GetServiceId(), s.GetModel(), s.GetModelVersion()}
	r, ok := d.requests[key]
	if !ok {
		r = d.makeRequest(key)
		d.requests[key] = r
	}
	return r
}

func (d *defrag) makeRequest(key replacement) *Request {
	view := d.index.view
	svc := view.ServiceByID(key.service)
	if svc.GetDesired().GetState() != fleetv1.DesiredRunning {
		return nil
	}
	for _, v := range svc.GetSpec().GetVersions() {
		if v.GetModel() != key.model || v.GetModelVersion() != key.version || v.GetNodes() > 1 {
			continue
		}
		flavor, model := view.Flavor(v.GetFlavor()), view.Model(svc.GetMeta().GetProject(), key.model, key.version)
		if flavor == nil || model == nil {
			return nil
		}
		r := NewRequest(key.service, svc.GetSpec(), v, flavor, model)
		return &r
	}
	return nil
}

// merit is what an opening gains by what it costs: the devices that it opens, by the devices whose work is
// interrupted, each start of a minute and each image that has to be pulled as much as one. Where the moves
// go is not known before they are planned.
func (d *defrag) merit(o *opening, planned []Move) float64 {
	cost := 0.0
	for at, i := range o.moves {
		cost += float64(max(len(i.GetSpec().GetDeviceIds()), 1)) + float64(d.start(i))/60_000
		if planned != nil && !planned[at].ImagePresent {
			cost++
		}
	}
	gain := 1
	if d.ask.Flavor == nil {
		gain = max(o.node.usable.count(), 1)
	}
	return float64(gain) / cost
}

func (d *defrag) start(i *fleetv1.Instance) int64 {
	if d.ask.StartMillis == nil {
		return 0
	}
	return d.ask.StartMillis(i)
}

// note counts who was not considered.
func (d *defrag) note() {
	gangs, others := 0, 0
	for _, n := range d.nodes {
		for _, i := range d.index.view.InstancesOnNode(n.name) {
			switch {
			case !state.Holds(i) || d.request(i) != nil:
			case i.GetSpec().GetGang() != nil:
				gangs++
			default:
				others++
			}
		}
	}
	if gangs > 0 {
		d.plan.Notes = append(d.plan.Notes, fmt.Sprintf("%d %s of gangs %s not moved", gangs, plural(gangs, "member", "members"), plural(gangs, "is", "are")))
	}
	if others > 0 {
		d.plan.Notes = append(d.plan.Notes, fmt.Sprintf("%d %s not moved: %s not running, or on the way out", others, plural(others, "instance is", "instances are"), plural(others, "it is", "they are")))
	}
}
