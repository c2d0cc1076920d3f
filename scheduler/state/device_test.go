package state

import (
	"bytes"
	"testing"

	"google.golang.org/protobuf/proto"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
)

func TestBarred(t *testing.T) {
	cordon := func(id, reason string) []*fleetv1.DeviceCordon {
		return []*fleetv1.DeviceCordon{{DeviceId: "other"}, {DeviceId: id, Reason: reason}}
	}
	for _, c := range []struct {
		name         string
		device       *fleetv1.Device
		cordons      []*fleetv1.DeviceCordon
		word, detail string
	}{
		{"well", &fleetv1.Device{}, nil, "", ""},
		{"others are cordoned", &fleetv1.Device{}, cordon("x", ""), "", ""},
		{"its slice is cordoned", &fleetv1.Device{Id: "p"}, cordon("d", ""), "", ""},
		{"cordoned", &fleetv1.Device{}, cordon("d", "new fan"), "cordoned", "new fan"},
		{"cordoned with its whole", &fleetv1.Device{ParentId: "p"}, cordon("p", "new fan"), "cordoned", "with p: new fan"},
		{"without a reason", &fleetv1.Device{ParentId: "p"}, cordon("p", ""), "cordoned", "with p"},
		{"its own first", &fleetv1.Device{ParentId: "p"}, append(cordon("p", "a"), &fleetv1.DeviceCordon{DeviceId: "d", Reason: "b"}), "cordoned", "b"},
		{"without a parent", &fleetv1.Device{}, cordon("", "nobody's"), "", ""},
		{"cordoned and failed", &fleetv1.Device{Health: fleetv1.Lost, Quarantined: true}, cordon("d", ""), "cordoned", ""},
		{"quarantined", &fleetv1.Device{Quarantined: true, Health: fleetv1.Unhealthy, Action: "drain", HealthReason: "quarantined: process 7 uses it"}, nil,
			"quarantined", "process 7 uses it"},
		{"observed", &fleetv1.Device{Action: "observe", HealthReason: "XID 32"}, nil, "", ""},
		{"to be drained, though it works", &fleetv1.Device{Action: "drain", HealthReason: "r"}, nil, "healthy (drain)", "r"},
		{"an action of a newer agent", &fleetv1.Device{Action: "hide"}, nil, "healthy (hide)", ""},
		{"unhealthy", &fleetv1.Device{Health: fleetv1.Unhealthy, Action: "reset-needed", HealthReason: "XID 48"}, nil, "unhealthy (reset-needed)", "XID 48"},
		{"lost", &fleetv1.Device{Health: fleetv1.Lost}, nil, "lost", ""},
		{"silent", &fleetv1.Device{Health: fleetv1.Unresponsive, Action: "drain"}, nil, "unresponsive (drain)", ""},
		{"says nothing", &fleetv1.Device{Id: "d", Vendor: "blank"}, nil, "of unknown health", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			if c.device.Id == "" {
				c.device.Id = "d"
			}
			if c.device.Health == "" && c.device.Vendor == "" {
				c.device.Health = fleetv1.Healthy
			}
			n := &fleetv1.Node{Spec: &fleetv1.NodeSpec{DeviceCordons: c.cordons}}
			if word, detail := Barred(n, c.device); word != c.word || detail != c.detail {
				t.Errorf("got %q, %q, want %q, %q", word, detail, c.word, c.detail)
			}
		})
	}
}

func TestFailedDevice(t *testing.T) {
	holder := testInstance("i", "a", "n", "d0", "d1")
	for _, c := range []struct {
		device *fleetv1.Device
		want   string
	}{
		{&fleetv1.Device{Id: "d1", Health: fleetv1.Healthy}, ""},
		{&fleetv1.Device{Id: "d1", Health: fleetv1.Unhealthy, Action: "drain"}, ""},
		{&fleetv1.Device{Id: "d1", Health: fleetv1.Unresponsive, Action: "drain"}, ""},
		{&fleetv1.Device{Id: "d1", Health: fleetv1.Unhealthy, Action: "evict"}, "device d1 is Unhealthy"},
		{&fleetv1.Device{Id: "d1", Health: fleetv1.Unhealthy, Action: "reset-needed", HealthReason: "XID 48"}, "device d1 is Unhealthy: XID 48"},
		{&fleetv1.Device{Id: "d1", Health: fleetv1.Lost, Action: "reboot-needed"}, "device d1 is Lost"},
		{&fleetv1.Device{Id: "d1", Health: fleetv1.Lost}, "device d1 is Lost"},
		{&fleetv1.Device{Id: "d2", Health: fleetv1.Lost}, ""}, // another's
		{&fleetv1.Device{Id: "d1", Health: fleetv1.Unhealthy, Action: "drain", Quarantined: true}, ""},
	} {
		n := &fleetv1.Node{Facts: &fleetv1.NodeFacts{Devices: []*fleetv1.Device{{Id: "d0", Health: fleetv1.Healthy}, c.device}}}
		if got := FailedDevice(n, holder); got != c.want {
			t.Errorf("%v: got %q, want %q", c.device, got, c.want)
		}
	}
	if got := FailedDevice(nil, holder); got != "" {
		t.Errorf("of a node that is gone: %q", got)
	}
}

