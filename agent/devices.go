package agent

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	"golang.org/x/time/rate"

	"github.com/drover-fleet/drover/devices"
	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
)

// deviceNotes is what was told of the devices last.
type deviceNotes struct {
	known     map[string]deviceNote
	shortfall string
}

// deviceNote is what events tell of a device.
type deviceNote struct {
	health, action string
	quarantined    bool
}

// newDeviceNotes begins with what the agent before this one has told of quarantines.
func newDeviceNotes(quarantined map[string]devices.Quarantine) *deviceNotes {
	n := &deviceNotes{known: map[string]deviceNote{}}
	for id := range quarantined {
		n.known[id] = deviceNote{health: fleetv1.Unhealthy, action: fleetv1.ActionDrain, quarantined: true}
	}
	return n
}

// noteDevices tells of each device whose health, or what that asks for, is another than at the last call, has
// instances leave those that they can't stay on, and compares the devices with what is declared.
func (a *Agent) noteDevices(notes *deviceNotes) {
	// Before the devices: nobody is given what isn't listed, and what isn't listed now may be in a moment.
	holders, complete := a.instances.Holders(), a.deps.Devices.Discovered()
	all, present := a.deps.Devices.Devices(), map[string]bool{}
	for _, d := range all {
		present[d.ID] = true
		now := deviceNote{health: d.Health, action: d.Action, quarantined: d.Quarantined}
		before, seen := notes.known[d.ID]
		notes.known[d.ID] = now
		if seen && before != now {
			kind, reason, message := deviceEvent(d, before, now)
			// An instance's event is one of its service and of this node as well. One that must leave tells that itself.
			if d.Evict || !a.instances.NoteHolder(d.ID, kind, reason, message) {
				a.session.NodeEvent(kind, reason, message)
			}
		}
		if d.Evict {
			a.instances.DeviceFailed(d.ID, d.Reason)
		}
	}
	for id := range holders {
		if !present[id] && complete { // it went while no agent ran
			a.instances.DeviceFailed(id, "it is not on this node any more")
		}
	}
	quarantined := a.deps.Devices.Quarantined()
	for _, id := range slices.Sorted(maps.Keys(notes.known)) {
		if _, waits := quarantined[id]; present[id] || waits {
			continue
		}
		delete(notes.known, id)
		a.session.NodeEvent(fleetv1.EventNormal, "DeviceRemoved", fmt.Sprintf("slice %s is gone: its device was sliced anew", id))
	}
	a.noteShortfall(notes, all)
}

// noteShortfall tells when devices that are declared go missing, and when all are there again.
func (a *Agent) noteShortfall(notes *deviceNotes, all []devices.Device) {
	before := notes.shortfall
	notes.shortfall = strings.Join(a.shortfall(all), "; ")
	switch {
	case notes.shortfall == before:
	case notes.shortfall != "":
		a.session.NodeEvent(fleetv1.EventWarning, "DevicesMissing", notes.shortfall)
	default:
		a.session.NodeEvent(fleetv1.EventNormal, "DevicesComplete", "all devices that are declared are there")
	}
}

// shortfall compares the devices with what is declared, once the drivers had the time to list them.
func (a *Agent) shortfall(all []devices.Device) []string {
	if !a.deps.Devices.Asked() {
		return nil
	}
	return devices.Shortfall(a.cfg.DeclaredDevices, all)
}

// deviceEvent answers how a change of a device is told.
func deviceEvent(d devices.Device, before, now deviceNote) (kind, reason, message string) {
	name, state := fmt.Sprintf("device %s (%s)", d.ID, d.Model), now.health
	if now.action != "" {
		state += " (" + now.action + ")"
	}
	message = fmt.Sprintf("%s is %s: %s", name, state, d.Reason)
	switch {
	case now == deviceNote{health: fleetv1.Healthy}:
		return fleetv1.EventNormal, "DeviceRecovered", name + " is healthy again"
	case now.quarantined && !before.quarantined:
		return fleetv1.EventAbnormal, "DeviceQuarantined", message
	case now.health != fleetv1.Healthy && now.badness() > before.badness():
		return fleetv1.EventAbnormal, "DeviceFailed", message
	case now.health != fleetv1.Healthy:
		return fleetv1.EventWarning, "DeviceFailed", message + ", which is less than before"
	case before.health != fleetv1.Healthy:
		return fleetv1.EventNormal, "DeviceRecovered", fmt.Sprintf("%s can be used again; %s: %s", name, now.action, d.Reason)
	}
	return fleetv1.EventWarning, "DeviceObserved", message
}

// badness orders what may be told of a device: by what it asks for, then by its health.
func (n deviceNote) badness() int {
	actions := []string{"", fleetv1.ActionObserve, fleetv1.ActionDrain, fleetv1.ActionEvict, fleetv1.ActionResetNeeded, fleetv1.ActionRebootNeeded}
	healths := []string{fleetv1.Healthy, fleetv1.Unresponsive, fleetv1.Unhealthy, fleetv1.Lost}
	return slices.Index(actions, n.action)*len(healths) + slices.Index(healths, n.health)
}

// quarantine keeps a device from use, over restarts of the agent, and has the scheduler told of it before
// whatever is reported after this call.
func (a *Agent) quarantine(id, reason string) {
	a.deps.Devices.Quarantine(id, devices.Quarantine{Reason: reason})
	a.keepQuarantined()
	tellOnce(a.factsChanged)
}

// quarantineAgain puts the devices into quarantine that the agent before this one has.
func (a *Agent) quarantineAgain() {
	for id, q := range a.journal.Quarantined() {
		a.deps.Devices.Quarantine(id, q)
	}
}

// keepQuarantined journals which devices are in quarantine. When the journal can't be written the agent is
// unhealthy, and the scheduler knows all the same.
func (a *Agent) keepQuarantined() {
	a.quarantining.Lock()
	defer a.quarantining.Unlock()
	now := a.deps.Devices.Quarantined()
	if maps.Equal(now, a.journal.Quarantined()) {
		return
	}
	if err := a.journal.SetQuarantined(now); err != nil {
		a.deps.Logger.Error("the quarantine of devices can't be journalled", "error", err)
	}
}

// noteSignal reports what a driver told, up to the limit; the metrics count all of it.
func (a *Agent) noteSignal(s devices.Signal, limit *rate.Limiter) {
	if !limit.Allow() {
		return
	}
	code := ""
	if s.Code != 0 {
		code = fmt.Sprintf(" %d", s.Code)
	}
	what := fmt.Sprintf("device %s signalled %s%s", cmp.Or(s.DeviceID, "of unknown ID"), s.Kind, code)
	if s.Text != "" {
		what += ": " + s.Text
	}
	a.session.NodeEvent(fleetv1.EventWarning, "DeviceSignal", what)
}
