package sim

import (
	"maps"
	"slices"
	"strings"
	"time"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
	"github.com/drover-fleet/drover/scheduler/state"
)

// ledger keeps account of what holds what, from the changes alone, and checks the invariants by it. It
// shares no code with the store, the planner or the loops.
type ledger struct {
	w        *world
	holders  map[held]string // instance, by device
	nodes    map[string]use
	projects map[string]*state.Usage
	services map[string]*account // by ID
	cleared  map[string]clearing // by node
	// What the present step has touched.
	touched map[string]*unit
	seen    uint64         // strict services that were placed, of which a sample is checked
	effects map[string]int // how often each request changed something
}

type held struct{ node, device string }

// clearing is for whom instances were last preempted on a node.
type clearing struct {
	by       *account
	priority int32
	at       time.Time
}

// use is what instances hold of a node.
type use struct{ cpu, memory, instances int64 }

// account is what the ledger knows of one service, which has one version.
type account struct {
	id        string
	svc       *fleetv1.Service // nil when it is gone
	units     map[string]*unit // by ID of the gang or single instance
	count     int              // instances in the store
	since     []time.Time      // of each instance that is missing
	failed    time.Time        // when an instance gave up last
	moved     time.Time        // when it changed last
	room      time.Time        // when a check found room for what is missing, while the loops paused before they plan again
	preempted int              // how many of its instances were
	quota     bool             // what is missing has waited for the project's quota
}

// unit is one logical instance.
type unit struct {
	id       string
	of       *account
	made     uint64 // the entry that placed it
	size     int
	gang     bool
	members  map[string]*fleetv1.Instance
	staying  int
	ranks    map[int32]bool
	reported bool // a fault was noted
}

func newLedger(w *world) *ledger {
	return &ledger{w: w, holders: map[held]string{}, nodes: map[string]use{}, projects: map[string]*state.Usage{},
		services: map[string]*account{}, cleared: map[string]clearing{}, touched: map[string]*unit{}, effects: map[string]int{}}
}

func (l *ledger) account(id string) *account {
	a := l.services[id]
	if a == nil {
		a = &account{id: id, units: map[string]*unit{}}
		l.services[id] = a
	}
	return a
}

// holds says that the instance has its share of its node.
func holds(i *fleetv1.Instance) bool {
	return i != nil && i.GetObserved().GetState() != fleetv1.InstanceReaped
}

// stays says that the instance is one that its service counts on.
func stays(i *fleetv1.Instance) bool {
	return i.GetDesired().GetState() == fleetv1.DesiredRunning && i.GetDesired().GetLeave() == nil
}

// applied takes in what a command did.
func (l *ledger) applied(cmd *fleetv1.Command, result state.Result, sets []state.ChangeSet) {
	if plan := cmd.GetPlan(); plan != nil {
		l.planned(plan, result)
	}
	if id := cmd.GetRequestId(); id != "" && len(sets) > 0 {
		l.effects[id]++
	}
	var placed []*fleetv1.Instance
	for _, set := range sets {
		for _, c := range set.Changes {
			switch c.Key.Kind {
			case fleetv1.KindService:
				l.service(c.Before.GetService(), c.After.GetService())
			case fleetv1.KindInstance:
				if c.Before == nil {
					placed = append(placed, c.After.GetInstance())
				}
				l.instance(c.Before.GetInstance(), c.After.GetInstance())
			}
		}
	}
	if len(placed) > 0 {
		l.placed(placed, len(result.Rejections) > 0)
	}
}

// planned checks what a plan was refused for, and whom it preempts.
func (l *ledger) planned(plan *fleetv1.Plan, result state.Result) {
	refused := map[int]bool{}
	for _, r := range result.Rejections {
		refused[r.Part] = true
		switch r.Reason {
		case state.RejectInUse, state.RejectCapacity, state.RejectUnfit, state.RejectExists, state.RejectInvalid, state.RejectNotFound:
			l.w.fault("the store refused what the planner had just planned: %s: %s", r.Reason, r.Detail)
		}
	}
	for i, p := range plan.GetParts() {
		if refused[i] {
			continue
		}
		svc := l.account(p.GetServiceId()).svc
		for _, v := range p.GetPreemptions() {
			victim := l.w.store.View().Instance(v.GetInstanceId())
			l.account(victim.GetSpec().GetServiceId()).preempted++
			l.w.meter.r.MostPreempted = max(l.w.meter.r.MostPreempted, l.account(victim.GetSpec().GetServiceId()).preempted)
			most := int32(0)
			for _, one := range svc.GetSpec().GetVersions() {
				most = max(most, one.GetPriority())
			}
			l.cleared[victim.GetSpec().GetNode()] = clearing{l.account(p.GetServiceId()), most, l.w.now}
			if !victim.GetSpec().GetPreemptible() || victim.GetSpec().GetPriority() >= most {
				l.w.fault("service %s of priority %d preempted %s of priority %d (preemptible: %t)", svc.GetMeta().GetName(), most,
					victim.GetMeta().GetName(), victim.GetSpec().GetPriority(), victim.GetSpec().GetPreemptible())
			}
		}
	}
}

