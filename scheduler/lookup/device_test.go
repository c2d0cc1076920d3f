package lookup

import (
	"testing"

	"google.golang.org/protobuf/proto"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
	"github.com/drover-fleet/drover/scheduler/state"
)

func (f *fixture) editDevices(node string, devices ...*fleetv1.Device) {
	f.t.Helper()
	after := proto.CloneOf(f.store.View().Node(node))
	after.Facts = &fleetv1.NodeFacts{Devices: devices}
	f.apply(state.Put(after.GetMeta().GetRevision(), after))
}

// What a node says of its devices withdraws an endpoint though the instance's own report still calls it ready.
func TestFailedDeviceHasNoEndpoint(t *testing.T) {
	run(t, func(f *fixture) {
		f.put(service("iris", "s1", "own"))
		for id, held := range map[string][]string{"a": {"d0", "d1"}, "b": {"d2"}, "c": nil} {
			i := instance(id, "s1", 100+int32(id[0]-'a'))
			i.Spec.DeviceIds = held
			f.put(i)
		}
		is := func(health, action string) *fleetv1.Device {
			return &fleetv1.Device{Id: "d1", Health: health, Action: action}
		}
		f.want("no device is listed yet", 100, 101, 102)
		for _, c := range []struct {
			device *fleetv1.Device
			serves bool
		}{
			{is(fleetv1.Healthy, ""), true},
			{is(fleetv1.Unhealthy, fleetv1.ActionDrain), true},
			{is(fleetv1.Unhealthy, fleetv1.ActionEvict), false},
			{is(fleetv1.Healthy, fleetv1.ActionObserve), true},
			{is(fleetv1.Lost, fleetv1.ActionRebootNeeded), false},
			{is(fleetv1.Lost, ""), false},
			{is(fleetv1.Unresponsive, fleetv1.ActionDrain), true}, // nothing can be said against it
			{is(fleetv1.Unhealthy, fleetv1.ActionResetNeeded), false},
		} {
			f.editDevices("n1", &fleetv1.Device{Id: "d0", Health: fleetv1.Healthy}, c.device)
			if c.serves {
				f.want(c.device.String(), 100, 101, 102)
			} else {
				f.want(c.device.String(), 101, 102)
			}
		}
		f.put(instance("d", "s1", 103)) // another change of the service keeps it out
		f.want("another instance", 101, 102, 103)
		f.table.Refresh()
		f.want("rendered anew", 101, 102, 103)
	})
}
