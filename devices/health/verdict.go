package health

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/drover-fleet/drover/devices"
	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
)

// Verdict about a device.
type Verdict struct {
	State  string // fleetv1.Healthy, Unhealthy, Unresponsive or Lost
	Action Action
	Reason string // a line for people; empty when there's nothing to say
	Since  time.Time
}

// Verdict answers what is known of a device now. A device that was never told of is healthy since the zero
// time. A slice has the graver verdict of its own and its parent's.
func (j *Judge) Verdict(id string) Verdict {
	r := j.cases[id]
	if r == nil {
		return Verdict{State: fleetv1.Healthy}
	}
	own := r.verdict()
	parent := j.cases[r.device.ParentID]
	if r.device.ParentID == "" || parent == nil {
		return own
	}
	if whole := parent.verdict(); whole.graver(own) {
		whole.Reason = fmt.Sprintf("%s: %s", r.device.ParentID, whole.Reason)
		return whole
	}
	return own
}

// Judge implements devices.Judge.
func (j *Judge) Judge(id string) devices.Verdict {
	v := j.Verdict(id)
	return devices.Verdict{Health: v.State, Action: string(v.Action), Evict: v.Action.Evicts(), Reason: v.Reason, Since: v.Since}
}

func (v Verdict) graver(than Verdict) bool {
	if a, b := v.Action.rank(), than.Action.rank(); a != b {
		return a > b
	}
	return slices.Index(states, v.State) > slices.Index(states, than.State)
}

// states of a device, the least bad first.
var states = []string{fleetv1.Healthy, fleetv1.Unresponsive, fleetv1.Unhealthy, fleetv1.Lost}

func (r *record) verdict() Verdict {
	v := Verdict{State: fleetv1.Healthy, Since: r.since}
	worst := r.worst()
	if worst == nil {
		return v
	}
	v.Action = worst.row.Action
	for _, f := range r.faults {
		if slices.Index(states, f.row.state()) > slices.Index(states, v.State) {
			v.State = f.row.state()
		}
	}
	v.Reason = worst.reason()
	if v.Action.rank() >= Drain.rank() && !worst.standing {
		v.Reason += "; waiting for a clean check"
		if worst.row.Action.needsSign() && !worst.repaired {
			v.Reason += " after that"
		}
	}
	return v
}

// reason names the fault as people look it up, with its meaning.
func (f *fault) reason() string {
	name := string(f.row.Source) + " " + f.sign
	if f.row.Source == sourceDevice || f.row.Source == sourceMemory {
		name = f.sign
	}
	text := fmt.Sprintf("%s: %s", name, f.row.Meaning)
	if said := strings.Join(strings.Fields(f.text), " "); said != "" {
		text += fmt.Sprintf(" (%s)", said)
	}
	switch f.row.Action {
	case ResetNeeded:
		text += "; reset the device"
	case RebootNeeded:
		text += "; reboot the node"
	}
	return text
}