func (l *ledger) service(before, after *fleetv1.Service) {
	id := before.GetMeta().GetId()
	if after != nil {
		id = after.GetMeta().GetId()
	}
	a := l.account(id)
	a.svc, a.moved = after, l.w.now
	for _, v := range after.GetStatus().GetVersions() {
		a.quota = a.quota || strings.HasPrefix(v.GetWaitingReason(), "quota ")
	}
	if after == nil && a.count == 0 {
		delete(l.services, id)
		return
	}
	l.missing(a, false)
}

// instance moves what an instance holds, and its unit.
func (l *ledger) instance(before, after *fleetv1.Instance) {
	i := after
	if i == nil {
		i = before
	}
	a := l.account(i.GetSpec().GetServiceId())
	a.moved = l.w.now
	if before == nil {
		a.count++
	}
	if holds(before) != holds(after) {
		l.hold(i, holds(after))
	}
	if after.GetObserved().GetState() == fleetv1.InstanceFailed && before.GetObserved().GetState() != fleetv1.InstanceFailed {
		a.failed = l.w.now
	}
	u := l.unit(a, i)
	was := u.staying == u.size
	if before != nil && stays(before) {
		u.staying--
	}
	if after != nil && stays(after) {
		u.staying++
	}
	if after == nil {
		delete(u.members, i.GetMeta().GetId())
		if a.count--; len(u.members) == 0 {
			delete(a.units, u.id)
		}
	} else {
		u.members[i.GetMeta().GetId()] = after
		u.ranks[i.GetSpec().GetGang().GetRank()] = true
	}
	if u.gang {
		l.touched[u.id] = u
	}
	if was != (u.staying == u.size) {
		l.missing(a, u.staying == u.size && u.made == l.w.log.index)
	}
	if a.svc == nil && a.count == 0 {
		delete(l.services, a.id)
	}
}

func (l *ledger) unit(a *account, i *fleetv1.Instance) *unit {
	id, gang := i.GetMeta().GetId(), i.GetSpec().GetGang()
	size := 1
	if gang != nil {
		id, size = gang.GetId(), int(gang.GetSize())
	}
	u := a.units[id]
	if u == nil {
		u = &unit{id: id, of: a, made: l.w.log.index, size: size, gang: gang != nil, members: map[string]*fleetv1.Instance{}, ranks: map[int32]bool{}}
		a.units[id] = u
	}
	return u
}

// missing brings the list of what is missing up to date; placed says that an instance has just been placed.
func (l *ledger) missing(a *account, placed bool) {
	want := 0
	if a.svc.GetDesired().GetState() == fleetv1.DesiredRunning {
		for _, v := range a.svc.GetSpec().GetVersions() {
			want += int(v.GetInstances())
		}
	}
	for _, u := range a.units {
		if u.staying == u.size {
			want--
		}
	}
	for len(a.since) < want {
		a.since = append(a.since, l.w.now)
	}
	for len(a.since) > max(want, 0) {
		if placed {
			l.w.meter.waited(a.svc, l.w.now.Sub(a.since[0]), a.quota)
			placed = false
		}
		a.since = a.since[1:]
	}
	a.quota = a.quota && len(a.since) > 0
}

// hold gives the instance its share, or takes it back.
func (l *ledger) hold(i *fleetv1.Instance, has bool) {
	s, sign := i.GetSpec(), int64(1)
	if !has {
		sign = -1
	}
	for _, d := range s.GetDeviceIds() {
		key := held{s.GetNode(), d}
		if holder := l.holders[key]; has && holder != "" {
			l.w.fault("device %s of %s has two holders: %s and %s", d, s.GetNode(), holder, i.GetMeta().GetId())
		}
		if has {
			l.holders[key] = i.GetMeta().GetId()
		} else {
			delete(l.holders, key)
		}
	}
	n := l.nodes[s.GetNode()]
	n.cpu, n.memory, n.instances = n.cpu+sign*s.GetCpuMillis(), n.memory+sign*s.GetMemoryBytes(), n.instances+sign
	l.nodes[s.GetNode()] = n
	p := l.projects[i.GetMeta().GetProject()]
	if p == nil {
		p = &state.Usage{Devices: map[string]int64{}}
		l.projects[i.GetMeta().GetProject()] = p
	}
	p.CPUMillis, p.MemoryBytes, p.Instances = p.CPUMillis+sign*s.GetCpuMillis(), p.MemoryBytes+sign*s.GetMemoryBytes(), p.Instances+sign
	for _, m := range s.GetDeviceModels() {
		p.Devices[m] += sign
	}
}

// quiet checks what must be so whenever the loops have nothing to do.
func (l *ledger) quiet() {
	for _, id := range slices.Sorted(maps.Keys(l.touched)) {
		u := l.touched[id]
		if u.of.count < bigService && !u.reported {
			l.whole(u)
		}
	}
	clear(l.touched)
}

// bigService is how many instances a service has that the loops don't look at after each change.
const bigService = 500

// whole checks that a gang is to run as a whole, or not at all.
func (l *ledger) whole(u *unit) {
	running, gone, failed := 0, u.size-len(u.members), 0
	for _, i := range u.members {
		switch {
		case i.GetDesired().GetState() != fleetv1.DesiredRunning:
			gone++
		case i.GetObserved().GetState() == fleetv1.InstanceFailed:
			failed++
		default:
			running++
		}
	}
	if running > 0 && gone+failed > 0 {
		u.reported = true
		l.w.fault("gang %s of service %s: %d members are to run, %d failed, %d are to stop or gone", u.id, u.of.svc.GetMeta().GetName(), running, failed, gone)
	}
}
