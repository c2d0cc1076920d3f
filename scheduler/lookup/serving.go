package lookup

import (
	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
	"github.com/drover-fleet/drover/scheduler/state"
)

// meantToServe says that an instance is to be called if its node and devices are well.
func meantToServe(i *fleetv1.Instance) bool {
	return i.GetDesired().GetState() == fleetv1.DesiredRunning && i.GetObserved().GetReady()
}

// servingMembers counts the members that serve, by gang.
func (t *Table) servingMembers(view state.ReadView, all []*fleetv1.Instance) map[string]int32 {
	var n map[string]int32
	for _, i := range all {
		if g := i.GetSpec().GetGang(); g != nil && t.serves(view, i) {
			if n == nil {
				n = map[string]int32{}
			}
			n[g.GetId()]++
		}
	}
	return n
}

func (t *Table) serves(view state.ReadView, i *fleetv1.Instance) bool {
	node := i.GetSpec().GetNode()
	return wanted(i) && t.cfg.LeaseValid(node) && state.FailedDevice(view.Node(node), i) == ""
}
