package instance

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
)

const (
	// firstCheck is how long a driver may take to say that devices are free before the instance counts as
	// reclaiming them.
	firstCheck = time.Second
	// reclaimEvery is how often devices are checked again, and laterCheck how long that may take.
	reclaimEvery = time.Second
	laterCheck   = 10 * time.Second
)

// reclaim ends the instance once its devices are free. What isn't free in time is put into quarantine, so that
// the instance can end. The time isn't journalled: after a restart of the agent it begins anew.
func (m *machine) reclaim(ctx context.Context) outcome {
	ids := m.rec.Instance.GetSpec().GetDeviceIds()
	if m.g.cfg.Reclaim == nil || len(ids) == 0 || !m.made {
		return m.conclude(nothingLeft)
	}
	m.mu.Lock()
	reclaiming := m.rec.Instance.Observed.State == fleetv1.InstanceReclaiming
	m.mu.Unlock()
	limit := firstCheck
	if reclaiming {
		limit = laterCheck
	}
	callCtx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	left := m.g.cfg.Reclaim(callCtx, ids)
	if ctx.Err() != nil {
		return again
	}
	if len(left) == 0 {
		return m.conclude(nothingLeft)
	}
	if m.reclaimUntil.IsZero() {
		m.reclaimUntil = time.Now().Add(m.g.cfg.ReclaimTimeout)
	}
	wait := time.Until(m.reclaimUntil)
	if wait <= 0 {
		m.quarantine(left)
		return m.conclude("stopped; devices that aren't free are in quarantine")
	}
	if reason := "waiting for its devices to be free: " + leftOn(left); reclaiming {
		m.explain(reason)
	} else {
		m.save(func(o *fleetv1.InstanceObserved) {
			m.reason = o.Reason
			o.State, o.Ready, o.Health, o.Pid, o.RetryTime, o.Reason = fleetv1.InstanceReclaiming, false, "", 0, nil, reason
		})
	}
	return outcome{wait: min(wait, reclaimEvery)}
}

// leftOn names what is left on devices, in the order of their IDs.
func leftOn(left map[string]string) string {
	var parts []string
	for _, id := range slices.Sorted(maps.Keys(left)) {
		parts = append(parts, fmt.Sprintf("%s: %s", id, left[id]))
	}
	return strings.Join(parts, "; ")
}

// quarantine gives devices up that aren't free.
func (m *machine) quarantine(left map[string]string) {
	for _, id := range slices.Sorted(maps.Keys(left)) {
		m.g.cfg.Quarantine(id, left[id])
		m.update(func(*fleetv1.InstanceObserved) {
			m.noteLocked(fleetv1.EventAbnormal, "DeviceQuarantined",
				fmt.Sprintf("device %s isn't free %s after the instance ended, and is quarantined: %s", id, m.g.cfg.ReclaimTimeout, left[id]))
		})
	}
}
