package main

import (
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
)

func (a *app) deviceShow() *cobra.Command {
	cmd := &cobra.Command{
		Use: "show ID", Short: "Show one accelerator",
		Example:           "  drover device show fake-dev-1-h100-80gb-0",
		Args:              exactly("ID"),
		ValidArgsFunction: a.names(deviceNames),
		RunE: func(cmd *cobra.Command, args []string) error {
			cl, err := a.client()
			if err != nil {
				return err
			}
			resp, err := read(cmd.Context(), a, cl.Devices.GetDevice, &fleetv1.GetDeviceRequest{Id: args[0]})
			if err != nil {
				return err
			}
			return a.print(resp.GetDevice(), func() error {
				node, err := read(cmd.Context(), a, cl.Devices.ListDevices, &fleetv1.ListDevicesRequest{Node: resp.GetDevice().GetNode()})
				if err != nil {
					return err
				}
				var drain pairs
				if err := a.addDeviceDrain(cmd.Context(), cl, &drain, resp.GetDevice()); err != nil {
					return err
				}
				return a.drawDevice(resp.GetDevice(), byID(node.GetDevices()), drain)
			})
		},
	}
	return a.reading(a.online(cmd))
}

// drawDevice shows a device; of are those of its node. What isn't known has no line.
func (a *app) drawDevice(d *fleetv1.DeviceInfo, of family, drain pairs) error {
	v, s := d.GetDevice(), d.GetSample()
	var p pairs
	known := func(name, value string) {
		if value != "" {
			p.addf(name, "%s", value)
		}
	}
	p.addf("ID", "%s", v.GetId())
	p.addf("Node", "%s", d.GetNode())
	p.addf("Index", "%s", of.index(v))
	p.addf("Model", "%s %s", v.GetVendor(), modelText(v))
	if v.GetParentId() != "" {
		p.addf("Slice of", "%s", v.GetParentId())
	}
	known("Slices", of.slicesOf(v))
	p.add("State", of.stateCell(d))
	known("Holder", holderText(d))
	if d.GetCordoned() {
		p.add("Cordoned", cell{text: strings.TrimSuffix("yes, "+oneLine(d.GetCordonReason()), ", "), colour: yellow})
	}
	p.names, p.values = append(p.names, drain.names...), append(p.values, drain.values...)
	p.add("Health", stateCell(v.GetHealth()))
	known("Asks for", actionText(v.GetAction()))
	known("Reason", oneLine(v.GetHealthReason()))
	known("Utilisation", useCell(s).text)
	p.add("Memory", memoryCell(v, s))
	known("Temperature", heatCell(s).text)
	if s != nil && s.PowerWatts != nil {
		p.addf("Power", "%.0f W", s.GetPowerWatts())
	}
	known("Processes", processText(s))
	known("Measured", a.when(s.GetTime()))
	known("PCI address", v.GetPciAddress())
	if v.NumaNode != nil {
		p.addf("NUMA node", "%d", v.GetNumaNode())
	}
	known("CPUs", v.GetCpuAffinity())
	if v.Minor != nil {
		p.addf("Device file", "number %d", v.GetMinor())
	}
	known("Driver", v.GetDriverVersion())
	known("Runtime", v.GetRuntimeVersion())
	known("Capability", v.GetComputeCapability())
	for i, line := range of.linkLines(v) {
		p.addf(map[bool]string{true: "Links"}[i == 0], "%s", line)
	}
	return a.drawPairs(p)
}

// actionText says what an action means, in the words of docs/device-health.md.
func actionText(action string) string {
	means := map[string]string{
		fleetv1.ActionObserve:      "it is used; the sign was told",
		fleetv1.ActionDrain:        "nothing new is placed on it",
		fleetv1.ActionEvict:        "who holds it leaves it",
		fleetv1.ActionResetNeeded:  "who holds it leaves it, and it is to be reset",
		fleetv1.ActionRebootNeeded: "who holds it leaves it, and the node is to be rebooted",
	}[action]
	if means != "" {
		means = ": " + means
	}
	return action + means
}

// processText lists what uses a device, by host PID.
func processText(s *fleetv1.DeviceSample) string {
	var parts []string
	for _, p := range s.GetProcesses() {
		part := fmt.Sprint(p.GetPid())
		if p.MemoryBytes != nil {
			part += " (" + bytesText(p.GetMemoryBytes()) + ")"
		}
		parts = append(parts, part)
	}
	return strings.Join(parts, ", ")
}

func (f family) slicesOf(v *fleetv1.Device) string {
	var ids []string
	for id, d := range f.device {
		if d.GetParentId() == v.GetId() {
			ids = append(ids, id)
		}
	}
	slices.Sort(ids)
	return strings.Join(ids, ", ")
}

// linkLines tells a device's links: "18 × nvlink to 1–7", peers by index.
func (f family) linkLines(v *fleetv1.Device) []string {
	type link struct {
		kind  string
		count int32
	}
	peers := make(map[link][]int)
	var order []link
	for _, l := range v.GetLinks() {
		p := f.device[l.GetPeer()]
		if p == nil {
			continue
		}
		k := link{l.GetKind(), l.GetCount()}
		if peers[k] == nil {
			order = append(order, k)
		}
		peers[k] = append(peers[k], int(p.GetIndex()))
	}
	slices.SortFunc(order, func(x, y link) int { return kindRank(x.kind) - kindRank(y.kind) })
	var lines []string
	for _, k := range order {
		slices.Sort(peers[k])
		what := k.kind
		if k.count > 1 {
			what = fmt.Sprintf("%d × %s", k.count, k.kind)
		}
		lines = append(lines, what+" to "+ranges(peers[k]))
	}
	return lines
}
