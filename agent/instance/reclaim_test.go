package instance

import (
	"errors"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/drover-fleet/drover/devices"
	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
	"github.com/drover-fleet/drover/runtime"
)

// stopping brings an instance with two devices to where its stop was asked for and its container is gone.
func stopping(t *testing.T, w *world) *fleetv1.InstanceObserved {
	t.Helper()
	w.setDevices(devices.Device{ID: "a", Health: fleetv1.Healthy}, devices.Device{ID: "b", Health: fleetv1.Healthy})
	w.apply(1, withDevices("a", "b"))
	if o := w.after(time.Second); !o.GetReady() {
		t.Fatalf("instance %v", o)
	}
	w.apply(2, wish(withDevices("a", "b"), stopped))
	return w.after(4 * time.Second) // it serves on for 3 s, and ends at once
}

func TestDevicesAreGivenBack(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		o := stopping(t, w)
		if o.GetState() != fleetv1.InstanceReaped || w.askedFor() != 1 || len(w.inQuarantine()) > 0 || len(w.g.Holders()) > 0 {
			t.Errorf("instance %v, asked %d times, quarantined %v, holders %v", o, w.askedFor(), w.inQuarantine(), w.g.Holders())
		}
	})
}

func TestReclaiming(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.leave(map[string]string{"b": "process 7 still uses it", "c": "not ours"})
		o := stopping(t, w)
		if o.GetState() != fleetv1.InstanceReclaiming || o.GetReady() || o.GetPid() != 0 || o.GetReason() != "waiting for its devices to be free: b: process 7 still uses it" {
			t.Errorf("instance %v", o)
		}
		if left := w.rt.Containers(); len(left) > 0 || len(w.g.ports.owner) > 0 {
			t.Errorf("containers %v, ports %v", left, w.g.ports.owner)
		}
		if got := w.g.Holders(); !maps.Equal(got, map[string]string{"a": "i", "b": "i"}) {
			t.Errorf("holders %v", got)
		}
		w.leave(map[string]string{"b": "9 MiB"})
		if o := w.after(time.Second); o.GetReason() != "waiting for its devices to be free: b: 9 MiB" {
			t.Errorf("instance %v", o)
		}
		w.leave(nil)
		o = w.after(time.Second)
		if o.GetState() != fleetv1.InstanceReaped || strings.Contains(o.GetReason(), "waiting") || len(w.inQuarantine()) > 0 || len(w.g.Holders()) > 0 {
			t.Errorf("instance %v, quarantined %v", o, w.inQuarantine())
		}
		if got := w.reasons(); slices.Contains(got, "DeviceQuarantined") || count(got, "InstanceReaped") != 1 {
			t.Errorf("events %v", got)
		}
	})
}

// What isn't free in time is known to be in quarantine before the instance is reaped.
func TestQuarantine(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.leave(map[string]string{"b": "process 7 still uses it"})
		stopping(t, w)
		if o := w.after(55 * time.Second); o.GetState() != fleetv1.InstanceReclaiming || len(w.inQuarantine()) > 0 {
			t.Errorf("too soon: %v", o)
		}
		if o := w.after(5 * time.Second); o.GetState() != fleetv1.InstanceReaped {
			t.Errorf("instance %v", o)
		}
		if want := []string{"Reclaiming: b: process 7 still uses it"}; !slices.Equal(w.inQuarantine(), want) {
			t.Errorf("quarantined %q, want %q", w.inQuarantine(), want)
		}
		if got := w.reasons(); count(got, "DeviceQuarantined") != 1 || slices.Index(got, "DeviceQuarantined") > slices.Index(got, "InstanceReaped") {
			t.Errorf("events %v", got)
		}
	})
}

func TestDriverIsSilentWhileReclaiming(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.setSilent(true)
		stopping(t, w)
		if o := w.after(time.Second); o.GetState() != fleetv1.InstanceReclaiming || !strings.Contains(o.GetReason(), "a: the driver doesn't answer; b: the driver") {
			t.Errorf("instance %v", o)
		}
		if o := w.after(time.Minute + laterCheck); o.GetState() != fleetv1.InstanceReaped || len(w.inQuarantine()) != 2 {
			t.Errorf("instance %v, quarantined %v", o, w.inQuarantine())
		}
	})
}

func TestAgentRestartsWhileReclaiming(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.leave(map[string]string{"a": "process 7 still uses it"})
		stopping(t, w)
		w.after(50 * time.Second)
		w.reboot()
		if o := w.after(50 * time.Second); o.GetState() != fleetv1.InstanceReclaiming || len(w.g.ports.owner) > 0 || w.g.Holders()["a"] != "i" {
			t.Errorf("instance %v, ports %v, holders %v", o, w.g.ports.owner, w.g.Holders())
		}
		if o := w.after(15 * time.Second); o.GetState() != fleetv1.InstanceReaped || len(w.inQuarantine()) != 1 {
			t.Errorf("instance %v, quarantined %v", o, w.inQuarantine())
		}
		w.reboot()
		if o := w.after(time.Minute); o.GetState() != fleetv1.InstanceReaped || len(w.inQuarantine()) != 1 || len(w.g.Holders()) > 0 {
			t.Errorf("instance %v, quarantined %v", o, w.inQuarantine())
		}
	})
}

