package main

import (
	"bytes"
	"fmt"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
)

// linkedNode has so many GPUs, each linked to all others, two slices on the first, and an NPU beside them.
func linkedNode(gpus int) []*fleetv1.DeviceInfo {
	var all []*fleetv1.DeviceInfo
	add := func(d *fleetv1.Device) {
		all = append(all, &fleetv1.DeviceInfo{Device: d, Node: "n1", State: fleetv1.DeviceFree})
	}
	for i := range gpus {
		d := &fleetv1.Device{Id: fmt.Sprintf("GPU-%d", i), Vendor: "nvidia", Model: "H100-80GB", Index: int32(i), Health: fleetv1.Healthy, NumaNode: proto.Int32(int32(i % 2))}
		for j := range gpus {
			switch {
			case j == i:
			case j/4 == i/4:
				d.Links = append(d.Links, &fleetv1.DeviceLink{Peer: fmt.Sprintf("GPU-%d", j), Kind: "nvlink", Count: 18})
			default:
				d.Links = append(d.Links, &fleetv1.DeviceLink{Peer: fmt.Sprintf("GPU-%d", j), Kind: "sys"})
			}
		}
		add(d)
	}
	for i := range 2 {
		add(&fleetv1.Device{Id: fmt.Sprintf("MIG-%d", i), Vendor: "nvidia", Model: "H100-80GB", Profile: "1g.10gb", Index: int32(i), ParentId: "GPU-0", Health: fleetv1.Healthy})
	}
	add(&fleetv1.Device{Id: "NPU-0", Vendor: "ascend", Model: "Ascend910B-64GB", Health: fleetv1.Healthy,
		Links: []*fleetv1.DeviceLink{{Peer: "NPU-gone", Kind: "ring", Count: 2}}})
	return all
}

func TestLinkMatrix(t *testing.T) {
	var out, errOut bytes.Buffer
	a := &app{out: &out, err: &errOut, getenv: func(string) string { return "" }}
	if err := a.drawLinks(linkedNode(5)); err != nil {
		t.Fatal(err)
	}
	const want = `n1 nvidia:
     0     1     2     3     4    NUMA  ID
  0  X     NV18  NV18  NV18  SYS  0     GPU-0
  1  NV18  X     NV18  NV18  SYS  1     GPU-1
  2  NV18  NV18  X     NV18  SYS  0     GPU-2
  3  NV18  NV18  NV18  X     SYS  1     GPU-3
  4  SYS   SYS   SYS   SYS   X    0     GPU-4

n1 ascend:
     0  NUMA  ID
  0  X  -     NPU-0

  NV18  18 × NVLink
  SYS   PCIe through the CPUs' interconnect
`
	if out.String() != want {
		t.Errorf("%s\nwant\n%s", out.String(), want)
	}
}

func TestLinkMatrixFitsTheTerminal(t *testing.T) {
	var out, errOut bytes.Buffer
	a := &app{out: &out, err: &errOut, terminal: true, getenv: func(string) string { return "1" }, size: func() (int, int, error) { return 60, 24, nil }}
	if err := a.drawLinks(linkedNode(16)); err != nil {
		t.Fatal(err)
	}
	heads := ""
	for line := range strings.Lines(out.String()) {
		if n := len([]rune(line)); n > 61 {
			t.Errorf("%d columns: %q", n, line)
		}
		if fields := strings.Fields(line); strings.HasPrefix(line, "      ") {
			heads += strings.Join(fields, " ") + "\n"
		}
	}
	if !strings.HasPrefix(heads, "0 1 2 3 4 5 6 7 8\n9 10 11 12 13 14 15 NUMA ID\n") {
		t.Errorf("blocks:\n%s", heads)
	}
}

func TestUnknownLinks(t *testing.T) {
	var out, errOut bytes.Buffer
	a := &app{out: &out, err: &errOut, getenv: func(string) string { return "" }}
	all := linkedNode(1)
	if err := a.drawLinks(all[len(all)-1:]); err != nil || errOut.String() != "no links known\n" {
		t.Errorf("%v, %q", err, errOut.String())
	}
	if name, means := linkName(&fleetv1.DeviceLink{Kind: "ring", Count: 2}); name != "RING2" || means != "2 × ring" {
		t.Errorf("a kind of a later version: %q, %q", name, means)
	}
}

