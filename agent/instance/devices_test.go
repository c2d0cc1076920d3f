package instance

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/drover-fleet/drover/devices"
	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
	"github.com/drover-fleet/drover/runtime"
)

func count(list []string, what string) int {
	n := 0
	for _, s := range list {
		if s == what {
			n++
		}
	}
	return n
}

func withDevices(ids ...string) *fleetv1.Instance {
	in := inst()
	in.Spec.DeviceIds, in.Spec.Limits = ids, &fleetv1.Limits{Rdma: true}
	return in
}

func TestDevicesAreGiven(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.setDevices(devices.Device{ID: "a", Health: fleetv1.Healthy}, devices.Device{ID: "b", Health: fleetv1.Unhealthy})
		w.apply(1, withDevices("a", "b"))
		if o := w.after(time.Second); !o.GetReady() {
			t.Errorf("instance %v", o)
		}
		w.mu.Lock()
		defer w.mu.Unlock()
		if len(w.created) != 1 || !slices.Equal(w.created[0].Devices, []string{"a", "b"}) || !w.created[0].RDMA || w.created[0].Env["DROVER_DEVICE_IDS"] != "a,b" {
			t.Errorf("created with %+v", w.created)
		}
	})
}

// A device can vanish between the placement and the start.
func TestDeviceVanishes(t *testing.T) {
	for name, c := range map[string]struct {
		list []devices.Device
		want string
	}{
		"lost":   {[]devices.Device{{ID: "a", Health: fleetv1.Healthy}, {ID: "b", Model: "H100", Health: fleetv1.Lost, Reason: "fell off its bus"}}, "device b (H100) is lost: fell off its bus"},
		"absent": {[]devices.Device{{ID: "a", Health: fleetv1.Healthy}}, "device b is not on this node"},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, w *world) {
				w.setDevices(c.list...)
				w.apply(1, withDevices("a", "b"))
				if o := w.after(time.Second); o.GetState() != fleetv1.InstanceFailed || !strings.Contains(o.GetReason(), c.want) {
					t.Errorf("instance %v", o)
				}
				if got := w.reasons(); count(got, "DeviceFailed") != 1 || count(got, "InstanceFailed") != 1 {
					t.Errorf("events %v", got)
				}
				if left := w.rt.Containers(); len(left) > 0 || len(w.created) > 0 {
					t.Errorf("left behind: %v, created %v", left, w.created)
				}
			})
		})
	}
}

func TestDeviceVanishesWhileItRuns(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.setDevices(devices.Device{ID: "a", Health: fleetv1.Healthy})
		w.apply(1, withDevices("a"))
		if o := w.after(time.Second); !o.GetReady() {
			t.Fatalf("instance %v", o)
		}
		w.setDevices(devices.Device{ID: "a", Health: fleetv1.Lost, Reason: "gone"})
		if err := w.rt.Exit("i-1", 1, runtime.ExitNormal); err != nil {
			t.Fatal(err)
		}
		if o := w.after(10 * time.Second); o.GetState() != fleetv1.InstanceFailed || len(w.rt.Containers()) > 0 {
			t.Errorf("instance %v, containers %v", o, w.rt.Containers())
		}
	})
}

func TestUnresponsiveDeviceIsWaitedFor(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.setDevices(devices.Device{ID: "a", Health: fleetv1.Unresponsive, Reason: "the library hangs"})
		w.apply(1, withDevices("a"))
		o := w.after(5 * time.Minute)
		if o.GetState() == fleetv1.InstanceFailed || !strings.Contains(o.GetReason(), "the library hangs") || count(w.reasons(), "DeviceFailed") != 1 {
			t.Errorf("instance %v, events %v", o, w.reasons())
		}
		w.setDevices(devices.Device{ID: "a", Health: fleetv1.Healthy})
		if o := w.after(time.Minute); !o.GetReady() {
			t.Errorf("after it answered: %v", o)
		}
	})
}

func TestRuntimeCannotGiveDevices(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.setDevices(devices.Device{ID: "a", Health: fleetv1.Healthy})
		w.refuse = fmt.Errorf("%w: %w: %w", runtime.ErrFatal, runtime.ErrDevice, errors.New("install something"))
		w.apply(1, withDevices("a"))
		if o := w.after(time.Second); o.GetState() != fleetv1.InstanceFailed || !strings.Contains(o.GetReason(), "install something") {
			t.Errorf("instance %v", o)
		}
		if got := w.reasons(); count(got, "DeviceFailed") != 1 {
			t.Errorf("events %v", got)
		}
	})
}