// A set that changes nothing, or no longer names the instance, and a failing device, don't get in the way.
func TestDisturbedWhileReclaiming(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.leave(map[string]string{"a": "process 7 still uses it"})
		stopping(t, w)
		w.setSilent(true) // so that it's disturbed during the call
		w.after(2 * time.Second)
		w.g.DeviceFailed("a", "fell off the bus")
		w.apply(3)
		if o := w.after(time.Second); o.GetState() != fleetv1.InstanceReclaiming {
			t.Errorf("instance %v", o)
		}
		if got := w.reasons(); slices.Contains(got, "DeviceFailed") || slices.Contains(got, "InstanceFailed") {
			t.Errorf("events %v", got)
		}
		if w.g.NoteHolder("a", fleetv1.EventNormal, "DeviceRecovered", "") {
			t.Error("an instance that is gone is told of its device")
		}
		w.setSilent(false)
		w.leave(nil)
		if o := w.after(laterCheck + time.Second); o != nil {
			t.Errorf("not forgotten: %v", o)
		}
		if len(w.inQuarantine()) > 0 {
			t.Errorf("quarantined %v", w.inQuarantine())
		}
	})
}

// The next attempt takes the devices as they are.
func TestRestartReclaimsNothing(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.leave(map[string]string{"a": "process 7 still uses it"})
		w.setDevices(devices.Device{ID: "a", Health: fleetv1.Healthy})
		w.apply(1, withDevices("a"))
		w.after(time.Second)
		w.apply(2, wish(withDevices("a"), func(d *fleetv1.InstanceDesired) { d.Restart = 1 }))
		if o := w.after(10 * time.Second); o.GetAttempt() != 2 || !o.GetReady() || w.askedFor() != 0 {
			t.Errorf("instance %v, asked %d times", o, w.askedFor())
		}
		if err := w.rt.Exit("i-2", 1, runtime.ExitNormal); err != nil {
			t.Fatal(err)
		}
		if o := w.after(10 * time.Second); o.GetAttempt() != 3 || !o.GetReady() || w.askedFor() != 0 {
			t.Errorf("instance %v, asked %d times", o, w.askedFor())
		}
	})
}

// Without a container there can be nothing to give back; an agent that was restarted can't know.
func TestStoppedBeforeItWasMade(t *testing.T) {
	for name, reboot := range map[string]bool{"by one agent": false, "by the next": true} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, w *world) {
				w.pullAllowed = func() error { return errors.New("the disk is full") }
				w.reboot()
				w.setDevices(devices.Device{ID: "a", Health: fleetv1.Healthy})
				w.apply(1, withDevices("a"))
				if o := w.after(time.Second); o.GetState() == fleetv1.InstanceRunning || w.g.Holders()["a"] != "i" {
					t.Fatalf("instance %v, holders %v", o, w.g.Holders())
				}
				want := 0
				if reboot {
					want = 1
					w.reboot()
				}
				w.apply(2, wish(withDevices("a"), stopped))
				if o := w.after(time.Second); o.GetState() != fleetv1.InstanceReaped || w.askedFor() != want {
					t.Errorf("instance %v, asked %d times, want %d", o, w.askedFor(), want)
				}
			})
		})
	}
}

// An instance that failed gives its devices back when it is stopped, and keeps why it failed.
func TestFailedIsReclaimed(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.setDevices(devices.Device{ID: "a", Health: fleetv1.Healthy})
		w.apply(1, withDevices("a"))
		w.after(time.Second)
		w.leave(map[string]string{"a": "9 MiB"})
		w.g.DeviceFailed("a", "XID 48")
		if o := w.after(time.Minute); o.GetState() != fleetv1.InstanceFailed || w.askedFor() != 0 || w.g.Holders()["a"] != "i" {
			t.Errorf("instance %v, asked %d times", o, w.askedFor())
		}
		w.apply(2, wish(withDevices("a"), stopped))
		if o := w.after(time.Second); o.GetState() != fleetv1.InstanceReclaiming {
			t.Errorf("instance %v", o)
		}
		w.reboot()
		w.leave(nil)
		if o := w.after(2 * time.Second); o.GetState() != fleetv1.InstanceReaped || o.GetReason() != "device a failed: XID 48" {
			t.Errorf("instance %v", o)
		}
	})
}

func TestNoStartOnQuarantinedDevice(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.leave(map[string]string{"a": "process 7 still uses it"})
		w.setDevices(devices.Device{ID: "a", Health: fleetv1.Unhealthy, Quarantined: true, Reason: "quarantined: process 7 still uses it"})
		w.apply(1, withDevices("a"))
		if o := w.after(time.Second); o.GetState() != fleetv1.InstanceFailed || !strings.Contains(o.GetReason(), "process 7") {
			t.Errorf("instance %v", o)
		}
		w.apply(2, wish(withDevices("a"), stopped))
		if o := w.after(time.Second); o.GetState() != fleetv1.InstanceReaped || w.askedFor() > 0 || len(w.inQuarantine()) > 0 {
			t.Errorf("instance %v, asked %d times: what is left isn't its own", o, w.askedFor())
		}
	})
}

func TestHolderIsTold(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.setDevices(devices.Device{ID: "a", Health: fleetv1.Healthy})
		w.apply(1, withDevices("a"))
		w.after(time.Second)
		if !w.g.NoteHolder("a", fleetv1.EventWarning, "DeviceObserved", "m") || w.g.NoteHolder("b", fleetv1.EventWarning, "DeviceObserved", "m") {
			t.Error("the wrong one is told")
		}
		if got := w.reasons(); count(got, "DeviceObserved") != 1 {
			t.Errorf("events %v", got)
		}
	})
}