func TestSlicesAreShownWithTheirDevice(t *testing.T) {
	all := linkedNode(2)
	all[3].State, all[3].InstanceName, all[3].Project = fleetv1.DeviceAllocated, "iris-11111110", "vision"
	all[3].Cordoned = true
	out, _ := drawn(t, nodeDeviceTable(all), 0)
	for _, want := range []string{
		"0      H100-80GB          -    0       -     Healthy  sliced              -                     GPU-0\n",
		"1      H100-80GB          -    0       -     Healthy  free                -                     GPU-1\n",
		"0:1    H100-80GB 1g.10gb  -    0       -     Healthy  allocated,cordoned  vision/iris-11111110  MIG-1\n",
	} {
		if !strings.Contains(out, want) {
			t.Errorf("%s\nhas no %s", out, want)
		}
	}
	if got := byID(all).slicesOf(all[0].GetDevice()); got != "MIG-0, MIG-1" {
		t.Errorf("slices %q", got)
	}
	if got := byID(linkedNode(6)).linkLines(linkedNode(6)[1].GetDevice()); strings.Join(got, "|") != "18 × nvlink to 0, 2, 3|sys to 4, 5" {
		t.Errorf("links %q", got)
	}
}

func TestDevicesOfANode(t *testing.T) {
	n := &fleetv1.Node{Spec: &fleetv1.NodeSpec{}, Facts: &fleetv1.NodeFacts{}, Status: &fleetv1.NodeStatus{AllocatedDevices: 1}}
	for _, d := range linkedNode(2) {
		n.Facts.Devices = append(n.Facts.Devices, d.GetDevice())
	}
	check := func(want, colour string) {
		t.Helper()
		if c := devicesCell(n); c.text != want || c.colour != colour {
			t.Errorf("%+v, want %q %q", c, want, colour)
		}
	}
	check("1/4", "") // GPU-0 is sliced
	n.Spec.DeviceCordons = []*fleetv1.DeviceCordon{{DeviceId: "GPU-1"}}
	check("1/4,1 cordoned", yellow)
	n.Facts.Devices[1].Health = fleetv1.Unresponsive
	n.Facts.DeviceShortfall = []string{"nvidia: 2 of 8"}
	check("1/4,1 cordoned,1 unhealthy,missing", red)
}

func TestStatesOfDevices(t *testing.T) {
	for _, tc := range []struct {
		health, action, state string
		cordoned              bool
		wantHealth, wantState cell
	}{
		{fleetv1.Healthy, "", fleetv1.DeviceFree, false, cell{text: "Healthy", colour: green}, cell{text: "free"}},
		{fleetv1.Healthy, fleetv1.ActionObserve, fleetv1.DeviceFree, true, cell{text: "Healthy,observe", colour: yellow}, cell{text: "free,cordoned", colour: yellow}},
		{fleetv1.Unhealthy, fleetv1.ActionDrain, fleetv1.DeviceQuarantined, true, cell{text: "Unhealthy,drain", colour: red, short: "Unhealthy"}, cell{text: "quarantined,cordoned", colour: red}},
		{fleetv1.Lost, fleetv1.ActionEvict, fleetv1.DeviceReclaiming, false, cell{text: "Lost,evict", colour: red, short: "Lost"}, cell{text: "reclaiming", colour: yellow}},
	} {
		d := &fleetv1.DeviceInfo{Device: &fleetv1.Device{Health: tc.health, Action: tc.action}, State: tc.state, Cordoned: tc.cordoned}
		if got := healthCell(d.GetDevice()); got != tc.wantHealth {
			t.Errorf("%+v, want %+v", got, tc.wantHealth)
		}
		if got := byID(nil).stateCell(d); got != tc.wantState {
			t.Errorf("%+v, want %+v", got, tc.wantState)
		}
	}
	all := linkedNode(6)
	all[1].Cordoned = true
	all[2].Device.Health = fleetv1.Lost
	all[3].Device.Action = fleetv1.ActionDrain
	all[4].Device.Action = fleetv1.ActionObserve
	all[5].State, all[5].Cordoned = fleetv1.DeviceAllocated, true
	all[0].Cordoned, all[7].State = true, fleetv1.DeviceQuarantined
	if n := unusable(all); n != 4 {
		t.Errorf("%d devices are given to nobody, want 4: a cordoned one, a lost one, a drained one, a quarantined slice", n)
	}
	for _, action := range []string{fleetv1.ActionObserve, fleetv1.ActionDrain, fleetv1.ActionEvict, fleetv1.ActionResetNeeded, fleetv1.ActionRebootNeeded} {
		if got := actionText(action); !strings.HasPrefix(got, action+": ") {
			t.Errorf("%q", got)
		}
	}
	if actionText("") != "" || actionText("pray") != "pray" {
		t.Error("an action that isn't known is shown as it is")
	}
}
