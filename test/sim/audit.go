package sim

import (
	"maps"
	"slices"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
	"github.com/drover-fleet/drover/scheduler/state"
)

// checkAll checks everything. The loops must have nothing to do.
func (w *world) checkAll() {
	w.meter.checks++
	w.audit()
	w.ledger.checkServices(w.store.View())
	w.ledger.checkWaiting()
}

// audit compares the ledger with the store's instances and with what the store has summed up.
func (w *world) audit() {
	view := w.store.View()
	fresh := newLedger(w)
	for _, i := range view.Instances() {
		if holds(i) {
			fresh.hold(i, true) // which finds two holders
		}
	}
	for _, key := range slices.SortedFunc(maps.Keys(fresh.holders), heldBefore) {
		id := fresh.holders[key]
		if holder := view.DeviceHolder(key.node, key.device); holder.GetMeta().GetId() != id || w.ledger.holders[key] != id {
			w.fault("device %s of %s is held by %s, says its instance; the store says %q, the ledger %q", key.device, key.node, id,
				holder.GetMeta().GetId(), w.ledger.holders[key])
		}
	}
	if len(fresh.holders) != len(w.ledger.holders) {
		w.fault("%d devices are held, the ledger has %d", len(fresh.holders), len(w.ledger.holders))
	}
	for _, a := range w.agents {
		sum, n := view.Allocated(a.name), fresh.nodes[a.name]
		if own := w.ledger.nodes[a.name]; own != n || sum.CPUMillis != n.cpu || sum.MemoryBytes != n.memory || sum.Instances != n.instances {
			w.fault("node %s: instances hold %+v, the store has %+v, the ledger %+v", a.name, n, sum, own)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(w.ledger.projects)) {
		sum, own := view.ProjectUsage(name), fresh.projects[name]
		if own == nil {
			own = &state.Usage{}
		}
		if sum.CPUMillis != own.CPUMillis || sum.MemoryBytes != own.MemoryBytes || sum.Instances != own.Instances || sum.Matching("*") != own.Matching("*") {
			w.fault("project %s: instances hold %+v, the store has %+v", name, *own, sum)
		}
	}
}

func heldBefore(a, b held) int {
	switch {
	case a.node < b.node || a.node == b.node && a.device < b.device:
		return -1
	case a == b:
		return 0
	}
	return 1
}

// checkServices finds gangs that are not whole, and instances of services that are gone.
func (l *ledger) checkServices(view state.ReadView) {
	for _, id := range slices.Sorted(maps.Keys(l.services)) {
		a := l.services[id]
		if got := len(view.InstancesOfService(id)); got != a.count {
			l.w.fault("service %s has %d instances, the ledger %d", a.svc.GetMeta().GetName(), got, a.count)
		}
		for _, u := range slices.Sorted(maps.Keys(a.units)) {
			if a.units[u].gang && !a.units[u].reported && a.count < bigService {
				l.whole(a.units[u])
			}
		}
		if a.svc == nil {
			for _, i := range view.InstancesOfService(id) {
				if i.GetDesired().GetState() == fleetv1.DesiredRunning && l.w.now.Sub(a.moved) > lease {
					l.w.fault("instance %s is to run, and its service is gone", i.GetMeta().GetName())
				}
			}
		}
	}
}
