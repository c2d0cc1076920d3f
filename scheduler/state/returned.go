package state

import (
	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
)

// ReasonUnconfirmed is the reason of an instance that Unconfirmed took the readiness from.
const ReasonUnconfirmed = "its node has not reported it yet since it is back"

// Unconfirmed are the mutations for the write by which a node counts as alive again, or as rebooted: what it has
// reported as ready is not, until it says so anew. What was reported before the node was lost, or before its host
// was booted, and is only now in the log, is behind that write or before it, and so brings no endpoint back.
func Unconfirmed(view ReadView, node string) []*fleetv1.Mutation {
	var out []*fleetv1.Mutation
	for _, i := range view.InstancesOnNode(node) {
		if !i.GetObserved().GetReady() {
			continue
		}
		observed := shallow(i.GetObserved())
		observed.Ready, observed.Health, observed.Reason = false, "", ReasonUnconfirmed
		out = append(out, Put(i.GetMeta().GetRevision(), &fleetv1.Instance{Meta: i.GetMeta(), Spec: i.GetSpec(), Desired: i.GetDesired(), Observed: observed}))
	}
	return out
}

// RemovalsHeld says that the cluster was restored from a backup and no operator has confirmed yet what nodes would
// remove: the leader's loops place, stop and move nothing.
func RemovalsHeld(view ReadView) bool {
	return view.Cluster().GetRestoreEpoch() > view.Cluster().GetRemovalsConfirmed()
}