// An instance that holds a failed device isn't ready any more at once, and then fails.
func TestDeviceFails(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.setDevices(devices.Device{ID: "a", Health: fleetv1.Healthy}, devices.Device{ID: "b", Health: fleetv1.Healthy})
		w.apply(1, withDevices("a", "b"))
		if o := w.after(time.Second); !o.GetReady() {
			t.Fatalf("instance %v", o)
		}
		w.g.DeviceFailed("c", "not ours")
		if o := w.after(0); !o.GetReady() {
			t.Fatalf("left for another's device: %v", o)
		}
		w.g.DeviceFailed("b", "fell off the bus")
		w.g.DeviceFailed("b", "fell off the bus")
		o := w.after(0) // no time passes
		if o.GetReady() || o.GetState() != fleetv1.InstanceFailed || o.GetReason() != "device b failed: fell off the bus" {
			t.Errorf("instance %v", o)
		}
		w.g.DeviceFailed("b", "fell off the bus")
		w.after(time.Minute)
		if n := count(w.reasons(), "DeviceFailed"); n != 1 {
			t.Errorf("told %d times: %v", n, w.reasons())
		}
	})
}

func TestNoStartOnFailedDevice(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.setDevices(devices.Device{ID: "a", Health: fleetv1.Unhealthy, Evict: true, Reason: "XID 48"})
		w.apply(1, withDevices("a"))
		if o := w.after(time.Second); o.GetState() != fleetv1.InstanceFailed || !strings.Contains(o.GetReason(), "XID 48") {
			t.Errorf("instance %v", o)
		}
	})
}

// stubborn is a runtime that hangs, whatever its callers' deadlines.
type stubborn struct {
	runtime.Runtime
	hangs <-chan struct{} // until it is closed
}

func (r stubborn) Status(ctx context.Context, id string) (runtime.Status, error) {
	<-r.hangs
	return r.Runtime.Status(ctx, id)
}

// The endpoint goes even while the runtime hangs and an agent that has just started doesn't know what runs.
func TestDeviceFailsWhileTheRuntimeHangs(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.setDevices(devices.Device{ID: "a", Health: fleetv1.Healthy})
		w.apply(1, withDevices("a"))
		w.after(time.Second)
		hangs := make(chan struct{})
		w.wrap = func(rt runtime.Runtime) runtime.Runtime { return stubborn{rt, hangs} }
		w.reboot()
		if o := w.after(time.Second); !o.GetReady() {
			t.Fatalf("what was ready isn't: %v", o)
		}
		if _, err := w.g.Take(); err != nil {
			t.Fatal(err)
		}
		w.g.DeviceFailed("a", "fell off the bus")
		if reports, err := w.g.Take(); err != nil || len(reports) != 1 || reports[0].GetObserved().GetReady() {
			t.Errorf("reported %v, %v", reports, err)
		}
		close(hangs)
		if o := w.after(time.Minute); o.GetReady() || o.GetState() != fleetv1.InstanceFailed || count(w.reasons(), "DeviceFailed") != 1 {
			t.Errorf("instance %v, events %v", o, w.reasons())
		}
	})
}

// clinging is a runtime whose containers can't be deleted, as with a process that waits for a dead device.
type clinging struct{ runtime.Runtime }

func (clinging) Delete(context.Context, string) error { return errors.New("a task is still there") }

// An agent that starts while the container of a failed device is still there doesn't know the fault, but that the
// instance has to leave: passing its health check makes it no endpoint.
func TestAgentRestartsWhileADeviceIsLeft(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.wrap = func(rt runtime.Runtime) runtime.Runtime { return clinging{rt} }
		w.reboot()
		w.setDevices(devices.Device{ID: "a", Health: fleetv1.Healthy})
		w.apply(1, withDevices("a"))
		w.after(time.Second)
		w.g.DeviceFailed("a", "XID 48")
		if o := w.after(time.Minute); o.GetReady() || o.GetState() != fleetv1.InstanceRunning {
			t.Fatalf("instance %v", o)
		}
		w.reboot()
		if o := w.after(10 * time.Minute); o.GetReady() || o.GetState() != fleetv1.InstanceRunning {
			t.Errorf("after a restart: %v", o)
		}
		w.wrap = nil
		w.reboot()
		o := w.after(time.Minute)
		if o.GetState() != fleetv1.InstanceFailed || o.GetReason() != "device a failed: XID 48" || len(w.rt.Containers()) > 0 || count(w.reasons(), "DeviceFailed") != 1 {
			t.Errorf("in the end %v, containers %v, events %v", o, w.rt.Containers(), w.reasons())
		}
	})
}

func TestYoungerPlanHoldsADevice(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.setDevices(devices.Device{ID: "a", Health: fleetv1.Healthy})
		var all []*fleetv1.Instance
		for epoch, id := range []string{"h", "i", "j"} {
			in := withDevices("a")
			in.Meta = &fleetv1.Meta{Id: id, Name: "iris-" + id}
			in.Spec.Epoch = []uint64{4, 9, 6}[epoch]
			all = append(all, in)
		}
		w.apply(1, all...)
		for range 20 { // a map's order is another each time
			if got := w.g.Holders(); !maps.Equal(got, map[string]string{"a": "i"}) {
				t.Fatalf("holders %v", got)
			}
		}
		w.after(time.Second)
	})
}
