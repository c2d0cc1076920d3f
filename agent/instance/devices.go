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
// reaped.
func (g *Manager) Holders() map[string]string {
	holders := map[string]string{}
	for _, m := range g.all() {
		m.mu.Lock()
		if m.rec.Instance.Observed.State != fleetv1.InstanceReaped {
			for _, id := range m.rec.Instance.GetSpec().GetDeviceIds() {
				holders[id] = m.id
			}
		}
		m.mu.Unlock()
	}
	return holders
}

// DeviceFailed makes the instances that hold a device leave it: each loses its endpoint at once, and then fails, so
// that it is placed elsewhere. To say it again changes nothing.
func (g *Manager) DeviceFailed(id, reason string) {
	for _, m := range g.all() {
		m.deviceFailed(id, reason)
	}
}

// leftDevices tells whether nothing of an instance in this state runs any more, nor will.
func leftDevices(state string) bool {
	return state == fleetv1.InstanceFailed || state == fleetv1.InstanceReclaiming || state == fleetv1.InstanceReaped
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

func (m *machine) deviceFailed(id, reason string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	in := m.rec.Instance
	if !slices.Contains(in.GetSpec().GetDeviceIds(), id) || m.broken != "" || leftDevices(in.Observed.State) {
		return
	}
	m.broken = fmt.Sprintf("device %s failed: %s", id, reason)
	if m.interrupt != nil {
		m.interrupt()
	}
	notify(m.wake)
}

// leaveDevice withdraws the instance, whose next step is to fail.
func (m *machine) leaveDevice(reason string) outcome {
	m.stopProbe()
	m.save(func(o *fleetv1.InstanceObserved) {
		o.Ready, o.Reason = false, reason
		m.noteLocked(fleetv1.EventAbnormal, deviceFailed, reason)
	})
	m.fatal = reason
	return again
}
