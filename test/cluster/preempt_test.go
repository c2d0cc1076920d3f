package cluster

import (
	"strings"
	"testing"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
)

// A service of priority 90 has as many preemptible instances stopped as it needs, and no others; both sides are told.
func TestPreemption(t *testing.T) {
	f := startFleet(t, 1, "8xH100-80GB")
	kept := f.run("kept", "gpu.1", 2, nil)
	f.run("batch", "gpu.1", 6, func(v *fleetv1.ServiceVersion) { v.Preemptible, v.Priority = true, 10 })
	f.deploy("equal", "gpu.4", 1, func(v *fleetv1.ServiceVersion) { v.Priority = 10 })
	f.waiting("equal", "free devices")
	if told := f.events("InstancePreempted", fleetv1.KindService, "batch"); len(told) > 0 {
		t.Errorf("preempted for an equal: %v", told)
	}

	f.run("urgent", "gpu.4", 1, func(v *fleetv1.ServiceVersion) { v.Priority = 90 })
	f.told("InstancePreempted", fleetv1.KindService, "batch")
	if told := f.events("InstancePreempted", fleetv1.KindService, "batch"); len(told) != 4 || !strings.Contains(told[0], "urgent") || !strings.Contains(told[0], "90") {
		t.Errorf("the victims are told: %v", told)
	}
	if told := f.events("Preempting", fleetv1.KindService, "urgent"); len(told) != 1 || !strings.Contains(told[0], "4 instances") || !strings.Contains(told[0], "batch-") {
		t.Errorf("the preemptor is told: %v", told)
	}
	f.waiting("batch", "free devices")
	left := staying(f.WaitService("batch", "to keep two", func(r *fleetv1.WatchServiceResponse) bool { return len(r.Instances) == 2 }).Instances)
	if len(left) != 2 || !left[0].GetObserved().GetReady() || !left[1].GetObserved().GetReady() {
		t.Errorf("left of batch: %v", left)
	}
	for _, i := range f.running("kept") {
		if id := i.GetMeta().GetId(); id != kept[0].GetMeta().GetId() && id != kept[1].GetMeta().GetId() {
			t.Errorf("what is not preemptible was replaced: %v", i)
		}
	}
	f.remove("urgent") // in the line's order: equal is as urgent as batch, and waits longer
	f.running("equal")
}

// A preemptible gang goes as a whole.
func TestPreemptedGangGoesAsAWhole(t *testing.T) {
	f := startFleet(t, 2, "2xH100-80GB")
	f.run("train", "gpu.2", 1, func(v *fleetv1.ServiceVersion) { v.Nodes, v.Preemptible = 2, true })
	f.run("urgent", "gpu.2", 1, func(v *fleetv1.ServiceVersion) { v.Priority = 90 })
	f.told("InstancePreempted", fleetv1.KindService, "train")
	f.WaitService("train", "to be gone", func(r *fleetv1.WatchServiceResponse) bool { return len(r.Instances) == 0 })
	f.waiting("train", "1 of 2 members")
	if told := f.events("InstancePreempted", fleetv1.KindService, "train"); len(told) != 2 {
		t.Errorf("told %v", told)
	}
}
