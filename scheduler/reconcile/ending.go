package reconcile

import (
	"fmt"
	"strings"
	"time"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
	"github.com/drover-fleet/drover/scheduler/state"
)

// stopSlack is how much longer than its own withdrawal and grace the stop of an instance may take before
// the service is said to have failed to stop.
const stopSlack = 30 * time.Second

// ending says what a stop or deletion still waits for, and tells when that takes too long.
func (s *statusStep) ending(view state.ReadView) string {
	away := map[string]bool{}
	var late, checked []string
	seen := map[string]time.Time{}
	for _, inst := range s.c.ending {
		id, node := inst.GetMeta().GetId(), inst.GetSpec().GetNode()
		if view.Node(node).GetStatus().GetState() != fleetv1.NodeReady {
			away[node] = true
			continue
		}
		since, ok := s.m.stopping[id]
		if !ok {
			since = s.now
		}
		seen[id] = since
		if inst.GetObserved().GetState() == fleetv1.InstanceReclaiming { // its agent sets the time limit
			checked = append(checked, fmt.Sprintf("%s on %s", inst.GetMeta().GetName(), node))
			continue
		}
		limit := time.Duration(inst.GetSpec().GetWithdrawSeconds()+inst.GetSpec().GetGracePeriodSeconds())*time.Second + stopSlack
		if at := since.Add(limit); s.now.Before(at) {
			s.wakeAt(s.svc.GetMeta().GetId(), at)
			continue
		}
		late = append(late, fmt.Sprintf("instance %s on %s has not ended within %s", inst.GetMeta().GetName(), node, limit))
	}
	s.m.stopping = seen
	reason := count(s.c.left(), "instance is", "instances are") + " left"
	if len(away) > 0 {
		reason += "; unreachable: " + strings.Join(sortedKeys(away), ", ")
	}
	if len(checked) > 0 {
		reason += "; waiting for devices to be free again: " + strings.Join(checked, ", ")
	}
	if len(late) > 0 {
		what := strings.Join(late, ", ")
		reason += "; " + what
		if !strings.Contains(s.svc.GetStatus().GetReason(), what) {
			s.event(fleetv1.EventAbnormal, "StopFailed", what+"; it is still being tried")
		}
	}
	return reason
}

// part tells of the instances that the service leaves behind.
func (s *statusStep) part() {
	if reason := s.partedReason(); reason != "" {
		s.event(fleetv1.EventAbnormal, "StopFailed", reason)
	}
}

// partedReason says which instances the service no longer waits for; empty when there are none.
func (s *statusStep) partedReason() string {
	if len(s.c.parted) == 0 {
		return ""
	}
	nodes := map[string]bool{}
	for _, inst := range s.c.parted {
		nodes[inst.GetSpec().GetNode()] = true
	}
	return fmt.Sprintf("%s when the node is back: %s", count(len(s.c.parted), "instance ends", "instances end"), strings.Join(sortedKeys(nodes), ", "))
}

func count(n int, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, many)
}
