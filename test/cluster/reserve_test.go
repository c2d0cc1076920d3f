package cluster

import (
	"fmt"
	"slices"
	"testing"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
)

// A request for eight devices isn't starved by small ones that come all the time: once it has waited, what becomes free
// is kept for it, which its status shows.
func TestReservation(t *testing.T) {
	f := startFleet(t, 1, "8xH100-80GB")
	var old []string
	for i := range 8 {
		old = append(old, fmt.Sprintf("old-%d", i))
		f.run(old[i], "gpu.1", 1, nil)
	}
	f.deploy("large", "gpu.8", 1, nil)
	f.waiting("large", "free devices")
	shown := f.WaitService("large", "to have a reservation", func(r *fleetv1.WatchServiceResponse) bool {
		return r.Service.GetStatus().GetVersions()[0].GetReservation() != nil
	}).Service.GetStatus().GetVersions()[0].GetReservation()
	if !slices.Equal(shown.GetNodes(), []string{f.Nodes[0].Name}) || shown.GetDetail() == "" || shown.GetSince() == nil {
		t.Errorf("reservation %v", shown)
	}
	for i, name := range old {
		f.deploy(fmt.Sprintf("new-%d", i), "gpu.1", 1, nil)
		f.remove(name)
	}
	large := f.running("large")
	if n := len(large[0].GetSpec().GetDeviceIds()); n != 8 {
		t.Errorf("large has %d devices", n)
	}
	for i := range old {
		if told := f.events("InstancePlaced", fleetv1.KindService, fmt.Sprintf("new-%d", i)); len(told) > 0 {
			t.Errorf("new-%d was placed before: %v", i, told)
		}
	}
	f.WaitService("large", "to have no reservation any more", func(r *fleetv1.WatchServiceResponse) bool {
		return r.Service.GetStatus().GetVersions()[0].GetReservation() == nil
	})
	f.remove("large")
	for i := range old {
		f.running(fmt.Sprintf("new-%d", i))
	}
}
