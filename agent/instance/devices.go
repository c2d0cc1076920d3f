package instance

import (
	"fmt"
	"slices"

	"github.com/drover-fleet/drover/devices"
	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
	"github.com/drover-fleet/drover/runtime"
)

// deviceFailed is the reason of events that tell why an instance doesn't get its devices.
const deviceFailed = "DeviceFailed"

// DeviceHook lets a container start only while its devices are there: known answers those of this node now. A
// device that is lost, or that nobody has seen, fails the instance, so that it is placed elsewhere; for one
// that doesn't answer it waits.
func DeviceHook(known func() []devices.Device) Hook {
	return Hook{Name: "devices", Reason: deviceFailed, Prepare: func(_ *fleetv1.Instance, spec *runtime.Spec) error {
		if len(spec.Devices) == 0 {
			return nil
		}
		all := known()
		for _, id := range spec.Devices {
			i := slices.IndexFunc(all, func(d devices.Device) bool { return d.ID == id })
			switch {
			case i < 0:
				return fmt.Errorf("device %s is not on this node any more: %w", id, runtime.ErrFatal)
			case all[i].Health == fleetv1.Lost:
				return fmt.Errorf("device %s (%s) is lost: %s: %w", id, all[i].Model, all[i].Reason, runtime.ErrFatal)
			case all[i].Evict, all[i].Quarantined:
				return fmt.Errorf("device %s (%s) can't be used: %s: %w", id, all[i].Model, all[i].Reason, runtime.ErrFatal)
			case all[i].Health == fleetv1.Unresponsive:
				return fmt.Errorf("device %s (%s) doesn't answer: %s", id, all[i].Model, all[i].Reason)
			}
		}
		return nil
	}}
}

// Holders answers which instance holds each device, by the device's ID: from when it is assigned until it is
// reaped. Should two claim one, the younger plan's has it: its epoch fences the other off.
func (g *Manager) Holders() map[string]string {
	holders, epochs := map[string]string{}, map[string]uint64{}
	for _, m := range g.all() {
		m.mu.Lock()
		if m.rec.Instance.Observed.State != fleetv1.InstanceReaped {
			spec := m.rec.Instance.GetSpec()
			for _, id := range spec.GetDeviceIds() {
				if holders[id] == "" || spec.GetEpoch() > epochs[id] {
					holders[id], epochs[id] = m.id, spec.GetEpoch()
				}
			}
		}
		m.mu.Unlock()
	}
	return holders
}

// DeviceFailed makes the instances that hold a device leave it: each has lost its endpoint when this returns, and
// then fails, so that it is placed elsewhere. It waits for no runtime and no disk. To say it again changes nothing.
func (g *Manager) DeviceFailed(id, reason string) {
	for _, m := range g.all() {
		m.deviceFailed(id, reason)
	}
}

// leftDevices tells whether nothing of an instance in this state runs any more, nor will.
func leftDevices(state string) bool {
	return state == fleetv1.InstanceFailed || state == fleetv1.InstanceReclaiming || state == fleetv1.InstanceReaped
}

// ran says that an instance in this state has a process, unless that has ended since.
func ran(state string) bool {
	return state == fleetv1.InstanceRunning || state == fleetv1.InstanceDraining || state == fleetv1.InstanceStopping
}

// NoteHolder adds an event to the instance that works on a device, and tells whether there is one.
func (g *Manager) NoteHolder(device, kind, reason, message string) bool {
	m := g.find(g.Holders()[device])
	if m == nil {
		return false
	}
	m.mu.Lock()
	works := !m.rec.Absent && !leftDevices(m.rec.Instance.Observed.State)
	m.mu.Unlock()
	if works {
		g.Note(m.id, kind, reason, message)
	}
	return works
}

// deviceFailed withdraws the instance here and not in a step: one that goes on may wait for a runtime that hangs.
func (m *machine) deviceFailed(id, reason string) {
	m.mu.Lock()
	in := m.rec.Instance
	if !slices.Contains(in.GetSpec().GetDeviceIds(), id) || m.rec.Broken != "" || leftDevices(in.Observed.State) {
		m.mu.Unlock()
		return
	}
	m.rec.Broken = fmt.Sprintf("device %s failed: %s", id, reason)
	in.Observed.Ready, in.Observed.Reason = false, m.rec.Broken
	m.noteLocked(fleetv1.EventAbnormal, deviceFailed, m.rec.Broken)
	if m.interrupt != nil {
		m.interrupt()
	}
	m.mu.Unlock()
	m.g.mark(m.id)
	notify(m.wake)
}

// leaveDevice journals why the instance leaves; its next step is to fail.
func (m *machine) leaveDevice(reason string) outcome {
	m.fatal = reason
	m.save(func(o *fleetv1.InstanceObserved) { o.Ready, o.Reason = false, reason })
	return again
}