// A plan that was made before a device was closed is refused when it arrives after that.
func TestPlanChecksDevices(t *testing.T) {
	f := newFixture(t)
	change := func(edit func(*fleetv1.Node)) {
		t.Helper()
		n := proto.CloneOf(f.View().Node("n1"))
		edit(n)
		f.must(writeCommand(1, Put(n.GetMeta().GetRevision(), n)))
	}
	cordon := func(id string) {
		change(func(n *fleetv1.Node) {
			n.Spec = &fleetv1.NodeSpec{DeviceCordons: []*fleetv1.DeviceCordon{{DeviceId: id, Reason: "new fan"}}}
		})
	}
	cordon("d0")
	f.refused(planCommand("a", testInstance("x", "a", "n1", "d0")), RejectUnfit, "device d0 of node n1 is cordoned: new fan")
	f.refused(planCommand("a", testInstance("x", "a", "n1", "d1", "d0")), RejectUnfit, "device d0")
	f.must(planCommand("a", testInstance("i1", "a", "n1", "d1"))) // another device of the node
	f.must(planCommand("a", testInstance("i2", "a", "n2", "d0"))) // the device of that name on another node
	cordon("whole")
	f.refused(planCommand("a", testInstance("x", "a", "n1", "d2")), RejectUnfit, "device d2 of node n1 is cordoned: with whole: new fan")
	cordon("d1") // held: who has it stays, and may be written
	held := proto.CloneOf(f.View().Instance("i1"))
	held.Desired.Restart = 1
	f.must(writeCommand(1, Put(held.GetMeta().GetRevision(), held)))
	cordon("gone") // is kept, though the node has no such device
	f.must(planCommand("a", testInstance("i3", "a", "n1", "d2")))
	change(func(n *fleetv1.Node) {
		n.Facts.Devices[0].Quarantined, n.Facts.Devices[0].HealthReason = true, "quarantined: process 7 uses it"
	})
	f.refused(planCommand("a", testInstance("x", "a", "n1", "d0")), RejectUnfit, "is quarantined: process 7 uses it")
	change(func(n *fleetv1.Node) {
		n.Facts.Devices[0].Quarantined, n.Facts.Devices[0].Action = false, fleetv1.ActionDrain
	})
	f.refused(planCommand("a", testInstance("x", "a", "n1", "d0")), RejectUnfit, "healthy (drain)")
	change(func(n *fleetv1.Node) { n.Facts.Devices[0].Action = fleetv1.ActionObserve })
	f.must(planCommand("a", testInstance("i4", "a", "n1", "d0")))

	// A snapshot has the cordons.
	restored := New()
	if err := restored.Restore(bytes.NewReader(snapshotOf(t, f.Store))); err != nil {
		t.Fatal(err)
	}
	if got := restored.View().Node("n1").GetSpec().GetDeviceCordons(); len(got) != 1 || got[0].GetDeviceId() != "gone" {
		t.Errorf("restored cordons %v", got)
	}
}

// An instance whose container is gone holds its devices until they were found free.
func TestReclaimingHolds(t *testing.T) {
	f := newFixture(t)
	f.must(planCommand("a", testInstance("i1", "a", "n1", "d0")))
	observe := func(sequence uint64, state string) {
		f.must(reportCommand("n1", &fleetv1.InstanceReport{InstanceId: "i1", Observed: &fleetv1.InstanceObserved{Sequence: sequence, Attempt: 1, State: state}}))
	}
	observe(1, fleetv1.InstanceReclaiming)
	f.refused(planCommand("b", testInstance("x", "b", "n1", "d0")), RejectInUse, "held by instance a-i1")
	if a := f.View().Allocated("n1"); a.Devices != 1 || a.CPUMillis != 1000 {
		t.Errorf("allocated %+v", a)
	}
	observe(2, fleetv1.InstanceReaped)
	f.must(planCommand("b", testInstance("i2", "b", "n1", "d0")))
	checkAllocation(t, f.View())
}
