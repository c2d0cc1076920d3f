package main

import (
	"fmt"
	"math"
	"strings"

	"github.com/spf13/cobra"

	fleetv1 "github.com/drover-fleet/drover/proto/fleet/v1"
)

func (a *app) deviceCommand() *cobra.Command {
	return a.noun("device", "Show accelerators", a.deviceList(), a.deviceShow(), a.deviceDrain())
}

func (a *app) deviceList() *cobra.Command {
	req := &fleetv1.ListDevicesRequest{}
	cmd := &cobra.Command{
		Use: "list", Short: "List the accelerators of all nodes",
		Example: "  drover device list\n  drover device list --node dev-1 --free",
		Args:    exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			cl, err := a.client()
			if err != nil {
				return err
			}
			resp, err := read(cmd.Context(), a, cl.Devices.ListDevices, req)
			if err != nil {
				return err
			}
			t := &table{head: []string{"ID", "NODE", "VENDOR", "MODEL", "INDEX", "USE", "MEMORY", "TEMP", "HEALTH", "STATE", "INSTANCE"}}
			for _, d := range resp.GetDevices() {
				v := d.GetDevice()
				t.add(text("%s", v.GetId()), text("%s", d.GetNode()), text("%s", v.GetVendor()), text("%s", v.GetModel()), text("%d", v.GetIndex()),

					text("%s", useText(d.GetSample())), text("%s", memoryText(d)), text("%s", heatText(d.GetSample())), stateCell(v.GetHealth()), text("%s", d.GetState()), text("%s", d.GetInstanceName()))
			}
			return a.print(resp, func() error { return a.drawTable(t, "no devices") })
		},
	}
	cmd.Flags().StringVar(&req.Node, "node", "", "only devices of this `node`")
	cmd.Flags().BoolVar(&req.Free, "free", false, "only devices that no instance holds")
	must(cmd.RegisterFlagCompletionFunc("node", a.values(nodeNames)))
	return a.printing(a.online(cmd))
}

func (a *app) deviceShow() *cobra.Command {
	cmd := &cobra.Command{
		Use: "show ID", Short: "Show one accelerator",
		Example:           "  drover device show fake-dev-1-0",
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
			d := resp.GetDevice()
			return a.print(d, func() error {
				v := d.GetDevice()
				var p pairs
				p.addf("ID", "%s", v.GetId())
				p.addf("Node", "%s", d.GetNode())
				p.addf("Model", "%s %s", v.GetVendor(), v.GetModel())
				p.addf("Index", "%d", v.GetIndex())
				p.addf("Utilisation", "%s", useText(d.GetSample()))
				p.addf("Memory", "%s", memoryText(d))
				p.addf("Temperature", "%s", heatText(d.GetSample()))
				if w := d.GetSample(); w != nil && w.PowerWatts != nil {
					p.addf("Power", "%.0f W", w.GetPowerWatts())
				}
				p.add("Health", stateCell(v.GetHealth()))
				if v.GetHealthReason() != "" {
					p.addf("Reason", "%s", v.GetHealthReason())
				}
				p.addf("PCI address", "%s", v.GetPciAddress())
				if v.NumaNode != nil {
					p.addf("NUMA node", "%d", v.GetNumaNode())
				}
				if v.GetParentId() != "" {
					p.addf("Slice", "%s of %s", v.GetProfile(), v.GetParentId())
				}
				if v.GetDriverVersion() != "" {
					p.addf("Driver", "%s", v.GetDriverVersion())
				}
				for _, l := range v.GetLinks() {
					p.addf("Link", "%s", linkText(l))
				}
				p.addf("State", "%s", d.GetState())
				p.addf("Instance", "%s", d.GetInstanceName())
				if err := a.addDeviceDrain(cmd.Context(), cl, &p, d); err != nil {
					return err
				}
				return p.draw(a.out, a.colour())
			})
		},
	}
	return a.printing(a.online(cmd))
}

// useText draws a device's utilisation; nothing when it isn't known.
func useText(s *fleetv1.DeviceSample) string {
	if s == nil || s.Utilisation == nil {
		return ""
	}
	const width = 10
	use := max(0, min(s.GetUtilisation(), 1))
	full := int(math.Round(use * width))
	return fmt.Sprintf("[%s%s] %3.0f%%", strings.Repeat("#", full), strings.Repeat(".", width-full), 100*use)
}

// memoryText is "12.0 GiB/80.0 GiB", or the size alone.
func memoryText(d *fleetv1.DeviceInfo) string {
	size := bytesText(d.GetDevice().GetMemoryBytes())
	if d.GetSample() == nil || d.GetSample().MemoryUsedBytes == nil {
		return size
	}
	return bytesText(d.GetSample().GetMemoryUsedBytes()) + "/" + size
}

func heatText(s *fleetv1.DeviceSample) string {
	if s == nil || s.TemperatureCelsius == nil {
		return ""
	}
	return fmt.Sprintf("%.0f °C", s.GetTemperatureCelsius())
}

func linkText(l *fleetv1.DeviceLink) string {
	if l.GetCount() > 1 {
		return fmt.Sprintf("%d × %s to %s", l.GetCount(), l.GetKind(), l.GetPeer())
	}
	return fmt.Sprintf("%s to %s", l.GetKind(), l.GetPeer())
}
