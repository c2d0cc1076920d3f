package devices

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
)

// A device's memory is back at its baseline when it uses no more than slack above the least that was seen while
// nobody held it. Where that was never seen, a share of the memory is allowed for what drivers keep to
// themselves, which on Ascend is some gigabytes.
const (
	memorySlack    = 256 << 20
	allowanceShare = 10
	leastAllowance = 512 << 20
)

// mostNamed is how many processes a reason names.
const mostNamed = 3

// Follower is a Backend that wants to know which devices are in use; the registry tells it before each Sample.
type Follower interface {
	SetHeld(held map[string]bool)
}

// Reclaim asks the drivers for figures that are newer than the call, and answers why devices are not free again,
// by ID: empty when all are. Their holder must have ended what it ran. A device is free when no process
// is on it but those that were on it while nobody held it, and its memory is back at its baseline; a figure that its
// driver never had is not held against it.
// A device that is lost, or that no driver lists, has nothing left to free; one whose driver doesn't answer
// before ctx ends isn't known to be free.
func (r *Registry) Reclaim(ctx context.Context, ids []string) map[string]string {
	held, ask := r.held(), map[string]bool{}
	r.mu.Lock()
	for _, id := range ids {
		if holder := held[id]; holder != "" {
			r.reclaiming[id] = holder
		}
		if d, known := r.devices[id]; known && r.judgedLocked(d).Health != fleetv1.Lost {
			ask[d.Vendor] = true
		}
	}
	r.mu.Unlock()
	silent := map[string]error{}
	for _, v := range r.vendors {
		if ask[v.name] {
			silent[v.name] = v.refresh(ctx)
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	used := map[string]string{}
	for _, id := range ids {
		d, known := r.devices[id]
		why := ""
		switch {
		case !known && len(r.discovered) < len(r.vendors):
			why = "no driver has told of it yet"
		case !known, r.judgedLocked(d).Health == fleetv1.Lost:
		case silent[d.Vendor] != nil:
			why = silent[d.Vendor].Error()
		default:
			why = r.usedLocked(d)
		}
		if why != "" {
			used[id] = why
		}
	}
	return used
}

// Quarantine is why a device is kept out of use.
type Quarantine struct {
	Reason string
	// LimitBytes of its memory may be in use when it is free; 0: not known.
	LimitBytes int64
}

// Quarantine keeps a device out of use until a later check finds it free. It may be said before Run, of what an
// earlier agent knew. Without a limit, the one that is known now is kept with it.
func (r *Registry) Quarantine(id string, q Quarantine) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if d, known := r.devices[id]; known && q.LimitBytes == 0 {
		q.LimitBytes = r.limitLocked(d)
	}
	r.quarantined[id] = q
	tell(r.changed)
}

// Quarantined answers the devices in quarantine.
func (r *Registry) Quarantined() map[string]Quarantine {
	r.mu.Lock()
	defer r.mu.Unlock()
	return maps.Clone(r.quarantined)
}

func (r *Registry) held() map[string]string {
	if r.Held == nil {
		return nil
	}
	return r.Held()
}

// busy answers the devices whose holder still works on them.
func (r *Registry) busy() map[string]bool {
	held, busy := r.held(), map[string]bool{}
	r.mu.Lock()
	defer r.mu.Unlock()
	for id, holder := range held {
		busy[id] = r.reclaiming[id] != holder
	}
	maps.DeleteFunc(r.reclaiming, func(id, holder string) bool { return held[id] != holder })
	return busy
}

// usedLocked answers what is left on a device, by its last reading.
func (r *Registry) usedLocked(d Device) string {
	reading, known := r.readings[d.ID]
	if !known || reading.Time.IsZero() {
		return "it can't be measured"
	}
	if reading.Processes == nil && r.residents[d.ID] != nil {
		return "its processes, which the driver could list before, can't be listed"
	}
	left := slices.DeleteFunc(slices.Clone(reading.Processes), func(p Process) bool { return r.residents[d.ID][p.PID] })
	if len(left) > 0 {
		return processesLeft(left)
	}
	if _, seen := r.baseline[d.ID]; seen && reading.MemoryUsedBytes == nil {
		return "its use of memory, which the driver could tell before, can't be measured"
	}
	limit := r.limitLocked(d)
	if used := reading.MemoryUsedBytes; used != nil && *used > limit {
		by := "without a process"
		if len(reading.Processes) > 0 {
			by = "with no process but the host's own"
		}
		return fmt.Sprintf("%d MiB of its memory are in use %s; idle it uses at most %d MiB", *used>>20, by, limit>>20)
	}
	return ""
}

func processesLeft(all []Process) string {
	var pids []string
	for _, p := range all[:min(len(all), mostNamed)] {
		pids = append(pids, fmt.Sprint(p.PID))
	}
	switch more := len(all) - len(pids); {
	case len(all) == 1:
		return fmt.Sprintf("process %s still uses it", pids[0])
	case more > 0:
		return fmt.Sprintf("processes %s and %d more still use it", strings.Join(pids, ", "), more)
	}
	return fmt.Sprintf("processes %s still use it", strings.Join(pids, ", "))
}

// limitLocked is how much memory a free device uses at most.
func (r *Registry) limitLocked(d Device) int64 {
	if q := r.quarantined[d.ID]; q.LimitBytes > 0 {
		return q.LimitBytes
	}
	if least, seen := r.baseline[d.ID]; seen {
		return least + memorySlack
	}
	return max(d.MemoryBytes/allowanceShare, leastAllowance)
}

// learnLocked takes in what a device that was measured uses, and ends its quarantine when nothing is left on it.
func (r *Registry) learnLocked(d Device, what Figures, free bool) (released bool) {
	reading := r.readings[d.ID]
	_, quarantined := r.quarantined[d.ID]
	if what&Processes != 0 && reading.Processes != nil {
		r.learnResidentsLocked(d.ID, reading.Processes, free && !quarantined && r.judgedLocked(d).Health == fleetv1.Healthy)
	}
	switch {
	case !free:
	case quarantined && what&Processes != 0 && r.usedLocked(d) == "":
		delete(r.quarantined, d.ID)
		return true
	case !quarantined && what&Usage != 0 && reading.MemoryUsedBytes != nil && len(reading.Processes) == 0:
		least, seen := r.baseline[d.ID]
		if used := *reading.MemoryUsedBytes; !seen || used < least {
			r.baseline[d.ID] = used
		}
	}
	return false
}

// learnResidentsLocked notes who of those on a device now is the host's own: whoever was on it while it was free. One
// that has gone is forgotten, for its PID may become anybody's.
func (r *Registry) learnResidentsLocked(id string, now []Process, free bool) {
	residents := map[int]bool{}
	for _, p := range now {
		if free || r.residents[id][p.PID] {
			residents[p.PID] = true
		}
	}
	r.residents[id] = residents
}

// quarantinedLocked shows a device's quarantine beside what else is wrong with it.
func (r *Registry) quarantinedLocked(d Device) Device {
	q, quarantined := r.quarantined[d.ID]
	if !quarantined {
		return d
	}
	d.Quarantined = true
	if d.Health == fleetv1.Healthy {
		d.Health = fleetv1.Unhealthy
	}
	if d.Action == "" || d.Action == fleetv1.ActionObserve {
		d.Action = fleetv1.ActionDrain
	}
	own := d.Reason
	d.Reason = "quarantined: " + q.Reason
	if own != "" {
		d.Reason += "; " + own
	}
	return d
}

// dropSlicesLocked forgets slices that aren't there any more because their parent, which is, was sliced anew. One
// that somebody holds is kept, as lost.
func (r *Registry) dropSlicesLocked(name string, present map[string]bool, held map[string]string) bool {
	dropped := false
	for id, d := range r.devices {
		if d.Vendor != name || d.ParentID == "" || present[id] || held[id] != "" || !present[d.ParentID] {
			continue
		}
		if h := r.devices[d.ParentID].Health; h == fleetv1.Lost || h == fleetv1.Unresponsive {
			continue // it may come back with its slices
		}
		delete(r.devices, id)
		delete(r.readings, id)
		delete(r.verdicts, id)
		delete(r.onBus, id)
		delete(r.baseline, id)
		delete(r.residents, id)
		delete(r.quarantined, id)
		dropped = true
	}
	return dropped
}
