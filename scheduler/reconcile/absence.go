package reconcile

import (
	"time"

	"google.golang.org/protobuf/proto"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
)

// fenceSlack is how much later than its agent's own time an instance that is not kept is replaced, and fenceRate by
// which part of that time more: see the package's doc.
const (
	fenceSlack = 30 * time.Second
	fenceRate  = 500
)

// policyOf says what becomes of the service's instances on nodes that are cut off, with the defaults filled in.
func policyOf(svc *fleetv1.Service) *fleetv1.OnDisconnect {
	p := &fleetv1.OnDisconnect{ReplaceAfterSeconds: proto.Int32(int32(defaultReplace / time.Second)), Keep: proto.Bool(true)}
	if spec := svc.GetSpec(); spec != nil && spec.RescheduleAfterSeconds != nil {
		p.ReplaceAfterSeconds = spec.RescheduleAfterSeconds
	}
	proto.Merge(p, svc.GetSpec().GetOnDisconnect())
	return p
}

// patience is how long an instance on an unreachable node is waited for before it is replaced, if it is kept.
func patience(svc *fleetv1.Service) time.Duration {
	return time.Duration(policyOf(svc).GetReplaceAfterSeconds()) * time.Second
}

// lost says whether an instance on an unreachable node is to be replaced by now. One that its agent stops goes by what
// the agent was told, and by for how long this leader itself has seen the node away.
func (c *counting) lost(node *fleetv1.Node, inst *fleetv1.Instance) bool {
	p := inst.GetSpec().GetOnDisconnect()
	if p == nil || p.Keep == nil || p.GetKeep() {
		return c.away(node, patience(c.svc))
	}
	after := defaultReplace
	if p.ReplaceAfterSeconds != nil {
		after = time.Duration(p.GetReplaceAfterSeconds()) * time.Second
	}
	after += time.Duration(inst.GetSpec().GetGracePeriodSeconds()) * time.Second
	return c.passed(c.gone.since(node, c.now).Add(after + after/fenceRate + fenceSlack))
}

// absences are since when this leader has seen nodes unreachable, by its own clock: another scheduler's may be off.
type absences map[string]absence

type absence struct {
	told  time.Time // of the node's state, which tells one absence from the next
	since time.Time
}

func (a absences) since(node *fleetv1.Node, now time.Time) time.Time {
	name, told := node.GetMeta().GetName(), node.GetStatus().GetStateTime().AsTime()
	if known, ok := a[name]; ok && known.told.Equal(told) {
		return known.since
	}
	a[name] = absence{told, now}
	return now
}
